"""How many messages users have not read, exactly, as of a position.

Purpose. Unread messages of a user in a conversation are the live ones of others that count, above the user's marker,
and above where the user may look and was not yet a member. Mentions are counted above the same place.

Rules.

* `Recent` of the conversation has the answer. If it does not reach down to the marker, it is told what the log has
  there, once for all users of the conversation, and 10,000 rows down at most. Whose marker is below that gets what is
  above, and `at_least`.
* What is removed from the history is not counted. The log says of it when it is asked for its top.
* A message that is erased because of an event which is not readable yet has no author any more. Then the newest
  position is asked for again; if that does not help, the answer says `pending`: it has nothing of that message.

Example. The position is 40, the marker 30, and 35, of another one, is the only message above: 1 unread as of 40.

Trade-offs. The first question after a start, and about a conversation that nobody asked about for long, reads the log.
All others take some microseconds. See docs/decisions/0057.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import NamedTuple

from services.persistence.chat.conversations import Conversations
from services.persistence.chat.documents import is_left
from services.persistence.chat.domain.access import history_from, may_read
from services.persistence.chat.domain.state import Type
from services.persistence.chat.live import Live
from services.persistence.chat.markers.markers import Markers
from services.persistence.chat.markers.record import Place
from services.persistence.chat.metrics import UNREAD
from services.persistence.chat.ports import ChatStore
from services.persistence.chat.recent import Recent
from services.persistence.chat.unread.reading import Reading
from services.persistence.domain.ports import Rows

MAX_ROWS = 10_000  # of a conversation's log that are looked at
MAX_KEPT = 1_000_000  # messages of all conversations in memory
MAX_ASKED = 10_000  # conversations whose messages are in memory
_LISTED = 1_000  # conversations of a user that are looked at together
_AT_ONCE = 16  # conversations whose log is read at the same time
_TRIES = 4  # while something is erased by an event that is not readable yet
_PAUSE_S = 0.02
_EXACT, _AT_LEAST, _PENDING = (UNREAD.labels(outcome) for outcome in ("exact", "at_least", "pending"))


class Unread(NamedTuple):
    """What a user has not read, as of the offset `as_of`.

    `at_least`: there may be more. `pending`: some messages are being deleted, and are left out.
    """

    unread: int
    mentions: int
    at_least: bool
    pending: bool
    as_of: int


class Counts:
    """Counts what is unread; every method raises `Unavailable`."""

    def __init__(
        self,
        conversations: Conversations,
        rows: Rows,
        store: ChatStore,
        markers: Markers,
        now_ms: Callable[[], int],
        *,
        max_rows: int = MAX_ROWS,
        max_kept: int = MAX_KEPT,
        max_asked: int = MAX_ASKED,
    ) -> None:
        """Create it; `rows`: the log's store; `now_ms`: Redis' clock, Unix ms."""
        self._conversations, self._store, self._markers, self._now_ms = conversations, store, markers, now_ms
        self._reading = Reading(conversations, rows)
        self._max_rows, self._max_kept, self._max_asked = max_rows, max_kept, max_asked
        # Channel → conversation, with how much was recent then. Conversations go by themselves.
        self._asked: OrderedDict[str, tuple[weakref.ref[Live], int]] = OrderedDict()
        self._kept = 0  # their sum
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    async def of(self, user: str, places: Mapping[str, Place]) -> dict[str, Unread]:
        """Count in several conversations, each as of its newest position.

        A user who may not read one has nothing unread there.
        """
        found = await asyncio.gather(*(self._of(user, channel, place) for channel, place in places.items()))
        return dict(zip(places, found, strict=True))

    async def at(self, user: str, channel: str, place: Place, *, epoch: str, offset: int, removed: int) -> Unread:
        """Count in one conversation at a readable position, or later.

        It takes no request if the answer is in memory. `removed`: up to where history was removed, as far as known.
        """
        live = await self._conversations.upto(channel, offset, epoch)
        found = self._known(live, user, place, removed)
        return self.tell(found) if found is not None else await self._of(user, channel, place)

    def known(self, user: str, channel: str, place: Place, *, epoch: str, offset: int, removed: int) -> Unread | None:
        """Count as `at` does if memory has the answer; None: it has not."""
        live = self._conversations.cached(channel)
        if live is None or live.epoch != epoch or live.position < offset:
            return None
        found = self._known(live, user, place, removed)
        return None if found is None else self.tell(found)

    async def badge(self, user: str, most: int) -> int | None:
        """Sum up what is unread in conversations that are neither muted nor archived.

        None: the user is in more than `most` conversations.
        """
        total, after, known = 0, "", 0
        while True:
            found = await self._store.conversations_of(user, after, _LISTED)
            there = [channel for channel, entry in found if not is_left(entry)]
            known += len(there)
            if known > most:
                return None
            places = await self._markers.of_user(user, there)
            now_ms = self._now_ms()
            heard = {
                channel: place
                for channel, place in places.items()
                if not place.preferences.archived and not place.preferences.is_muted(now_ms)
            }
            total += sum(one.unread for one in (await self.of(user, heard)).values())
            if len(found) < _LISTED:
                return total
            after = found[-1][0]

    async def place(self, user: str, channel: str) -> Place:
        """Return how far the user has read a conversation."""
        return (await self._markers.of_user(user, [channel]))[channel]

    async def look(self, channel: str, user: str, place: Place) -> Live:
        """Return a conversation at its newest position, for which `now` knows the answer.

        As far as that can be.
        """
        for attempt in range(_TRIES):
            if attempt:
                await asyncio.sleep(_PAUSE_S * attempt)
            live = await self._conversations.current(channel)
            await self.ready(live, user, place)
            if self._knows(live, user, place) and not self._count(live, user, place).pending:
                break
        return live

    async def ready(self, live: Live, user: str, place: Place) -> None:
        """Have `now` know the answer for a conversation as it is in memory.

        As far as that can be: it does not wait for what is pending.
        """
        if not self._knows(live, user, place):
            async with self._at_once:
                low = self._low(live, self._above(live, user, place))
                if low is not None:
                    await self._reading.reach(live, low)

    def now(self, live: Live, user: str, place: Place) -> Unread:
        """Return what is unread as of `live.position`, right after `look` or `ready`.

        `tell` is for an answer that is given.
        """
        if live.recent is not None:
            self._keep(live, live.recent)
        return self._count(live, user, place)

    def tell(self, found: Unread) -> Unread:
        """Count an answer that is given, and return it."""
        (_PENDING if found.pending else _AT_LEAST if found.at_least else _EXACT).inc()
        return found

    def _known(self, live: Live, user: str, place: Place, removed: int) -> Unread | None:
        """Return what is unread, exactly; None: the log must be asked."""
        above = self._above(live, user, place)
        if live.removed < removed or not self._reaches(live, above):
            return None
        found = self._counted(live, user, above)
        if found.pending:
            return None
        if live.recent is not None:
            self._keep(live, live.recent)
        return found

    async def _of(self, user: str, channel: str, place: Place) -> Unread:
        return self.tell(self.now(await self.look(channel, user, place), user, place))

    def _knows(self, live: Live, user: str, place: Place) -> bool:
        return self._reaches(live, self._above(live, user, place))

    def _reaches(self, live: Live, above: int | None) -> bool:
        """Whether what is recent has all that may be unread above an offset."""
        low = self._low(live, above)
        return low is None or (live.recent is not None and live.recent.low <= low)

    def _count(self, live: Live, user: str, place: Place) -> Unread:
        return self._counted(live, user, self._above(live, user, place))

    def _counted(self, live: Live, user: str, above: int | None) -> Unread:
        position = live.position
        if above is None or above >= position:
            return Unread(0, 0, False, False, position)
        recent = live.recent
        if recent is None:
            return Unread(0, 0, True, False, position)
        at_least, pending = recent.low > above, position < recent.unclear_until
        return Unread(recent.unread(user, above), recent.mentions(user, above), at_least, pending, position)

    def _above(self, live: Live, user: str, place: Place) -> int | None:
        """Offset above which messages may be unread; None: the user may not read."""
        state = live.state
        if not live.epoch or not may_read(state, user, self._now_ms()):
            return None
        member = state.members.get(user)
        since = 0 if member is None or state.type is Type.OPEN else member.since
        marker = place.within(live.epoch).marker.offset
        return max(marker, since, history_from(state, user), live.removed)

    def _low(self, live: Live, above: int | None) -> int | None:
        """Offset above which messages must be known; None: nothing is unread."""
        if above is None or above >= live.position:
            return None
        return max(above, live.position - self._max_rows)

    def _keep(self, live: Live, recent: Recent) -> None:
        """Note that a conversation is asked about, and bound what all of them have."""
        recent.unasked = 0
        if live.position - recent.low > 2 * self._max_rows:
            recent.forget(live.position - self._max_rows)
        _, size = self._asked.get(live.channel, (None, 0))
        self._asked[live.channel] = weakref.ref(live), len(recent)
        self._asked.move_to_end(live.channel)
        self._kept += len(recent) - size
        while (self._kept > self._max_kept or len(self._asked) > self._max_asked) and len(self._asked) > 1:
            _, (oldest, size) = self._asked.popitem(last=False)
            if (found := oldest()) is not None:
                found.recent = None
            self._kept -= size
