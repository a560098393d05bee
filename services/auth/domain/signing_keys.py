"""Rotation of the keys that sign tokens.

**Rules.**

* Edges and other readers of the public keys learn of a new key before it signs (`Signer`). So no token is refused
  because of a rotation.
* A key that signs no more verifies its tokens until it is retired by hand. Auth does not remove it by itself: backends
  may have asked for tokens that live for years or never expire, and nobody records them.
* A retired key is removed. Its tokens are refused as soon as edges hear of it, within seconds.
* The key that signs is retired only by force. The newest other key that edges know takes its place, else the one that
  they will know first; if none is left, a new one is made.

Decision: docs/decisions/0038.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import Callable
from dataclasses import dataclass

from services.auth.domain.ports import AccountStore, SigningKey
from services.auth.domain.refusals import Invalid
from services.auth.domain.signing import Signer, new_signing_key

MAX_KEYS = 32  # that are published; edges read them all


class KeyState(enum.Enum):
    """What a key is good for at the moment."""

    WAITING = enum.auto()  # edges know it; it does not sign yet
    SIGNING = enum.auto()
    VERIFYING = enum.auto()  # its tokens are still accepted


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """A signing key without its secret part; times in Unix seconds.

    `logins_until` is when the last token of a login that it signed has expired; None: not known, or it signs.
    """

    key: SigningKey
    state: KeyState
    signs_from: float
    logins_until: float | None


class SigningKeys:
    """The rules of rotation. All state is in the store; changes set `changed`."""

    def __init__(
        self,
        store: AccountStore,
        changed: asyncio.Event,
        *,
        algorithm: str,
        overlap_s: float,
        access_ttl_s: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._changed = store, changed
        self._algorithm, self._overlap_s, self._access_ttl_s = algorithm, overlap_s, access_ttl_s
        self._now = now

    async def rotate(self) -> KeyInfo:
        """Make a new key, which signs once edges know it.

        Raises:
            Invalid: there are too many keys.
        """
        if len(await self._store.signing_keys()) >= MAX_KEYS:
            raise Invalid(f"there are {MAX_KEYS} keys: retire old ones first")
        key = await self._add()
        return next(info for info in await self.all() if info.key.kid == key.kid)

    async def all(self) -> list[KeyInfo]:
        """Return all keys, oldest first."""
        keys = sorted(await self._store.signing_keys(), key=lambda key: (key.created_at, key.kid))
        if not any(key.algorithm == self._algorithm for key in keys):
            return []  # the store was emptied; the next look at it makes a key
        now = self._now()
        signing = Signer(keys, self._algorithm, self._overlap_s).key_at(now)
        return [self._info(key, keys[place + 1 :], signing, now) for place, key in enumerate(keys)]

    def _info(self, key: SigningKey, newer: list[SigningKey], signing: SigningKey, now: float) -> KeyInfo:
        signs_from = key.created_at + self._overlap_s
        if key.kid == signing.kid:
            return KeyInfo(key, KeyState.SIGNING, signs_from, None)
        if signs_from > now:
            return KeyInfo(key, KeyState.WAITING, signs_from, None)
        # The next newer key took over at the latest when it was known; if that one was retired, a later one did.
        stopped = newer[0].created_at + self._overlap_s if newer else None
        until = None if stopped is None else stopped + self._access_ttl_s
        return KeyInfo(key, KeyState.VERIFYING, signs_from, until)

    async def retire(self, kid: str, *, force: bool) -> bool:
        """Remove a key, so that its tokens are refused; False if it does not exist.

        Raises:
            Invalid: it signs at present, and `force` is not set.
        """
        infos = await self.all()
        found = next((info for info in infos if info.key.kid == kid), None)
        if found is None:
            return False
        if found.state is KeyState.SIGNING and not force:
            raise Invalid("this key signs at present: rotate, and retire it when another one signs; or use force")
        if not any(info.key.algorithm == self._algorithm for info in infos if info is not found):
            await self._add()
        removed = await self._store.remove_signing_key(kid)
        self._changed.set()
        return removed

    async def _add(self) -> SigningKey:
        key = await asyncio.to_thread(new_signing_key, self._algorithm, self._now())  # RSA takes a while
        await self._store.add_signing_key(key)
        self._changed.set()
        return key
