"""Each refusal of what operators and users do with accounts, on real SQLite."""

from __future__ import annotations

import pytest

from services.auth.domain.accounts import Accounts
from services.auth.domain.profile_rules import ProfileChange, changed
from services.auth.domain.refusals import Conflict, Forbidden, Invalid, Missing, Taken, TooMany
from services.auth.domain.user_ports import Profile
from tests.auth.test_accounts import PASSWORD, Clock
from tests.auth.test_users import FORGOTTEN, Racing, accounts, clock, store

__all__ = ["accounts", "clock", "store"]  # fixtures

ANN = ProfileChange(display_name="Ann")


async def registered(accounts: Accounts, name: str = "ann") -> str:
    return (await accounts.registration.register(name, PASSWORD, "")).user.id


async def test_a_user_is_created_with_a_profile_or_without(accounts: Accounts) -> None:
    ann = await accounts.users.create("ann", PASSWORD, ANN)
    assert (ann.username, ann.profile.display_name, ann.profile.version) == ("ann", "Ann", 1)
    bob = await accounts.users.create("bob", PASSWORD, ProfileChange())
    assert bob.profile == Profile()
    assert await accounts.users.by_name("BOB") == bob
    with pytest.raises(Taken):
        await accounts.users.create("Ann", PASSWORD, ProfileChange())


async def test_nothing_is_created_where_the_profile_or_the_password_is_refused(accounts: Accounts) -> None:
    for password, change in ((PASSWORD, ProfileChange(display_name="a" * 65)), ("short", ANN)):
        with pytest.raises(Invalid):
            await accounts.users.create("ann", password, change)
    with pytest.raises(Missing):
        await accounts.users.by_name("ann")
    assert await accounts.users.page("", 10) == ([], "")


async def test_a_user_of_another_login_server_is_created_once(accounts: Accounts, store: Racing) -> None:
    assert (await accounts.users.create_foreign("urn:ann", ANN)).profile.display_name == "Ann"
    assert (await accounts.users.create_foreign("urn:bob", ProfileChange())).profile == Profile()
    for user in ("urn:ann", "urn:bob", await registered(accounts)):
        for change in (ANN, ProfileChange()):
            with pytest.raises(Taken, match="exists"):
                await accounts.users.create_foreign(user, change)

    async def lost_race(*_: object) -> bool:
        return False

    store.users.put_profile = lost_race  # type: ignore[assignment,method-assign]
    with pytest.raises(Taken, match="exists"):
        await accounts.users.create_foreign("urn:eve", ANN)


async def test_the_id_of_a_deleted_user_is_free_once_its_tokens_are_over(accounts: Accounts, clock: Clock) -> None:
    ann = await registered(accounts)
    await accounts.users.delete(ann)
    for create in (False, True):
        with pytest.raises(Missing):
            await accounts.users.update(ann, ANN, create=create)
    with pytest.raises(Missing):
        await accounts.users.disable(ann)
    with pytest.raises(Taken, match="deleted"):
        await accounts.users.create_foreign(ann, ANN)
    clock.now += 3_601
    assert (await accounts.users.create_foreign(ann, ANN)).id == ann


@pytest.mark.parametrize("limit", [-1, 0, 1_001])
async def test_a_page_has_one_to_a_thousand_users(accounts: Accounts, limit: int) -> None:
    with pytest.raises(Invalid, match="limit"):
        await accounts.users.page("", limit)


async def test_a_profile_is_changed_only_in_the_version_that_was_read(accounts: Accounts) -> None:
    ann = await registered(accounts)
    assert (await accounts.users.update(ann, ANN, if_version=0)).profile.version == 1
    with pytest.raises(Conflict, match="version 1"):
        await accounts.users.update(ann, ProfileChange(status="away"), if_version=0)
    assert (await accounts.users.update(ann, ProfileChange(status="away"), if_version=1)).profile.version == 2
    with pytest.raises(Missing):
        await accounts.users.update("nobody", ANN)
    assert (await accounts.users.update("urn:bob", ANN, create=True)).id == "urn:bob"


@pytest.mark.parametrize(
    "change",
    [
        ProfileChange(status="a" * 141),
        ProfileChange(status="two\nlines"),
        ProfileChange(avatar_url="http://example.com/a.png"),
        ProfileChange(avatar_url="https://example.com:65536/a.png"),
        ProfileChange(avatar_url="https://example.com/" + "a" * 2_048),
        ProfileChange(custom=b'{"a":'),
        ProfileChange(custom=b'"' + b"a" * 2_048 + b'"'),
    ],
)
def test_what_a_profile_may_not_have_is_refused(change: ProfileChange) -> None:
    with pytest.raises(Invalid):
        changed(Profile(), change)


