"""What operators and users do with accounts, on real SQLite and real Redis."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import unicodedata
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.auth.adapters.redis_limits import RedisLimits
from services.auth.adapters.sqlite_accounts import SqliteAccounts
from services.auth.domain import sessions as sessions_module
from services.auth.domain.accounts import Accounts
from services.auth.domain.passwords import Passwords
from services.auth.domain.ports import User
from services.auth.domain.profile_rules import ProfileChange, changed
from services.auth.domain.refusals import Conflict, Denied, Forbidden, Invalid, Missing, Taken, TooMany
from services.auth.domain.tokens import load_signer
from services.auth.domain.user_ports import Profile, SessionRecord
from services.edge.domain.access import revocations
from services.shared.errors import Unavailable
from services.shared.redis.pipeline import RedisPipeline
from services.shared.user_digest import digest_of
from tests.auth.test_accounts import PASSWORD, POLICY, Clock

FORGOTTEN = "another horse battery"


class Racing(SqliteAccounts):
    """A real store in which something happens while a login is checked."""

    meanwhile: str = ""

    async def find_user(self, username: str) -> User | None:
        found = await super().find_user(username)
        if found is not None and self.meanwhile == "password":
            assert await self.users.set_password(found.id, "$argon2id$another", found.password_hash)
        elif found is not None and self.meanwhile == "disable":
            await self.users.disable(found.id, 1.0)
        elif found is not None and self.meanwhile == "delete":
            await self.users.delete(found.id, 1.0, 2.0)
        return found


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Racing]:
    made = Racing(tmp_path / "auth.sqlite3")
    yield made
    await made.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def accounts(store: Racing, redis_pipeline: RedisPipeline, clock: Clock) -> AsyncIterator[Accounts]:
    passwords = Passwords(memory_kib=8, time_cost=1, threads=1)
    signer = await load_signer(store, "EdDSA")
    yield Accounts(store, RedisLimits(redis_pipeline), passwords, signer, POLICY, clock)
    passwords.close()


@pytest.mark.parametrize(("meanwhile", "refusal"), [("password", Denied), ("disable", Forbidden), ("delete", Denied)])
async def test_a_login_that_overlaps_with_the_end_of_what_it_showed_gives_no_session(
    accounts: Accounts, store: Racing, meanwhile: str, refusal: type[Exception]
) -> None:
    first = await accounts.registration.register("ann", PASSWORD, "")
    user = first.user
    assert await accounts.own.end_sessions(user.id) == [first.session]
    store.meanwhile = meanwhile
    with pytest.raises(refusal):
        await accounts.sessions.login("ann", PASSWORD, "")
    assert await accounts.own.sessions(user.id) == []


async def test_a_disabled_user_is_told_only_after_the_right_password(accounts: Accounts) -> None:
    pair = await accounts.registration.register("ann", PASSWORD, "")
    assert await accounts.users.disable(pair.user.id) == [pair.session]
    assert await accounts.users.disable(pair.user.id) == [pair.session], "whoever got no answer asks again"
    with pytest.raises(Forbidden, match="disabled"):
        await accounts.sessions.login("ann", PASSWORD, "")
    words = set()
    for name in ("ann", "nobody"):
        with pytest.raises(Denied) as caught:
            await accounts.sessions.login(name, "wrong password", "")
        words.add(str(caught.value))
    assert len(words) == 1
    with pytest.raises(Denied):
        await accounts.sessions.refresh(pair.refresh_token)
    await accounts.users.enable(pair.user.id)
    assert await accounts.sessions.login("ann", PASSWORD, "")


async def test_edges_are_told_of_every_change_and_of_nothing_else(accounts: Accounts) -> None:
    user = (await accounts.registration.register("ann", PASSWORD, "")).user
    told = []
    for act in (accounts.users.enable, accounts.users.disable, accounts.users.disable, accounts.users.enable):
        accounts.changed.clear()
        await act(user.id)
        told.append(accounts.changed.is_set())
    assert told == [False, True, False, True]
    accounts.changed.clear()
    await accounts.users.delete(user.id)
    assert accounts.changed.is_set()
    acts: tuple[Callable[[str], Awaitable[object]], ...] = (
        *(accounts.users.enable, accounts.users.disable, accounts.users.delete, accounts.users.get),
    )
    for again in acts:
        with pytest.raises(Missing):
            await again(user.id)


async def test_others_see_hidden_users_by_id_but_neither_disabled_nor_deleted_ones(accounts: Accounts) -> None:
    ids = [(await accounts.registration.register(f"user{n}", PASSWORD, "")).user.id for n in range(4)]
    await accounts.users.update(ids[0], ProfileChange(hidden=True))
    await accounts.users.disable(ids[1])
    await accounts.users.delete(ids[2])
    asked = [*ids, "nobody", ids[0]]
    assert {user.id for user in await accounts.users.visible(asked)} == {ids[0], ids[3]}
    await accounts.users.enable(ids[1])
    assert {user.id for user in await accounts.users.visible(asked)} == {ids[0], ids[1], ids[3]}
    assert await accounts.users.visible([]) == []
    with pytest.raises(Invalid, match="100"):
        await accounts.users.visible([str(n) for n in range(101)])


async def test_there_is_a_bound_on_disabled_users(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.auth.domain.users.MAX_DISABLED", 1)
    ann, bob = [(await accounts.registration.register(name, PASSWORD, "")).user.id for name in ("ann", "bob")]
    await accounts.users.disable(ann)
    with pytest.raises(Invalid, match="disabled"):
        await accounts.users.disable(bob)
    await accounts.users.enable(ann)
    await accounts.users.disable(bob)


async def test_a_profile_that_others_change_all_the_time_is_given_up(accounts: Accounts, store: Racing) -> None:
    user = (await accounts.registration.register("ann", PASSWORD, "")).user

    async def lose(*_: object) -> bool:
        return False

    store.users.put_profile = lose  # type: ignore[assignment,method-assign]
    with pytest.raises(Conflict):
        await accounts.users.update(user.id, ProfileChange(status="here"))


async def test_a_change_that_changes_nothing_is_no_version(accounts: Accounts) -> None:
    user = (await accounts.registration.register("ann", PASSWORD, "")).user
    first = await accounts.users.update(user.id, ProfileChange(status="here", custom=b' {"a": 1} '))
    assert (first.profile.version, first.profile.custom) == (1, b'{"a": 1}')
    assert await accounts.users.update(user.id, ProfileChange(status=" here ")) == first


@given(text=st.text(max_size=80))
def test_a_display_name_is_one_line_of_at_most_64_characters_or_refused(text: str) -> None:
    try:
        found = changed(Profile(), ProfileChange(display_name=text)).display_name
    except Invalid:
        assert len(text.strip()) > 64 or any(
            unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in "\u200c\u200d" for c in text
        )
    else:
        assert found == text.strip()
        assert len(found) <= 64
        assert len(found.splitlines()) <= 1


@given(user=st.text(min_size=1))
def test_edges_and_auth_have_the_same_digest_of_every_id(user: str) -> None:
    # also those of before: stores and lists have it
    assert digest_of(user) == hashlib.sha256(user.encode("utf-8", "surrogatepass")).digest()[:16]
    known = revocations.Revocations()
    known.set_disabled([digest_of(user)])
    assert known.is_disabled(user)
    assert not known.is_disabled(user + "x")
    assert not known.is_disabled("")


async def test_a_file_of_before_goes_on_and_the_auth_of_before_goes_on_with_it(tmp_path: Path) -> None:
    path = tmp_path / "auth.sqlite3"
    with sqlite3.connect(path) as before:
        before.execute(
            "CREATE TABLE users (id TEXT PRIMARY KEY, username TEXT NOT NULL COLLATE NOCASE UNIQUE,"
            " password_hash TEXT NOT NULL)"
        )
        before.execute("INSERT INTO users VALUES (?, ?, ?)", ("u1", "ann", "hash"))
    before.close()
    store = SqliteAccounts(path)
    found = await store.users.get("u1")
    assert found is not None
    assert (found.username, found.created_at, found.profile) == ("ann", 0.0, Profile())
    assert await store.users.put_profile("u1", replace(Profile(), status="here", version=1), 5.0)
    with sqlite3.connect(path) as beside:  # as the auth of before writes
        beside.execute("INSERT INTO users VALUES (?, ?, ?)", ("u2", "bob", "hash"))
        row = (b"digest", "u2", "family", 100.0)
        beside.execute(
            "INSERT OR IGNORE INTO refresh_tokens (digest, user_id, family, expires_at, revoked)"
            " VALUES (?1, ?2, ?3, ?4, EXISTS (SELECT 1 FROM refresh_tokens WHERE family = ?3 AND revoked))",
            row,
        )
    beside.close()
    assert [user.id for user in (await store.users.page("", 10))[0]] == ["u1", "u2"]
    (session,) = await store.users.sessions("u2", 1.0)
    assert (session.family, session.begun_at, session.expires_at) == ("family", 0.0, 100.0)
    assert await store.users.end_sessions("u2", ["family"], 10.0) == ["family"]
    await store.close()


async def test_users_that_edges_see_are_added_only_where_that_is_wanted(
    accounts: Accounts, store: Racing, redis_pipeline: RedisPipeline
) -> None:
    seen = {"ann": " Ann ", "bob": "x" * 65, "cat": "two\nlines", "dan": ""}
    await accounts.users.add_seen(seen)
    assert await store.users.get_many(list(seen)) == {}
    passwords = Passwords(memory_kib=8, time_cost=1, threads=1)
    policy = replace(POLICY, insert_unknown_users=True)
    wanting = Accounts(
        store, RedisLimits(redis_pipeline), passwords, await load_signer(store, "EdDSA"), policy, Clock()
    )
    await wanting.users.add_seen(seen)
    found = await store.users.get_many(list(seen))
    assert {user: record.profile for user, record in found.items()} == {
        "ann": Profile("Ann"),
        **dict.fromkeys(("bob", "cat", "dan"), Profile()),
    }
    passwords.close()


async def test_what_ended_lately_is_returned_again_while_its_access_tokens_may_be_good(
    accounts: Accounts, clock: Clock
) -> None:
    first = await accounts.registration.register("ann", PASSWORD, "")
    second = await accounts.sessions.login("ann", PASSWORD, "")
    both = sorted([first.session, second.session])
    assert sorted(await accounts.users.set_password(first.user.id, FORGOTTEN)) == both
    assert sorted(await accounts.users.set_password(first.user.id, FORGOTTEN)) == both
    third = await accounts.sessions.login("ann", FORGOTTEN, "")
    assert sorted(await accounts.own.end_sessions(first.user.id, except_session=third.session)) == both
    clock.now += POLICY.access_ttl_s + 1
    assert await accounts.users.set_password(first.user.id, FORGOTTEN) == [third.session]


async def test_it_is_no_repeat_where_no_session_has_ended_although_the_new_password_is_right(
    accounts: Accounts,
) -> None:
    mine = await accounts.registration.register("ann", PASSWORD, "")
    with pytest.raises(Forbidden):
        await accounts.own.change_password(mine.user.id, mine.session, "a third horse battery", PASSWORD)


async def test_a_change_of_the_password_may_be_repeated_and_a_guess_is_counted(accounts: Accounts) -> None:
    mine = await accounts.registration.register("ann", PASSWORD, "")
    other = await accounts.sessions.login("ann", PASSWORD, "")
    user = mine.user.id
    for _ in range(2):  # the first response was lost
        assert await accounts.own.change_password(user, mine.session, PASSWORD, FORGOTTEN) == [other.session]
    assert await accounts.sessions.login("ann", FORGOTTEN, "")
    with pytest.raises(Forbidden):
        await accounts.own.change_password(user, mine.session, PASSWORD, "a third horse battery")
    refusals: list[type[BaseException]] = []
    for number in range(POLICY.logins_per_account):
        with pytest.raises((Forbidden, TooMany)) as refused:
            await accounts.own.change_password(user, mine.session, PASSWORD, f"guess of a battery {number}")
        refusals.append(refused.type)
    assert refusals == [Forbidden, Forbidden, TooMany], "each request is one attempt"


@pytest.mark.parametrize("at_once", [False, True])
async def test_of_too_many_sessions_those_that_were_used_longest_ago_end(
    store: Racing, redis_pipeline: RedisPipeline, clock: Clock, at_once: bool
) -> None:
    passwords = Passwords(memory_kib=8, time_cost=1, threads=1)
    policy = replace(POLICY, sessions_per_user=4, logins_per_account=100)
    accounts = Accounts(store, RedisLimits(redis_pipeline), passwords, await load_signer(store, "EdDSA"), policy, clock)
    begun = [await accounts.registration.register("ann", PASSWORD, "")]
    user = begun[0].user.id
    for _ in range(3):
        clock.now += 1
        begun.append(await accounts.sessions.login("ann", PASSWORD, ""))
    clock.now += 1
    await accounts.sessions.refresh(begun[0].refresh_token)  # so the second is the oldest
    clock.now += 1
    if at_once:
        made = await asyncio.gather(*(accounts.sessions.login("ann", PASSWORD, "") for _ in range(8)))
        clock.now += 1
        made.append(await accounts.sessions.login("ann", PASSWORD, ""))  # ends what those have left
    else:
        made = [await accounts.sessions.login("ann", PASSWORD, "")]
        assert made[0].ended == (begun[1].session,)
        with pytest.raises(Denied):
            await accounts.sessions.refresh(begun[1].refresh_token)
    left = {one.family for one in await accounts.own.sessions(user)}
    ended = {session for pair in made for session in pair.ended}
    assert not left & ended
    assert left | ended == {pair.session for pair in (*begun, *made)}
    assert len(left) == 4
    stranger = await accounts.registration.register("bob", PASSWORD, "")
    assert stranger.ended == ()
    assert await store.users.ended(user, clock.now) == sorted(ended), "a repeat has their tokens revoked again"
    passwords.close()


@pytest.mark.parametrize("most", [1, 2, 3])
async def test_logins_at_the_same_time_do_not_end_one_another(
    store: Racing, redis_pipeline: RedisPipeline, clock: Clock, most: int
) -> None:
    passwords = Passwords(memory_kib=8, time_cost=1, threads=1)
    policy = replace(POLICY, sessions_per_user=most, logins_per_account=100)
    accounts = Accounts(store, RedisLimits(redis_pipeline), passwords, await load_signer(store, "EdDSA"), policy, clock)
    user = (await accounts.registration.register("ann", PASSWORD, "")).user.id
    for _ in range(5):
        clock.now += 1
        await asyncio.gather(*(accounts.sessions.login("ann", PASSWORD, "") for _ in range(most + 2)))
        assert len(await accounts.own.sessions(user)) >= most
    clock.now += 1
    await accounts.sessions.login("ann", PASSWORD, "")
    assert len(await accounts.own.sessions(user)) == most
    passwords.close()


@pytest.mark.parametrize("failure", ["hangs", "fails"])
async def test_a_login_goes_on_where_the_sessions_cannot_be_listed(
    accounts: Accounts, store: Racing, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    await accounts.registration.register("ann", PASSWORD, "")

    async def sessions(user_id: str, now: float) -> list[SessionRecord]:
        if failure == "hangs":
            await asyncio.Event().wait()
        raise Unavailable("no store")

    monkeypatch.setattr(store.users, "sessions", sessions)
    assert sessions_module._LIST_S <= 0.5  # noqa: SLF001  # edges wait for 2.8 s for all of a login
    async with asyncio.timeout(30):
        assert (await accounts.sessions.login("ann", PASSWORD, "")).ended == ()


async def test_sessions_from_before_the_limit_end_a_few_at_each_login(
    store: Racing, redis_pipeline: RedisPipeline, clock: Clock
) -> None:
    passwords = Passwords(memory_kib=8, time_cost=1, threads=1)
    signer, limits = await load_signer(store, "EdDSA"), RedisLimits(redis_pipeline)
    policies = [replace(POLICY, sessions_per_user=most, logins_per_account=100) for most in (0, 3)]
    before, after = (Accounts(store, limits, passwords, signer, policy, clock) for policy in policies)
    pair = await before.registration.register("ann", PASSWORD, "")
    for _ in range(24):
        clock.now += 1
        assert (await before.sessions.login("ann", PASSWORD, "")).ended == ()
    counts = []
    for _ in range(4):
        clock.now += 1
        await after.sessions.login("ann", PASSWORD, "")
        counts.append(len(await after.own.sessions(pair.user.id)))
    assert counts == [16, 7, 3, 3]
    passwords.close()


async def test_a_ban_holds_for_a_user_whom_nobody_knows_yet(accounts: Accounts) -> None:
    assert await accounts.users.disable("urn:elsewhere:1") == []
    assert (await accounts.users.get("urn:elsewhere:1")).disabled_at
    await accounts.users.enable("urn:elsewhere:1")
    assert not (await accounts.users.get("urn:elsewhere:1")).disabled_at


async def test_nobody_is_made_with_the_id_of_a_deleted_user_while_it_is_refused(
    accounts: Accounts, clock: Clock
) -> None:
    await accounts.users.create_foreign("urn:1", ProfileChange())
    await accounts.users.delete("urn:1")
    for change in (ProfileChange(), ProfileChange(status="here")):
        with pytest.raises(Taken, match="deleted"):
            await accounts.users.create_foreign("urn:1", change)
        with pytest.raises(Missing):
            await accounts.users.update("urn:1", change, create=True)
    for act in (accounts.users.disable, accounts.users.enable, accounts.users.get):
        with pytest.raises(Missing):
            await act("urn:1")
    clock.now += POLICY.refresh_ttl_s + 1
    assert (await accounts.users.create_foreign("urn:1", ProfileChange())).id == "urn:1"


async def test_deletions_leave_room_for_bans(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.auth.domain.users.MAX_DISABLED", 3)
    monkeypatch.setattr("services.auth.domain.users._FOR_BANS", 2)
    for user in ("a", "b"):
        await accounts.users.create_foreign(user, ProfileChange())
    await accounts.users.delete("a")
    with pytest.raises(Invalid):
        await accounts.users.delete("b")
    await accounts.users.disable("b")
    await accounts.users.disable("c")


async def test_a_page_has_as_many_users_as_fit_into_a_message(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.auth.domain.users.MAX_PAGE_BYTES", 10_000)
    ids = [f"u{number:02}" for number in range(20)]
    for user in ids:
        await accounts.users.create_foreign(user, ProfileChange(custom=b'"' + b"x" * 2_000 + b'"'))
    found: list[str] = []
    after, sizes = "", []
    while after or not found:
        users, after = await accounts.users.page(after, 1_000)
        found += [user.id for user in users]
        sizes.append(len(users))
    assert found == ids
    assert max(sizes) <= 4


async def test_a_user_changes_the_own_profile_only_so_often(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.auth.domain.own_account.MAX_CHANGES", 2)
    for _ in range(2):
        await accounts.own.limit_changes("ann")
    with pytest.raises(TooMany):
        await accounts.own.limit_changes("ann")
    await accounts.own.limit_changes("bob")


@pytest.mark.parametrize(
    "hidden", ["a\u202egnp.exe", "a\u200bb", "\u2066a", "a\ufeffb", "a\u00adb", "\U000e0041", "a\U0001bca0"]
)
def test_a_display_name_has_no_character_that_nobody_sees(hidden: str) -> None:
    for change in (ProfileChange(display_name=hidden), ProfileChange(status=hidden)):
        with pytest.raises(Invalid, match="invisible"):
            changed(Profile(), change)


@pytest.mark.parametrize("name", ["👩\u200d🚀", "❤\ufe0f", "क\u094d\u200cष", "Zoë"])
def test_a_display_name_may_be_of_any_script_and_of_emoji(name: str) -> None:
    assert changed(Profile(), ProfileChange(display_name=name)).display_name == name


@pytest.mark.parametrize("end", ['/"onerror=alert(1)//', "/a'b", "/<b>", "/a\\b", "/`", ":65536/", ":0/", ":123456/"])
def test_an_avatar_is_no_markup_and_no_port_that_there_is_not(end: str) -> None:
    with pytest.raises(Invalid, match="avatar_url"):
        changed(Profile(), ProfileChange(avatar_url=f"https://img.example{end}"))


@pytest.mark.parametrize("end", ["", ":65535/a.png", ":8443?x=1#y", "/a-b_c~d/(e)[f]!$&*+,;=:@%20|{}^"])
def test_an_avatar_may_be_any_other_https_address(end: str) -> None:
    url = f"https://img.example{end}"
    assert changed(Profile(), ProfileChange(avatar_url=url)).avatar_url == url
