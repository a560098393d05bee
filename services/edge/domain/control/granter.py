"""Changes the stored grants of users, and lets every edge know of it.

**Purpose.** A grant that is taken away must end live subscriptions and refuse commands on every edge within 5 s, also
if the edge that changes it dies half-way. An edge that was cut off must deliver nothing more before it knows.

**Rules.**

1. First an entry is appended to the list of revocations (`RevokedKind.GRANTS`): what edges know of the grants of this
   user is not good any more. If that fails, nothing is changed.
2. Then auth changes the grants. Both steps together take 3.5 s at most; what is not answered by then has failed.
3. Then a control command has all connected edges look again. Only if they answer has the call succeeded.
4. Whoever reads the entry forgets the grants and looks again: at once, 4 s later, and 15 s later. The times count from
   when it was read, by the reader's own clock. The entry was there before, so 4 s is later than any change that was
   answered, and 15 s later than one that auth makes although its caller has given up.
5. Of a new incarnation of Redis, or after a gap in reading the list, all users are looked at again.
   An edge that may have been cut off does not wait for auth: subscriptions that depend on what it has read end with
   2500, and clients subscribe again. The list is read before anything else, so nothing was delivered before.
6. A grant that expires is looked at when its time is over.

**Example.** An edge appends the entry, has auth take the grant, and is killed before the command. The others have read
the entry within 2 s, perhaps before auth changed anything. 4 s after they read it they ask auth again, and end the
subscription.

**Trade-offs.** A change costs each edge that has the user up to four calls to auth. If one edge does not answer the
command, the call fails although the change was made; the entry does the rest.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Iterable, Sequence

from services.edge.domain.access.grants import Grant, Operation
from services.edge.domain.access.revocations import MAX_REVOCATIONS, Revocation, RevokedKind
from services.edge.domain.access.stored_grants import CHANGE_KEPT_S
from services.edge.domain.control.cluster import Cluster
from services.edge.domain.control.operations import GrantsChanged
from services.edge.domain.ports import GrantStore, RevocationLog
from services.edge.domain.session.node import Node
from services.edge.domain.session.withdrawal import end_unpermitted, look_again
from services.shared.errors import Busy, Unavailable

_CHANGE_S = 3.5  # longest change, from before its entry until auth has answered, seconds
_SETTLED_S = 4.0  # after which auth has changed what an entry announced, if the call was answered, seconds
_LAST_LOOK_S = 15.0  # the same, if it was not: the timeouts of auth and its store, and much more, seconds
_OLD_S = 60.0  # entries that are older need no second look, seconds
_LOOK_S = 0.5  # interval of looking for what is due, seconds
_TIDY_S = 10.0  # interval of forgetting entries whose time is over, seconds
_AT_ONCE = 32  # users that are looked at again at the same time


class Granter:
    """Changes grants, and hears of changes by other edges."""

    def __init__(self, node: Node, cluster: Cluster, log: RevocationLog, store: GrantStore) -> None:
        self._node, self._cluster, self._log, self._store = node, cluster, log, store
        self._heard: dict[tuple[str, float], float] = {}  # entries by user and time: until when they are kept
        self._again: list[tuple[float, str]] = []  # when to look at a user again, monotonic seconds; a heap
        self._tidy_at = 0.0  # Unix seconds
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def of(self, user: str) -> Sequence[Grant]:
        """Return the grants of a user, from auth."""
        return await self._store.grants_of(user) or ()

    async def give(self, user: str, channels: Sequence[str], operations: Sequence[Operation], until: float) -> None:
        """Give grants; return once connected edges know.

        Raises:
            Unavailable: perhaps it was done, or not every edge knows yet; a repeat does no harm.
            Busy: too many grants change; nothing was done.
            ThalamusError: 107, a value is not allowed.
        """
        await self._change(user, lambda: self._store.give_grants(user, channels, operations, until))

    async def take(self, user: str, channels: Sequence[str], operations: Sequence[Operation]) -> None:
        """Take grants away; return once connected edges have ended what depended on them.

        Raises as `give` does.
        """
        await self._change(user, lambda: self._store.take_grants(user, channels, operations))

    async def _change(self, user: str, make: Callable[[], Awaitable[None]]) -> None:
        clock = self._node.clock
        end = clock.monotonic() + _CHANGE_S
        await self._announce(user)
        try:
            async with asyncio.timeout(end - clock.monotonic()):
                await asyncio.sleep(0)  # a time that is over ends it here: auth is not asked any more
                await make()
        except TimeoutError:
            raise Unavailable("the change of grants took too long") from None
        try:
            await self._cluster.everywhere(GrantsChanged(user=user))
        except Busy as error:  # it would say that nothing was done
            raise Unavailable(str(error)) from error

    async def _announce(self, user: str) -> None:
        if len(self._heard) >= MAX_REVOCATIONS:
            raise Busy("too many grants change", retry_after_s=_SETTLED_S)
        now = self._node.clock.wall()
        await self._log.append(Revocation(kind=RevokedKind.GRANTS, id=user, at=now, until=now + CHANGE_KEPT_S))

    def heard(self, entries: Iterable[Revocation], *, first: bool) -> None:
        """Take entries of the list: the grants of these users change, or have changed.

        `first`: this edge may have been cut off, and nothing else was read since.
        """
        now = self._node.clock.wall()
        for entry in entries:
            change = (entry.id, entry.at)  # not only the newest: clocks of edges differ by milliseconds
            if entry.until <= now or change in self._heard:
                continue  # an append moves old entries to the end of the list, so they come again
            self._heard[change] = entry.until
            self._look(entry.id, waits=not first and self._node.grants.is_fresh)
            if entry.at + _OLD_S > now:
                read_at = self._node.clock.monotonic()
                for later_s in (_SETTLED_S, _LAST_LOOK_S):
                    heapq.heappush(self._again, (read_at + later_s, entry.id))

    def list_was_read(self, took_s: float) -> None:
        """Note that everything is heard that was in the list `took_s` seconds ago."""
        grants = self._node.grants
        if grants.may_have_missed_some:
            self.all_may_have_changed()
        grants.list_was_read(took_s)

    def all_may_have_changed(self) -> None:
        """Look at all users again: changes may have been missed."""
        grants = self._node.grants
        grants.forget_all()
        for user in filter(None, list(self._node.users)):
            if grants.is_fresh:
                self._node.spawn(self._in_turn(user))
            else:
                self._end_what_is_unknown(user)

    async def run(self) -> None:
        """Look at users again when it is time, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            self.tick()

    def tick(self) -> None:
        """Look at the users whose time has come."""
        now = self._node.clock.wall()
        while self._again and self._again[0][0] <= self._node.clock.monotonic():
            self._look(heapq.heappop(self._again)[1])
        if now >= self._tidy_at:
            self._tidy_at = now + _TIDY_S
            self._heard = {change: until for change, until in self._heard.items() if until > now}
            self._node.grants.forget_ends_but(self._node.users)
        for user in self._node.grants.take_expired():
            if user in self._node.users:
                self._node.spawn(self._in_turn(user))

    def _look(self, user: str, *, waits: bool = True) -> None:
        self._node.grants.forget(user)
        if not waits:
            self._end_what_is_unknown(user)
        elif user in self._node.users:
            self._node.spawn(self._in_turn(user))

    def _end_what_is_unknown(self, user: str) -> None:
        for session in list(self._node.users.get(user, {}).values()):
            end_unpermitted(session, unknown_is_over=True)

    async def _in_turn(self, user: str) -> None:
        async with self._turns:
            await look_again(self._node, user)
