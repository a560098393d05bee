"""Rotation of signing keys: when a key signs, and what is retired.

Edges know every key before its first token.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import jwt
import pytest

from services.auth.adapters.sqlite_accounts import SqliteAccounts
from services.auth.domain.ports import SigningKey
from services.auth.domain.refusals import Invalid
from services.auth.domain.signing import Signer, new_signing_key
from services.auth.domain.signing_keys import MAX_KEYS, KeyState, SigningKeys
from services.auth.domain.tokens import load_signer
from services.edge.domain.access.keyring import KeyRing
from services.edge.domain.access.tokens import TokenInvalid, TokenVerifier

OVERLAP_S, TTL_S = 120.0, 600.0
NOW = 1_800_000_000.0
SEED = 20_262


class Rig:
    """The rules on a real store, with a clock of the test's."""

    def __init__(self, store: SqliteAccounts) -> None:
        self.store, self.now = store, NOW
        self.changed = asyncio.Event()

    def keys(self, algorithm: str = "EdDSA") -> SigningKeys:
        return SigningKeys(
            self.store,
            self.changed,
            algorithm=algorithm,
            overlap_s=OVERLAP_S,
            access_ttl_s=TTL_S,
            now=lambda: self.now,
        )

    async def add(self, algorithm: str = "EdDSA") -> str:
        key = new_signing_key(algorithm, self.now)
        await self.store.add_signing_key(key)
        return key.kid

    async def signing(self, algorithm: str = "EdDSA") -> str:
        return (await load_signer(self.store, algorithm, OVERLAP_S)).key_at(self.now).kid

    async def states(self) -> dict[str, KeyState]:
        return {info.key.kid: info.state for info in await self.keys().all()}


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(SqliteAccounts(tmp_path / "auth.sqlite3"))
    yield made
    await made.store.close()


async def test_the_first_key_signs_at_once_and_a_new_one_when_edges_know_it(rig: Rig) -> None:
    first = await rig.add()
    assert await rig.signing() == first
    rig.now += 1_000
    made = await rig.keys().rotate()
    assert rig.changed.is_set()
    assert (made.state, made.signs_from) == (KeyState.WAITING, rig.now + OVERLAP_S)
    assert await rig.states() == {first: KeyState.SIGNING, made.key.kid: KeyState.WAITING}
    rig.now += OVERLAP_S - 0.001
    assert await rig.signing() == first
    rig.now += 0.001
    assert await rig.signing() == made.key.kid
    assert await rig.states() == {first: KeyState.VERIFYING, made.key.kid: KeyState.SIGNING}
    (old, new) = await rig.keys().all()
    assert (old.logins_until, new.logins_until) == (rig.now + TTL_S, None)


async def test_a_signer_that_lives_changes_to_the_new_key_by_the_clock(rig: Rig) -> None:
    first = await rig.add()
    rig.now += 1_000
    made = await rig.keys().rotate()
    signer = await load_signer(rig.store, "EdDSA", OVERLAP_S)
    for after_s, kid in ((0, first), (OVERLAP_S - 1, first), (OVERLAP_S, made.key.kid)):
        assert jwt.get_unverified_header(signer.sign({}, rig.now + after_s))["kid"] == kid


async def test_the_key_that_signs_is_retired_by_force_alone(rig: Rig) -> None:
    first = await rig.add()
    rig.now += 1_000
    second = (await rig.keys().rotate()).key.kid
    with pytest.raises(Invalid, match="signs at present"):
        await rig.keys().retire(first, force=False)
    rig.now += OVERLAP_S
    with pytest.raises(Invalid, match="signs at present"):
        await rig.keys().retire(second, force=False)
    rig.changed.clear()
    assert await rig.keys().retire(first, force=False)
    assert rig.changed.is_set()
    assert await rig.states() == {second: KeyState.SIGNING}
    assert not await rig.keys().retire(first, force=True)
    assert not await rig.keys().retire("unknown", force=True)