def test_parts_of_a_profile_can_be_emptied_again() -> None:
    full = ProfileChange(avatar_url="https://example.com:65535/a.png", custom=b'{"a":1}', status="away")
    profile = changed(Profile(), full)
    assert (profile.avatar_url, profile.custom, profile.status) == (full.avatar_url, full.custom, full.status)
    emptied = changed(profile, ProfileChange(avatar_url="", custom=b"null", status=""))
    assert (emptied.avatar_url, emptied.custom, emptied.status, emptied.version) == ("", b"", "", 2)
    assert changed(profile, ProfileChange(custom=b"")).custom == b""


async def test_an_operator_sets_a_password_and_all_sessions_end(accounts: Accounts, store: Racing) -> None:
    first = await accounts.registration.register("ann", PASSWORD, "")
    user = first.user.id
    with pytest.raises(Invalid):
        await accounts.users.set_password(user, "short")
    assert await accounts.users.set_password(user, FORGOTTEN) == [first.session]
    assert await accounts.own.sessions(user) == []
    assert (await accounts.sessions.login("ann", FORGOTTEN, "")).user.id == user
    await accounts.users.create_foreign("urn:bob", ANN)
    for nobody in ("nobody", "urn:bob"):
        with pytest.raises(Missing):
            await accounts.users.set_password(nobody, FORGOTTEN)

    async def lost_race(*_: object) -> bool:
        return False

    store.users.set_password = lost_race  # type: ignore[assignment,method-assign]
    with pytest.raises(Conflict):
        await accounts.users.set_password(user, PASSWORD)
    with pytest.raises(Conflict):
        await accounts.own.change_password(user, "", FORGOTTEN, PASSWORD)


async def test_a_user_changes_the_password_and_keeps_this_session(accounts: Accounts) -> None:
    first = await accounts.registration.register("ann", PASSWORD, "")
    user = first.user.id
    second = await accounts.sessions.login("ann", PASSWORD, "")
    with pytest.raises(Missing):
        await accounts.own.change_password("nobody", "", PASSWORD, FORGOTTEN)
    with pytest.raises(Invalid):
        await accounts.own.change_password(user, second.session, PASSWORD, "short")
    with pytest.raises(Forbidden):
        await accounts.own.change_password(user, second.session, "wrong password", FORGOTTEN)
    assert await accounts.own.change_password(user, second.session, PASSWORD, FORGOTTEN) == [first.session]
    assert [one.family for one in await accounts.own.sessions(user)] == [second.session]


async def test_a_user_ends_one_session_of_the_own_ones(accounts: Accounts) -> None:
    first = await accounts.registration.register("ann", PASSWORD, "")
    other = await accounts.registration.register("bob", PASSWORD, "")
    for session in (other.session, "unknown"):
        with pytest.raises(Missing):
            await accounts.own.end_session(first.user.id, session)
    assert await accounts.own.end_session(first.user.id, first.session) == [first.session]
    assert [one.family for one in await accounts.own.sessions(other.user.id)] == [other.session]


async def test_a_user_who_is_not_to_be_found_is_as_one_who_does_not_exist(accounts: Accounts) -> None:
    asker = await registered(accounts, "asker")
    ids = {name: await registered(accounts, name) for name in ("shown", "hidden", "disabled", "deleted")}
    await accounts.users.update(ids["hidden"], ProfileChange(hidden=True))
    await accounts.users.disable(ids["disabled"])
    await accounts.users.delete(ids["deleted"])
    assert (await accounts.own.find(asker, "SHOWN")).id == ids["shown"]
    words = set()
    for name in ("hidden", "disabled", "deleted", "nobody"):
        with pytest.raises(Missing) as caught:
            await accounts.own.find(asker, name)
        words.add(str(caught.value))
    assert len(words) == 1
    for _ in range(25):
        await accounts.own.find(asker, "shown")
    with pytest.raises(TooMany):
        await accounts.own.find(asker, "shown")
    assert (await accounts.own.find(ids["shown"], "shown")).id == ids["shown"], "others may go on"


@pytest.mark.parametrize(
    "asked",
    [
        {"ttl_s": 10 * 366 * 86_400},
        {"channel": "a", "channels": ["b"]},
        {"channel": "a", "caps": [{"channels": ["a"], "allow": ["publish"]}]},
    ],
)
async def test_a_token_that_would_mean_two_things_is_not_made(accounts: Accounts, asked: dict[str, object]) -> None:
    with pytest.raises(Invalid):
        accounts.tokens.mint("ann", **{"channel": "", "ttl_s": 60, "info": None, "channels": [], **asked})  # type: ignore[arg-type]
