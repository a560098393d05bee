"""Rules of accounts on a real SQLite file and a real Redis.

The service over real gRPC.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from services.auth.adapters.redis_limits import RedisLimits
from services.auth.adapters.sqlite_accounts import SqliteAccounts
from services.auth.domain.accounts import Accounts
from services.auth.domain.passwords import Passwords
from services.auth.domain.policy import Policy, RegistrationMode
from services.auth.domain.refusals import Denied, Invalid, Taken, TooMany
from services.auth.domain.sessions import Pair
from services.auth.domain.tokens import load_signer
from services.edge.domain.access.keyring import KeyRing
from services.edge.domain.access.tokens import TokenVerifier
from services.shared.redis.pipeline import RedisPipeline
from tests.support.redis import RedisServer

PASSWORD = "correct horse battery"
POLICY = Policy(
    access_ttl_s=600,
    refresh_ttl_s=3_600,
    issuer="",
    audience="",
    logins_per_account=3,
    attempts_per_address=20,
    limit_window_s=60,
    registration=RegistrationMode.OPEN,
)


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


class Auth:
    """The rules with all that they need."""

    def __init__(self, store: SqliteAccounts, accounts: Accounts, passwords: Passwords, clock: Clock) -> None:
        self.store, self.accounts, self.passwords, self.clock = store, accounts, passwords, clock


@pytest.fixture
async def auth(tmp_path: Path, redis_pipeline: RedisPipeline) -> AsyncIterator[Auth]:
    store = SqliteAccounts(tmp_path / "auth.sqlite3")
    passwords = Passwords(memory_kib=19_456, time_cost=2, threads=2)
    clock = Clock()
    signer = await load_signer(store, "EdDSA")
    accounts = Accounts(store, RedisLimits(redis_pipeline), passwords, signer, POLICY, clock)
    yield Auth(store, accounts, passwords, clock)
    passwords.close()
    await store.close()


def verifier(jwks: bytes) -> TokenVerifier:
    keys = KeyRing()
    keys.set_jwks(jwks)
    return TokenVerifier(keys)


async def test_registering_signs_in_with_a_token_that_edges_believe(auth: Auth) -> None:
    pair = await auth.accounts.registration.register("Ann", PASSWORD, "192.0.2.1")
    claims = verifier(auth.accounts.tokens.signer.jwks).connection(pair.access_token, auth.clock.now)
    assert (claims.user, claims.info) == (pair.user.id, b'{"name":"Ann"}')
    assert claims.expires_at == int(auth.clock.now) + 600
    with pytest.raises(Taken):
        await auth.accounts.registration.register("ANN", PASSWORD, "192.0.2.1")


def hashes() -> float:
    """How many passwords were hashed or checked in this process."""
    return REGISTRY.get_sample_value("thalamus_auth_hash_seconds_count") or 0.0


async def test_B17_an_unknown_user_costs_the_same_work_and_gets_the_same_words(auth: Auth) -> None:
    await auth.accounts.registration.register("ann", PASSWORD, "")
    words = set()
    for name in ("ann", "nobody"):
        before = hashes()
        with pytest.raises(Denied) as caught:
            await auth.accounts.sessions.login(name, "wrong password", "")
        words.add(str(caught.value))
        assert hashes() == before + 1
    assert len(words) == 1
    assert (await auth.accounts.sessions.login("ANN", PASSWORD, "")).user.username == "ann"


async def test_B18_a_password_over_1024_bytes_is_refused_before_it_is_hashed(auth: Auth) -> None:
    before = hashes()
    for attempt in (auth.accounts.registration.register, auth.accounts.sessions.login):
        with pytest.raises(Invalid):
            await attempt("ann", "é" * 513, "")
    assert hashes() == before


async def test_B18_failed_logins_are_limited_per_account_and_attempts_per_address(auth: Auth) -> None:
    await auth.accounts.registration.register("ann", PASSWORD, "")
    for _ in range(3):
        with pytest.raises(Denied):
            await auth.accounts.sessions.login("ann", "wrong password", "")
    with pytest.raises(TooMany) as caught:
        await auth.accounts.sessions.login("Ann", PASSWORD, "")
    assert 1 <= caught.value.retry_after_s <= 60
    outcomes = []
    for number in range(22):
        try:
            await auth.accounts.sessions.login(f"user{number}", "wrong password", "192.0.2.9")
        except (Denied, TooMany) as error:
            outcomes.append(type(error))
    assert outcomes == [Denied] * 20 + [TooMany] * 2


async def test_limits_hold_in_this_process_while_redis_is_away(own_redis: RedisServer) -> None:
    client = RedisPipeline(own_redis.url)
    limits = RedisLimits(client)
    own_redis.kill()
    assert [await limits.count("a", 60) for _ in range(3)] == [1, 2, 3]
    count, left_s = await limits.current("a")
    assert count == 3
    assert 0 < left_s <= 60
    await limits.uncount("a", 60)
    assert await limits.count("a", 60) == 3
    await client.aclose()


async def test_B16_a_used_refresh_token_ends_its_whole_session_and_no_other(auth: Auth) -> None:
    first = await auth.accounts.registration.register("ann", PASSWORD, "")
    other = await auth.accounts.sessions.login("ann", PASSWORD, "")
    second = await auth.accounts.sessions.refresh(first.refresh_token)
    with pytest.raises(Denied):
        await auth.accounts.sessions.refresh(first.refresh_token)
    with pytest.raises(Denied):
        await auth.accounts.sessions.refresh(second.refresh_token)
    assert await auth.accounts.sessions.refresh(other.refresh_token)


async def test_two_uses_at_once_of_one_refresh_token_are_one(auth: Auth) -> None:
    pair = await auth.accounts.registration.register("ann", PASSWORD, "")
    outcomes = await asyncio.gather(
        *(auth.accounts.sessions.refresh(pair.refresh_token) for _ in range(5)), return_exceptions=True
    )
    assert len({outcome.refresh_token for outcome in outcomes if isinstance(outcome, Pair)}) == 1
    with pytest.raises(Denied):
        await auth.accounts.sessions.refresh(pair.refresh_token)


async def test_an_expired_or_unknown_refresh_token_is_denied(auth: Auth) -> None:
    pair = await auth.accounts.registration.register("ann", PASSWORD, "")
    auth.clock.now += 3_601
    for token in (pair.refresh_token, "unknown", ""):
        with pytest.raises(Denied):
            await auth.accounts.sessions.refresh(token)


@pytest.mark.parametrize("algorithm", ["EdDSA", "RS256"])
async def test_keys_survive_reopening_and_an_older_algorithm_stays_published(tmp_path: Path, algorithm: str) -> None:
    path = tmp_path / "auth.sqlite3"
    store = SqliteAccounts(path)
    signer = await load_signer(store, algorithm)
    token = signer.sign({"sub": "ann"})
    await store.close()
    assert path.stat().st_mode & 0o077 == 0
    store = SqliteAccounts(path)
    other = await load_signer(store, "RS256" if algorithm == "EdDSA" else "EdDSA")
    for text in (token, other.sign({"sub": "ann"})):
        assert verifier(other.jwks).connection(text, 0).user == "ann"
    await store.close()


async def test_minted_tokens_say_what_was_asked(auth: Auth) -> None:
    believe = verifier(auth.accounts.tokens.signer.jwks)
    plain = auth.accounts.tokens.mint("ann", channel="", ttl_s=60, info={"a": 1}, channels=["x"])
    claims = believe.connection(plain, auth.clock.now)
    assert (claims.user, set(claims.channels), claims.info) == ("ann", {"x"}, b'{"a":1}')
    of_channel = auth.accounts.tokens.mint("ann", channel="chat:a", ttl_s=0, info=None, channels=[])
    assert believe.subscription(of_channel, auth.clock.now).expires_at is None
    for wrong in ({"ttl_s": 2**31}, {"channel": "a", "channels": ["b"]}):
        with pytest.raises(Invalid):
            auth.accounts.tokens.mint("ann", **{"channel": "", "ttl_s": 0, "info": None, "channels": [], **wrong})  # type: ignore[arg-type]


def everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


async def test_only_digests_of_secrets_are_kept(auth: Auth, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    pair = await auth.accounts.registration.register("ann", PASSWORD, "")
    row, key = await auth.accounts.create_api_key("backend")
    assert [found.id for found in await auth.accounts.api_keys()] == [row.id]
    files = everything_in(tmp_path)
    for secret in (PASSWORD, pair.refresh_token, pair.access_token, key):
        assert secret.encode() not in files
        assert secret not in caplog.text
    assert await auth.accounts.revoke_api_key(row.id)
    assert not await auth.accounts.revoke_api_key(row.id)


async def test_the_public_key_set_holds_nothing_private(auth: Auth) -> None:
    assert b"PRIVATE" not in auth.accounts.tokens.signer.jwks
    assert b'"d"' not in auth.accounts.tokens.signer.jwks


async def test_B18_guesses_made_at_once_are_limited_as_those_made_one_by_one(auth: Auth) -> None:
    await auth.accounts.registration.register("ann", PASSWORD, "")
    guesses = (auth.accounts.sessions.login("ann", "wrong password", "") for _ in range(20))
    outcomes = [type(outcome) for outcome in await asyncio.gather(*guesses, return_exceptions=True)]
    assert outcomes.count(Denied) == 3
    assert outcomes.count(TooMany) == 17


async def test_right_passwords_are_no_failures(auth: Auth) -> None:
    await auth.accounts.registration.register("ann", PASSWORD, "")
    for _ in range(8):
        assert await auth.accounts.sessions.login("ann", PASSWORD, "")
    for _ in range(3):
        with pytest.raises(Denied):
            await auth.accounts.sessions.login("ann", "wrong password", "")
