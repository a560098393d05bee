"""Who may make an account, and with which password."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from services.auth.adapters.redis_limits import RedisLimits
from services.auth.adapters.sqlite_accounts import SqliteAccounts
from services.auth.config import AuthConfig
from services.auth.domain.accounts import Accounts
from services.auth.domain.invites import MAX_INVITES, MAX_TTL_S, TTL_S, id_of
from services.auth.domain.password_rules import LEAST_LENGTH, common_passwords
from services.auth.domain.passwords import Passwords
from services.auth.domain.policy import Policy, RegistrationMode
from services.auth.domain.refusals import Forbidden, Invalid, Missing, Taken, TooMany
from services.auth.domain.tokens import load_signer
from services.shared.process.config import ConfigError
from services.shared.redis.pipeline import RedisPipeline
from tests.auth.test_accounts import PASSWORD, POLICY, Clock


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteAccounts]:
    made = SqliteAccounts(tmp_path / "auth.sqlite3")
    yield made
    await made.close()


@pytest.fixture
async def passwords() -> AsyncIterator[Passwords]:
    made = Passwords(memory_kib=8, time_cost=1, threads=1)
    yield made
    made.close()


async def accounts_of(store: SqliteAccounts, redis: RedisPipeline, passwords: Passwords, policy: Policy) -> Accounts:
    return Accounts(store, RedisLimits(redis), passwords, await load_signer(store, "EdDSA"), policy, Clock())


@pytest.fixture
async def accounts(store: SqliteAccounts, redis_pipeline: RedisPipeline, passwords: Passwords) -> Accounts:
    return await accounts_of(store, redis_pipeline, passwords, POLICY)


async def test_the_id_of_a_new_user_is_no_option_of_a_command(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ["-zcC", "zcC-"]
    monkeypatch.setattr(secrets, "token_urlsafe", lambda _: made.pop(0))
    assert (await accounts.registration.create("ann", PASSWORD)).id == "zcC-"


async def test_a_closed_registration_says_so_and_nothing_about_the_name(
    store: SqliteAccounts, redis_pipeline: RedisPipeline, passwords: Passwords, accounts: Accounts
) -> None:
    await accounts.registration.register("ann", PASSWORD, "")
    closed = await accounts_of(store, redis_pipeline, passwords, replace(POLICY, registration=RegistrationMode.CLOSED))
    words = set()
    for name, password in (("ann", PASSWORD), ("bob", PASSWORD), ("?", "short")):
        with pytest.raises(Forbidden) as caught:
            await closed.registration.register(name, password, "192.0.2.1")
        words.add(str(caught.value))
    assert words == {"registration is closed (AUTH_REGISTRATION)"}
    assert await store.find_user("bob") is None
    assert await closed.sessions.login("ann", PASSWORD, ""), "who has an account signs in as before"


def test_registration_is_closed_unless_it_is_opened_and_a_word_that_is_none_ends_the_start() -> None:
    assert AuthConfig().registration == "closed"
    with pytest.raises(ConfigError, match="AUTH_REGISTRATION must be open, invite, closed, not 'Open'"):
        AuthConfig(registration="Open")


@pytest.mark.parametrize(
    "password", ["password1", "PassWord1", "12345678", "qwertyuiop", "pass\uff37ord1", "1qaz2wsx", "IloveYou1"]
)
async def test_a_common_password_is_refused_in_any_case_and_any_width(accounts: Accounts, password: str) -> None:
    with pytest.raises(Invalid, match="most common"):
        await accounts.registration.register("ann", password, "")


async def test_the_username_is_no_password(accounts: Accounts) -> None:
    with pytest.raises(Invalid, match="username"):
        await accounts.registration.register("ann-of-here", "Ann-Of-Here", "")
    assert await accounts.registration.register("ann-of-here", "ann-of-here-and-there", "")


@pytest.mark.parametrize("password", ["purple otter 9", "ünüsüäl", "\u0130stanbul-\u00df"])
async def test_a_password_is_as_good_as_it_is_long(accounts: Accounts, password: str) -> None:
    """The least length is in characters; what folds to several characters is no fault."""
    if len(password) < LEAST_LENGTH:
        with pytest.raises(Invalid, match="at least 8 characters"):
            await accounts.registration.register("ann", password, "")
        password += "!"
    await accounts.registration.register("ann", password, "")
    assert await accounts.sessions.login("ann", password, "")


async def test_the_least_length_is_a_setting_and_is_for_new_passwords_alone(
    store: SqliteAccounts, redis_pipeline: RedisPipeline, passwords: Passwords, accounts: Accounts
) -> None:
    await accounts.registration.register("ann", "elf chars.", "")
    stricter = await accounts_of(store, redis_pipeline, passwords, replace(POLICY, password_min_length=12))
    with pytest.raises(Invalid, match="at least 12 characters"):
        await stricter.registration.register("bob", "elf chars..", "")
    assert await stricter.sessions.login("ann", "elf chars.", "")


def test_the_list_has_what_is_long_enough_to_be_asked_for() -> None:
    assert len(common_passwords()) > 11_000
    assert min(map(len, common_passwords())) >= LEAST_LENGTH


@pytest.fixture
async def invited(store: SqliteAccounts, redis_pipeline: RedisPipeline, passwords: Passwords) -> Accounts:
    policy = replace(POLICY, registration=RegistrationMode.INVITE, attempts_per_address=8)
    return await accounts_of(store, redis_pipeline, passwords, policy)


async def test_an_invite_is_good_for_one_account_and_every_other_code_gets_one_text(
    store: SqliteAccounts, accounts: Accounts, invited: Accounts, redis_pipeline: RedisPipeline, passwords: Passwords
) -> None:
    await accounts.registration.register("taken", PASSWORD, "")
    invite, code = await invited.invites.create(0, "for Ann")
    _, old = await invited.invites.create(60, "")
    assert (invite.note, invite.expires_at - invite.created_at) == ("for Ann", TTL_S)
    with pytest.raises(Taken):
        await invited.registration.register("taken", PASSWORD, "", invite=code)
    with pytest.raises(Invalid):
        await invited.registration.register("ann", "short", "", invite=code)
    pair = await invited.registration.register("ann", PASSWORD, "", invite=code)
    assert (await store.user_by_id(pair.user.id)) == pair.user
    clock = Clock()
    clock.now += 60
    policy = replace(POLICY, registration=RegistrationMode.INVITE)
    later = Accounts(store, RedisLimits(redis_pipeline), passwords, await load_signer(store, "EdDSA"), policy, clock)
    words, hashed = set(), REGISTRY.get_sample_value("thalamus_auth_hash_seconds_count")
    for wrong in ("", "thi_unknown", code, code.upper(), old, "\ud800", "x" * 64):
        for name in ("bob", "taken"):
            with pytest.raises(Forbidden) as caught:
                await later.registration.register(name, PASSWORD, "", invite=wrong)
            words.add(str(caught.value))
    assert words == {"registration needs an invite that is good"}
    assert REGISTRY.get_sample_value("thalamus_auth_hash_seconds_count") == hashed, "strangers have no password hashed"
    assert await store.find_user("bob") is None


async def test_an_invite_is_ignored_where_registration_is_open_and_worth_nothing_where_it_is_closed(
    store: SqliteAccounts, accounts: Accounts, redis_pipeline: RedisPipeline, passwords: Passwords
) -> None:
    invite, code = await accounts.invites.create(60, "")
    await accounts.registration.register("ann", PASSWORD, "", invite=code)
    await accounts.registration.register("bob", PASSWORD, "", invite="thi_unknown")
    closed = await accounts_of(store, redis_pipeline, passwords, replace(POLICY, registration=RegistrationMode.CLOSED))
    with pytest.raises(Forbidden, match="registration is closed"):
        await closed.registration.register("cat", PASSWORD, "", invite=code)
    assert await accounts.invites.all() == [invite]


async def test_guesses_of_an_invite_are_limited_as_registrations_are(invited: Accounts) -> None:
    _, code = await invited.invites.create(60, "")
    for _ in range(8):
        with pytest.raises(Forbidden):
            await invited.registration.register("ann", PASSWORD, "192.0.2.9", invite="thi_unknown")
    with pytest.raises(TooMany):
        await invited.registration.register("ann", PASSWORD, "192.0.2.9", invite=code)
    assert await invited.registration.register("ann", PASSWORD, "192.0.2.10", invite=code)


def all_bytes(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


async def test_the_file_has_no_code_and_an_id_tells_nothing_of_it(
    store: SqliteAccounts, invited: Accounts, tmp_path: Path
) -> None:
    invite, code = await invited.invites.create(60, "a note to find")
    await store.close()
    kept = all_bytes(tmp_path)
    assert b"a note to find" in kept
    assert code.encode() not in kept
    assert code.removeprefix("thi_").encode() not in kept
    assert len(code) >= 32
    assert id_of(invite) not in code


async def test_invites_are_bounded_in_number_time_and_note(invited: Accounts) -> None:
    for ttl_s, note in ((MAX_TTL_S + 1, ""), (-1, ""), (60, "x" * 101), (60, "a\nb")):
        with pytest.raises(Invalid, match=r"ttl_s|note"):
            await invited.invites.create(ttl_s, note)
    invite, _ = await invited.invites.create(MAX_TTL_S, "x" * 100)
    for _ in range(MAX_INVITES - 1):
        await invited.invites.create(60, "")
    with pytest.raises(Invalid, match="1,000"):
        await invited.invites.create(60, "")
    await invited.invites.revoke(id_of(invite))
    for unknown in (id_of(invite), "", "nothing"):
        with pytest.raises(Missing):
            await invited.invites.revoke(unknown)
    await invited.invites.create(60, "")
