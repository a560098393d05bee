"""What accounts refuse, and what it costs.

Names, passwords, tokens that are minted, API keys; a store that is away.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest

from services.auth.adapters.redis_limits import RedisLimits
from services.auth.adapters.sqlite_accounts import SqliteAccounts
from services.auth.domain import passwords as hashing
from services.auth.domain.accounts import Accounts
from services.auth.domain.passwords import Passwords
from services.auth.domain.ports import User
from services.auth.domain.refusals import Denied, Invalid, TooMany
from services.auth.domain.tokens import load_signer
from services.shared.errors import Busy, Unavailable
from services.shared.redis.pipeline import RedisPipeline
from tests.auth.test_accounts import PASSWORD, POLICY, Auth, Clock


class Away(SqliteAccounts):
    """A real store that can be away, or have lost its users."""

    is_away = False
    has_lost_users = False

    async def find_user(self, username: str) -> User | None:
        if self.is_away:
            raise Unavailable("by the test")
        return await super().find_user(username)

    async def user_by_id(self, user_id: str) -> User | None:
        return None if self.has_lost_users else await super().user_by_id(user_id)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Away]:
    made = Away(tmp_path / "auth.sqlite3")
    yield made
    await made.close()


@pytest.fixture
async def auth(store: Away, redis_pipeline: RedisPipeline) -> AsyncIterator[Auth]:
    passwords, clock = Passwords(memory_kib=8, time_cost=1, threads=1), Clock()
    signer = await load_signer(store, "EdDSA")
    accounts = Accounts(store, RedisLimits(redis_pipeline), passwords, signer, POLICY, clock)
    yield Auth(store, accounts, passwords, clock)
    passwords.close()


def claims_of(token: str) -> dict[str, Any]:
    found: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return found


@pytest.mark.parametrize("name", ["", "an", "a" * 65, "ann bob", "ann@home", "änn", "ann\n", "ann/bob"])
async def test_a_name_that_is_not_allowed_is_refused_and_leaves_nothing(auth: Auth, name: str) -> None:
    with pytest.raises(Invalid, match="username"):
        await auth.accounts.registration.register(name, PASSWORD, "")
    assert await auth.store.find_user(name) is None


@pytest.mark.parametrize("name", ["ann", "a" * 64, "A.b-c_9"])
async def test_names_at_the_bounds_are_allowed(auth: Auth, name: str) -> None:
    assert (await auth.accounts.registration.register(name, PASSWORD, "")).user.username == name


@pytest.mark.parametrize("password", ["", "1234567", "äöüäöüä"])
async def test_a_short_password_is_refused_by_its_characters(auth: Auth, password: str) -> None:
    with pytest.raises(Invalid, match="password"):
        await auth.accounts.registration.register("ann", password, "")
    assert await auth.store.find_user("ann") is None
    assert await auth.accounts.registration.register("ann", "äöüäöüäö", "")


async def test_refused_names_do_not_count_as_attempts(auth: Auth) -> None:
    for _ in range(POLICY.attempts_per_address + 1):
        with pytest.raises(Invalid):
            await auth.accounts.registration.register("a", PASSWORD, "192.0.2.1")
    await auth.accounts.registration.register("ann", PASSWORD, "192.0.2.1")


async def test_a_login_that_could_not_be_checked_is_no_failed_one(auth: Auth, store: Away) -> None:
    await auth.accounts.registration.register("ann", PASSWORD, "")
    store.is_away = True
    for _ in range(2 * POLICY.logins_per_account):
        with pytest.raises(Unavailable):
            await auth.accounts.sessions.login("ann", PASSWORD, "")
    store.is_away = False
    assert await auth.accounts.sessions.login("ann", PASSWORD, "")
    for _ in range(POLICY.logins_per_account):
        with pytest.raises(Denied):
            await auth.accounts.sessions.login("ann", "wrong password", "")
    with pytest.raises(TooMany):
        await auth.accounts.sessions.login("ann", PASSWORD, "")


async def test_passwords_beyond_those_that_may_wait_are_busy_and_the_others_are_checked(
    auth: Auth, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashing, "_MAX_WAITING", 2)
    hashed = await auth.passwords.hash(PASSWORD)
    found = await asyncio.gather(*(auth.passwords.matches(PASSWORD, hashed) for _ in range(3)), return_exceptions=True)
    assert found[:2] == [True, True]
    assert isinstance(found[2], Busy)
    assert await auth.passwords.matches(PASSWORD, hashed), "the places of those that ended are free again"


@pytest.mark.parametrize("damaged", ["", "no hash", "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$"])
async def test_a_damaged_hash_matches_nothing(auth: Auth, damaged: str) -> None:
    assert not await auth.passwords.matches(PASSWORD, damaged)


async def test_the_session_of_a_user_that_is_gone_is_denied(auth: Auth, store: Away) -> None:
    pair = await auth.accounts.registration.register("ann", PASSWORD, "")
    store.has_lost_users = True
    with pytest.raises(Denied) as denied:
        await auth.accounts.sessions.refresh(pair.refresh_token)
    assert denied.value.ended is None


async def test_a_minted_token_has_what_was_asked_for_and_nothing_else(auth: Auth) -> None:
    now = int(auth.clock.now)
    bare = auth.accounts.tokens.mint("", channel="", ttl_s=0, info=None, channels=[])
    assert claims_of(bare) == {"iat": now}
    connection = auth.accounts.tokens.mint("ann", channel="", ttl_s=60, info={"name": "Ann"}, channels=["a", "b"])
    assert claims_of(connection) == {
        "iat": now,
        "exp": now + 60,
        "sub": "ann",
        "info": {"name": "Ann"},
        "channels": ["a", "b"],
    }
    subscription = auth.accounts.tokens.mint("ann", channel="room", ttl_s=60, info=None, channels=[])
    assert claims_of(subscription) == {"iat": now, "exp": now + 60, "sub": "ann", "channel": "room"}


async def test_a_token_that_means_nothing_is_not_minted(auth: Auth) -> None:
    with pytest.raises(Invalid, match="one channel"):
        auth.accounts.tokens.mint("ann", channel="room", ttl_s=60, info=None, channels=["other"])
    with pytest.raises(Invalid, match="ttl_s"):
        auth.accounts.tokens.mint("ann", channel="", ttl_s=10**10, info=None, channels=[])


@pytest.mark.parametrize(
    ("issuer", "audience", "expected"),
    [("", "", {}), ("them", "", {"iss": "them"}), ("", "us", {"aud": "us"}), ("me", "us", {"iss": "me", "aud": "us"})],
)
async def test_all_tokens_carry_the_configured_issuer_and_audience(
    store: Away, redis_pipeline: RedisPipeline, issuer: str, audience: str, expected: dict[str, str]
) -> None:
    passwords, clock = Passwords(memory_kib=8, time_cost=1, threads=1), Clock()
    signer = await load_signer(store, "EdDSA")
    policy = replace(POLICY, issuer=issuer, audience=audience)
    accounts = Accounts(store, RedisLimits(redis_pipeline), passwords, signer, policy, clock)
    session = (await accounts.registration.register("ann", PASSWORD, "")).access_token
    for token in (session, accounts.tokens.mint("ann", channel="", ttl_s=60, info=None, channels=[])):
        found = claims_of(token)
        assert {name: found[name] for name in ("iss", "aud") if name in found} == expected
    passwords.close()


@pytest.mark.parametrize("name", ["", "n" * 65])
async def test_a_key_without_a_name_or_with_a_long_one_is_not_made(auth: Auth, name: str) -> None:
    with pytest.raises(Invalid, match="name"):
        await auth.accounts.create_api_key(name)
    assert await auth.accounts.api_keys() == []


@pytest.mark.parametrize("expires_at", [-1.0, 1.0, 253_402_300_800.0, 1e308])
async def test_a_key_whose_expiry_is_past_or_very_far_is_not_made(auth: Auth, expires_at: float) -> None:
    with pytest.raises(Invalid, match="expires_at is past, or after the year 9999"):
        await auth.accounts.create_api_key("backend", expires_at=expires_at)
    assert await auth.accounts.api_keys() == []


async def test_the_last_use_of_a_key_is_written_once_a_minute_at_most(auth: Auth, store: Away) -> None:
    row, _ = await auth.accounts.create_api_key("backend")
    now = auth.clock.now
    for at, written in ((now - 100, now - 100), (now - 60, now - 100), (now - 40, now - 40), (now - 50, now - 40)):
        await auth.accounts.note_api_key_uses({row.id: at, "unknown": at})
        assert [key.last_used_at for key in await store.api_keys()] == [written]
    auth.clock.now += 100
    await auth.accounts.note_api_key_uses({row.id: now + 10_000})  # the clock of the edge is ahead
    assert [key.last_used_at for key in await store.api_keys()] == [now + 100]


async def test_whoever_watches_keys_is_told_of_what_changed_and_of_nothing_else(auth: Auth) -> None:
    row, _ = await auth.accounts.create_api_key("n" * 64)
    assert auth.accounts.changed.is_set()
    auth.accounts.changed.clear()
    assert not await auth.accounts.revoke_api_key("unknown")
    assert not auth.accounts.changed.is_set()
    assert await auth.accounts.revoke_api_key(row.id)
    assert auth.accounts.changed.is_set()
    assert await auth.accounts.api_keys() == []


async def test_a_key_pair_is_made_once_for_each_algorithm(store: Away) -> None:
    first = await load_signer(store, "EdDSA")
    again = await load_signer(store, "EdDSA")
    assert again.jwks == first.jwks
    other = await load_signer(store, "RS256")
    assert len(json.loads(other.jwks)["keys"]) == 2
