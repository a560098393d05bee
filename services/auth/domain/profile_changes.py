"""Tells edges which profiles were changed lately, whoever has died since.

**Purpose.** Clients are told of a new name or picture without asking. The edge that changes a profile tells the others,
through Redis, but it may die right after auth took the change. So auth remembers changes, and every edge hears of each.

**Rules.**

1. The store notes a change in the transaction that makes it. So there is a note of every change, also where auth dies
   before it answers.
2. Auth looks at the notes every second, at those of the last 30 s, however old what it knows is: notes carry the clock
   of the replica that made the change, and DynamoDB may execute a write late. When it starts, and after the store was
   away, it looks at those of the last 60 s.
3. An edge that asks gets everything of the last 60 s, and then what is new; of several changes of one user it gets the
   newest version. Edges ask again when their stream ends. A version that they know already costs them nothing.
4. Notes are removed after two minutes: the list of what changed is no history of users.

**Example.** Version 4 is written by one replica of auth, which dies. Another one finds the note within a second, and
tells its edges. Those of the replica that died ask another one, and are told of what changed within the last minute.

**Trade-offs.** A look costs a request a second and replica. A replica whose clock is more than 30 s behind or ahead of
that of another one may miss changes of that one; the edges hear of them through Redis all the same. At most 5,000
notes are looked at: of more changes within 30 s some are missed only if so many came within one second.

Decision: docs/decisions/0060-changed-profiles-are-told-by-auth.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from services.auth.domain.user_ports import ProfileVersion, UserStore

KEPT_S = 60.0  # changes that an edge is told when it asks, seconds
OVERLAP_S = 30.0  # how far back a look goes, seconds
FORGOTTEN_S = 120.0  # age at which notes are removed, seconds
_MAX_NOTES = 5_000  # of a look
_MAX_KEPT = 20_000  # users
_FORGET_EVERY_S = 10.0
_FORGET_AT_ONCE = 1_000  # notes


class _Change:
    """The newest version of a user that is known; `number`: when it became known."""

    __slots__ = ("at", "number", "version")

    def __init__(self, version: int, number: int, at: float) -> None:
        self.version, self.number, self.at = version, number, at


class ProfileChanges:
    """The changes of the last minute, as they became known. One per process."""

    def __init__(self, store: UserStore, now: Callable[[], float] = time.time) -> None:
        """`now`: Unix seconds."""
        self._store, self._now = store, now
        self._changes: OrderedDict[str, _Change] = OrderedDict()  # by user; the newest last
        self._count = 0
        self._looks_back_s = KEPT_S
        self._forgotten_at = now()
        self._added = asyncio.Event()

    async def look(self) -> None:
        """Look at the notes in the store, and remove old ones.

        Raises:
            Unavailable: the store does not answer. The next look goes further back.
        """
        now = self._now()
        back = self._looks_back_s
        self._looks_back_s = KEPT_S
        self.add(await self._store.profile_changes(now - back, _MAX_NOTES))
        self._looks_back_s = OVERLAP_S
        if not 0 <= now - self._forgotten_at < _FORGET_EVERY_S:
            self._forgotten_at = now
            await self._store.forget_profile_changes(now - FORGOTTEN_S, _FORGET_AT_ONCE)

    def add(self, changes: Iterable[ProfileVersion]) -> None:
        """Keep those that are new; whoever waits is told."""
        now = self._now()
        for user, version in changes:
            known = self._changes.get(user)
            if known is not None and known.version >= version:
                continue
            self._count += 1
            self._changes[user] = _Change(version, self._count, now)
            self._changes.move_to_end(user)
            self._added.set()
        while self._changes and (len(self._changes) > _MAX_KEPT or self._is_old(next(iter(self._changes.values())))):
            self._changes.popitem(last=False)

    def after(self, number: int, limit: int) -> tuple[list[ProfileVersion], int]:
        """Return changes that became known after the one of this number, the first first.

        At most `limit`. Also returns the number of the last one; 0: before the first.
        """
        found: list[ProfileVersion] = []
        for user, change in reversed(self._changes.items()):
            if change.number <= number:
                break
            found.append(ProfileVersion(user, change.version))
        found = found[::-1][:limit]
        return found, self._changes[found[-1].user_id].number if found else number

    async def wait(self, number: int, timeout_s: float) -> None:
        """Wait until there is a change after that number, for so many seconds at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._count <= number:
                    self._added.clear()
                    await self._added.wait()

    def _is_old(self, change: _Change) -> bool:
        return self._now() - change.at > KEPT_S + OVERLAP_S
