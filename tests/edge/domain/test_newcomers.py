"""Users of other login servers, told to auth."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.edge.domain import newcomers
from services.edge.domain.access.keyring import KeyRing
from services.edge.domain.access.tokens import TokenVerifier
from services.edge.domain.newcomers import AGAIN_S, AT_ONCE, MAX_WAITING, Newcomers
from services.shared.errors import Busy, Unavailable

SEED = 20_263


class Auth:
    """Takes what it is told, unless it is away."""

    def __init__(self) -> None:
        self.calls: list[dict[str, str]] = []
        self.away: Exception | None = None

    async def __call__(self, names: Mapping[str, str]) -> None:
        if self.away is not None:
            raise self.away
        self.calls.append(dict(names))

    @property
    def users(self) -> list[str]:
        return [user for call in self.calls for user in call]


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def seen(clock: Clock) -> Newcomers:
    made = Newcomers(clock)
    made.want(True)
    return made


async def test_a_user_is_told_once_a_day_however_often_seen(seen: Newcomers, clock: Clock) -> None:
    auth = Auth()
    for _ in range(3):
        seen.saw("ann", b'{"name":"Ann"}')
        seen.saw("", b"")
        await seen.tell_some(auth)
    assert auth.calls == [{"ann": "Ann"}]
    clock.now += AGAIN_S
    seen.saw("ann", b"")
    await seen.tell_some(auth)
    assert auth.calls == [{"ann": "Ann"}, {"ann": ""}]
    assert (seen.told, seen.dropped) == (2, 0)


@pytest.mark.parametrize("error", [Unavailable("away"), Busy("busy")])
async def test_whom_auth_was_not_told_of_is_forgotten_and_told_at_the_next_connect(
    seen: Newcomers, error: Exception
) -> None:
    auth = Auth()
    auth.away = error
    seen.saw("ann", b"")
    assert not await seen.tell_some(auth)
    auth.away = None
    assert await seen.tell_some(auth)
    assert (auth.calls, seen.told, seen.dropped) == ([], 0, 1)
    seen.saw("ann", b"")
    await seen.tell_some(auth)
    assert (auth.users, seen.told, seen.dropped) == (["ann"], 1, 1)


async def test_what_waits_and_what_one_call_has_is_bounded(seen: Newcomers) -> None:
    auth = Auth()
    for number in range(MAX_WAITING + 5):
        seen.saw(f"user-{number}", b"")
    assert seen.dropped == 5
    for _ in range(MAX_WAITING // AT_ONCE + 1):
        await seen.tell_some(auth)
    assert auth.users == [f"user-{number}" for number in range(MAX_WAITING)]
    assert max(map(len, auth.calls)) == AT_ONCE


async def test_who_is_remembered_is_bounded(seen: Newcomers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those told last are remembered; the sequence is random."""
    monkeypatch.setattr(newcomers, "MAX_REMEMBERED", 10)
    auth, chance = Auth(), random.Random(SEED)
    told_last: list[str] = []
    for step in range(300):
        user = f"user-{chance.randrange(20)}"
        before = len(auth.users)
        seen.saw(user, b"")
        await seen.tell_some(auth)
        assert (len(auth.users) == before) == (user in told_last[-10:]), (SEED, step)
        if user not in told_last[-10:]:
            told_last.append(user)


async def test_auth_that_wants_nobody_is_told_of_nobody_who_waits(seen: Newcomers) -> None:
    auth = Auth()
    seen.saw("ann", b"")
    seen.want(False)
    assert not seen.is_wanted
    await seen.tell_some(auth)
    assert auth.calls == []
    assert not Newcomers(Clock()).is_wanted, "an auth of before says nothing, and wants nobody"


@pytest.mark.parametrize(
    ("info", "name"),
    [
        (b'{"name":"Ann","a":1}', "Ann"),
        (b'{"name":5}', ""),
        (b'{"name":null}', ""),
        (b'["name"]', ""),
        (b'"Ann"', ""),
        (b"", ""),
        (b"[" * 9_000, ""),
        (b'{"name":"\\ud800"}', ""),
    ],
)
async def test_the_name_of_the_token_is_told_if_it_is_text(seen: Newcomers, info: bytes, name: str) -> None:
    auth = Auth()
    seen.saw("ann", info)
    await seen.tell_some(auth)
    assert auth.calls == [{"ann": name}]


async def test_those_who_connect_together_are_told_together(seen: Newcomers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newcomers, "_LINGER_S", 0.0)
    monkeypatch.setattr(newcomers, "_PAUSE_S", 0.0)
    auth = Auth()
    auth.away = Unavailable("away")
    running = asyncio.create_task(seen.run(auth))
    seen.saw("early", b"")
    async with asyncio.timeout(30):
        while not seen.dropped:
            await asyncio.sleep(0)
    auth.away = None
    for number in range(AT_ONCE + 1):
        seen.saw(f"user-{number}", b"")
    async with asyncio.timeout(30):
        while seen.told <= AT_ONCE:
            await asyncio.sleep(0)
    running.cancel()
    assert [len(call) for call in auth.calls] == [AT_ONCE, 1]


@pytest.mark.parametrize("has_issuers", [False, True])
def test_a_token_is_foreign_unless_auth_signed_it(has_issuers: bool) -> None:
    ring, secret = KeyRing(), b"s" * 32
    ring.set_secrets(secret)
    own, theirs = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    ring.set_jwks(set_of(own))
    verifier = TokenVerifier(ring)

    def is_foreign(key: Ed25519PrivateKey | bytes, **claims: str) -> bool:
        by_secret = isinstance(key, bytes)
        headers = None if by_secret else {"kid": "k"}
        token = jwt.encode({"sub": "ann", **claims}, key, "HS256" if by_secret else "EdDSA", headers=headers)
        assert verifier.connection(token, 1_000.0).user == "ann"
        return verifier.is_foreign(token)

    if has_issuers:
        ring.set_issuer_keys("https://login.example.com", set_of(theirs))
        assert is_foreign(theirs, iss="https://login.example.com")
    assert is_foreign(secret)
    assert is_foreign(secret, iss="https://elsewhere.example.com")
    assert not is_foreign(own)
    assert not is_foreign(own, iss="https://auth.example.com")


def set_of(key: Ed25519PrivateKey) -> bytes:
    public = jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return json.dumps({"keys": [{**public, "kid": "k", "alg": "EdDSA", "use": "sig"}]}).encode()
