"""Tells auth of users of other login servers whom it may not know.

**Purpose.** Whose token comes from another login server has no row in auth until somebody makes one. Where
`AUTH_INSERT_UNKNOWN_USERS` is set, edges tell auth whom they have seen, and auth adds those it does not know.

**Rules.**

* Auth says over `Watch` whether it wants to be told. Until it does, a connect costs one comparison.
* Nobody waits: a connect puts its user down, and a background task tells auth, many users in one call.
* A user who was told is not told again for a day, as long as there is room to remember.
* Users that can't be told, because auth is away or too many wait, are forgotten and counted. Their next connect puts
  them down again.
* Users without an id, and those whose token auth made, are not put down.

**Example.** Ann connects on two edges while auth restarts. Both try to tell auth and forget her. She connects again,
one edge tells auth, and auth adds her. The other edge tells auth when she connects there: auth knows her already.

**Trade-offs.** A user who is deleted and allowed again may wait a day for a row on an edge that remembers. What
is remembered is 16 bytes of a digest: ids may be long.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from services.shared.errors import Busy, Unavailable
from services.shared.user_digest import digest_of

logger = logging.getLogger(__name__)

MAX_REMEMBERED = 100_000  # users
MAX_WAITING = 4_000  # users
AT_ONCE = 100  # users of one call; each is a write of auth at most
AGAIN_S = 86_400.0  # after so long a user is told again, seconds: auth may have been restored from a copy
_LINGER_S = 0.2  # wait for more users before a call, seconds
_PAUSE_S = 2.0  # after a call that failed, seconds

Tell = Callable[[Mapping[str, str]], Awaitable[None]]  # takes display names (or empty texts) by user


class Newcomers:
    """The users that wait, and those that were told."""

    def __init__(self, now: Callable[[], float]) -> None:
        """Create it empty; `now` gives monotonic seconds."""
        self.told = 0  # users
        self.dropped = 0  # users that were forgotten
        self._now = now
        self._is_wanted = False
        self._waiting: dict[str, bytes] = {}  # `info` by user
        self._remembered: OrderedDict[bytes, float] = OrderedDict()  # when they were told, oldest first
        self._some = asyncio.Event()

    @property
    def is_wanted(self) -> bool:
        """Whether auth wants to be told."""
        return self._is_wanted

    def want(self, is_wanted: bool) -> None:
        """Note whether auth wants to be told; if not, nobody waits any more."""
        self._is_wanted = is_wanted
        if not is_wanted:
            self._waiting.clear()

    def saw(self, user: str, info: bytes) -> None:
        """Put down a user whose token another login server made.

        `info`: that of the token, a JSON text; its member `name` is for the profile. Never waits.
        """
        if not user or user in self._waiting:
            return
        told_at = self._remembered.get(digest_of(user))
        if told_at is not None and self._now() - told_at < AGAIN_S:
            return
        if len(self._waiting) >= MAX_WAITING:
            self.dropped += 1
            return
        self._waiting[user] = info
        self._some.set()

    async def run(self, tell: Tell) -> None:
        """Tell auth until cancelled."""
        while True:
            await self._some.wait()
            await asyncio.sleep(_LINGER_S)
            if not await self.tell_some(tell):
                await asyncio.sleep(_PAUSE_S)

    async def tell_some(self, tell: Tell) -> bool:
        """Make one call with users that wait, if any do; False if it failed."""
        batch = {user: self._waiting.pop(user) for user in list(self._waiting)[:AT_ONCE]}
        if not self._waiting:
            self._some.clear()
        if not batch:
            return True
        try:
            await tell({user: _name(info) for user, info in batch.items()})
        except (Unavailable, Busy) as error:
            self.dropped += len(batch)
            logger.info("auth was not told of users; their next connect does", extra={"error": repr(error)[:200]})
            return False
        self.told += len(batch)
        now = self._now()
        for user in batch:
            digest = digest_of(user)
            self._remembered[digest] = now
            self._remembered.move_to_end(digest)
        while len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        return True


class _Info(msgspec.Struct):
    name: Any = None


def _name(info: bytes) -> str:
    """Return the member `name` of the `info` of a token, if it is text; else empty."""
    if not info:
        return ""
    try:
        name = msgspec.json.decode(info, type=_Info).name
    except (msgspec.MsgspecError, RecursionError):  # it is no object
        return ""
    return name if isinstance(name, str) else ""