async def test_the_last_key_that_is_retired_by_force_has_a_successor(rig: Rig) -> None:
    only = await rig.add()
    rig.now += 1_000
    assert await rig.keys().retire(only, force=True)
    (left,) = await rig.keys().all()
    assert left.key.kid != only
    assert left.state is KeyState.SIGNING


async def test_a_key_that_was_retired_by_force_is_replaced_by_one_that_edges_know(rig: Rig) -> None:
    first = await rig.add()
    rig.now += 1_000
    second = (await rig.keys().rotate()).key.kid
    rig.now += OVERLAP_S
    third = (await rig.keys().rotate()).key.kid
    assert await rig.keys().retire(second, force=True)
    assert await rig.states() == {first: KeyState.SIGNING, third: KeyState.WAITING}


async def test_after_a_change_of_the_algorithm_the_old_one_signs_until_edges_know_the_new_key(rig: Rig) -> None:
    first = await rig.add()
    rig.now += 1_000
    other = await rig.add("RS256")
    assert await rig.signing("RS256") == first
    rig.now += OVERLAP_S
    assert await rig.signing("RS256") == other
    assert await rig.signing("EdDSA") == first


async def test_there_are_never_more_keys_than_edges_should_read(rig: Rig) -> None:
    await rig.add()
    for _ in range(MAX_KEYS - 1):
        await rig.keys().rotate()
    with pytest.raises(Invalid, match="retire old ones"):
        await rig.keys().rotate()


async def test_a_store_that_was_emptied_has_no_keys_to_list(rig: Rig) -> None:
    assert await rig.keys().all() == []


def test_no_token_is_refused_because_of_rotations_however_late_replicas_and_edges_hear_of_them() -> None:
    """Seeded: rotations and retirements at random times.

    Three replicas with clocks and news of their own, and two edges.

    A replica hears of a change within 3 s and its clock is at most 10 s off; an edge hears of it within 40 s of that.
    """
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    for _ in range(25):
        _one_history(chance)


def _one_history(chance: random.Random) -> None:
    template = new_signing_key("EdDSA", NOW - 10_000)
    history: list[tuple[float, list[SigningKey]]] = [(NOW - 10_000, [template])]
    time_s = NOW
    for number in range(12):
        time_s += chance.choice([1.0, 30.0, 119.0, 121.0, 500.0, 1_000.0])
        keys = list(history[-1][1])
        if chance.random() < 0.7 or len(keys) < 2:
            made_at = time_s + chance.uniform(-10, 10)  # by the clock of the replica that was asked
            keys.append(replace(new_signing_key("EdDSA", made_at), kid=f"k{number}"))
        else:  # of those that no replica signs with, and whose tokens of logins have expired
            signs = Signer(keys, "EdDSA", OVERLAP_S)
            ends = time_s - TTL_S - 20
            in_use = {signs.key_at(moment).kid for moment in (ends, time_s - 20, time_s, time_s + 20)}
            keys = [key for key in keys if key.kid in in_use or key.created_at > ends - OVERLAP_S]
        history.append((time_s, keys))
    signers = [(moment, Signer(keys, "EdDSA", OVERLAP_S)) for moment, keys in history]
    for _ in range(100):
        now = chance.uniform(NOW, time_s + 300)
        token = _as_known(signers, now - chance.uniform(0, 3)).sign({"sub": "ann"}, now + chance.uniform(-10, 10))
        shown_at = now + chance.choice([0.0, chance.uniform(0, TTL_S - 50)])
        assert _believes(_as_known(signers, shown_at - chance.uniform(0, 43)).jwks, token)


def _as_known(signers: list[tuple[float, Signer]], at: float) -> Signer:
    return next(signer for moment, signer in reversed(signers) if moment <= at)


def _believes(jwks: bytes, token: str) -> bool:
    ring = KeyRing()
    ring.set_jwks(jwks)
    try:
        return TokenVerifier(ring).connection(token, NOW).user == "ann"
    except TokenInvalid:
        return False
