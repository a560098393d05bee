"""Grants that are stored in auth, as this edge knows them.

**Purpose.** Whether a user has a grant must be known for each command, without asking auth each time, and a grant that
is taken away must not count on any edge after 5 s, also on one that was cut off.

**Rules.**

1. The grants of a user are read from auth when a command needs them for the first time, once for all who wait. A
   namespace whose rules ask for no grant never causes that.
2. They are forgotten when the list of revocations, or a control command, says that they changed (`forget`). What was
   read meanwhile does not count.
3. The list is read every 2 s (`list_was_read`). If it was not read for 5 s, what is known must be read again, as this
   edge may not have heard of a change.
4. If auth does not answer then, what is known holds for 60 s since it was last known to be right. Afterwards, and where
   nothing is known, nothing is permitted: `Unavailable`, which clients repeat.
5. If the list was not read for so long that an entry may have been removed from it, all must be forgotten.
6. An auth of before has no grants of anybody. That is believed for 10 s: during an update the next replica that is
   asked may have some.

**Example.** An edge is cut off from Redis, and a grant is taken away meanwhile. 5 s after the edge read the list for
the last time, the next command of the user asks auth, and is refused.

**Trade-offs.** Grants of the users that came last are kept in memory, 10,000 of them. While Redis is away, each such
user costs a call every 5 s.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.edge.domain.access.grants import NEVER, NO_GRANTS, Grant, Grants
from services.shared.checks import MAX_GRANT_USER_BYTES
from services.shared.errors import Unavailable
from services.shared.process.single_flight import SingleFlight

CHANGE_KEPT_S = 600.0  # how long an entry of a change stays in the list, seconds
BEFORE_S = 10.0  # how long it is believed that there are no grants, because auth is of before, seconds
FRESH_S = 5.0  # how long grants are good without news of the list, seconds
_HELD_S = 60.0  # how long they are good if auth does not answer either, seconds
_RETRY_S = 1.0  # between two calls for a user while auth does not answer, seconds
_USERS = 10_000
_SPARE_ENDS = 1_000  # of the heap, beyond those that are good
TRIES = 3  # of reading grants that change meanwhile


class GrantSource(Protocol):
    """Where grants are read: a part of `GrantStore` (`domain/ports.py`)."""

    async def grants_of(self, user: str) -> Sequence[Grant] | None: ...


@dataclass(slots=True)
class _Known:
    """Grants of a user; times in monotonic seconds."""

    grants: Grants
    right_at: float  # when they were read
    asked_at: float  # when auth was asked last
    until: float = NEVER  # they must be read again then, whatever else is known


class StoredGrants:
    """The grants of users that this edge has read."""

    def __init__(self, store: GrantSource | None, now: Callable[[], float], wall: Callable[[], float]) -> None:
        """Take the store and the clocks: monotonic, and Unix seconds.

        Without a store nobody has grants.
        """
        self._store, self._now, self._wall = store, now, wall
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._reading: SingleFlight[None] = SingleFlight()
        self._changed: set[str] = set()  # users whose grants changed while they are read
        self._read_at = now()  # when the list was read
        self._end_of: dict[str, float] = {}  # next expiry of a grant of a user, Unix seconds
        self._ends: list[tuple[float, str]] = []  # the same as a heap; also some that are not good any more

    def __len__(self) -> int:
        return len(self._known)

    def known(self, user: str) -> Grants | None:
        """Return the grants of a user; None if they must be read first (`load`)."""
        if self._store is None or not user or len(user.encode("utf-8", "surrogatepass")) > MAX_GRANT_USER_BYTES:
            return NO_GRANTS
        known = self._known.get(user)
        now = self._now()
        if known is None or now >= known.until:
            return None
        right_at = max(known.right_at, self._read_at)
        if now - right_at <= FRESH_S or (now - known.asked_at < _RETRY_S and now - right_at <= _HELD_S):
            return known.grants
        return None

    async def load(self, user: str) -> None:
        """Read the grants of a user, so that `known` has them.

        Raises:
            Unavailable: auth does not answer, and what was known is too old.
        """
        await self._reading.do(user, lambda: self._read_and_note(user))

    async def _read_and_note(self, user: str) -> None:
        try:
            await self._read(user)
        finally:
            self._changed.discard(user)

    async def _read(self, user: str) -> None:
        if self._store is None:
            return
        for _ in range(TRIES):
            self._changed.discard(user)
            asked_at = self._now()
            try:
                found = await self._store.grants_of(user)
            except Unavailable as error:
                known, now = self._known.get(user), self._now()
                if known is None or now >= known.until or now - max(known.right_at, self._read_at) > _HELD_S:
                    raise Unavailable(f"grants can't be read: {error}", retry_after_s=_RETRY_S) from error
                known.asked_at = now
                return
            if user not in self._changed:
                self._keep(user, found, asked_at)
                return
        raise Unavailable("grants change too often", retry_after_s=_RETRY_S)

    def _keep(self, user: str, found: Sequence[Grant] | None, asked_at: float) -> None:
        until = asked_at + BEFORE_S if found is None else NEVER
        self._known[user] = _Known(Grants(found) if found else NO_GRANTS, asked_at, asked_at, until)
        self._known.move_to_end(user)
        if len(self._known) > _USERS:
            self._known.popitem(last=False)
        self._set_end(user, self._known[user].grants.next_end(self._wall()))

    def _set_end(self, user: str, end: float) -> None:
        if end == NEVER:
            self._end_of.pop(user, None)
        elif self._end_of.get(user) != end:
            self._end_of[user] = end
            heapq.heappush(self._ends, (end, user))
            if len(self._ends) > 2 * len(self._end_of) + _SPARE_ENDS:
                self._clean_ends()

    def _clean_ends(self) -> None:
        self._ends = [(end, user) for user, end in self._end_of.items()]
        heapq.heapify(self._ends)

    def forget_ends_but(self, users: Container[str]) -> None:
        """Forget expiries, but for these users and for those whose grants are known."""
        self._end_of = {user: end for user, end in self._end_of.items() if user in users or user in self._known}
        self._clean_ends()

    def forget(self, user: str) -> None:
        """Forget the grants of a user, because they may have changed."""
        self._known.pop(user, None)
        if user in self._reading:
            self._changed.add(user)

    def list_was_read(self, took_s: float = 0.0) -> None:
        """Note that all changes are known that were in the list `took_s` seconds ago."""
        self._read_at = max(self._now() - took_s, self._read_at)

    @property
    def is_fresh(self) -> bool:
        """Whether the list was read lately: no change of before 5 s ago is unknown."""
        return self._now() - self._read_at <= FRESH_S

    @property
    def may_have_missed_some(self) -> bool:
        """Whether changes may have been removed from the list since it was read."""
        return self._now() - self._read_at > CHANGE_KEPT_S / 2

    def forget_all(self) -> None:
        """Forget the grants of everybody."""
        for user in list(self._known):
            self.forget(user)

    def take_expired(self) -> set[str]:
        """Return users with grants that have expired since the last call."""
        found = set()
        now = self._wall()
        while self._ends and self._ends[0][0] <= now:
            end, user = heapq.heappop(self._ends)
            if self._end_of.get(user) != end:
                continue
            found.add(user)
            known = self._known.get(user)
            self._set_end(user, NEVER if known is None else known.grants.next_end(now))
        return found
