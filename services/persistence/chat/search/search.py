"""Answers searches: what the index has, what it has not yet, and who may see it.

Purpose. A search finds all that its user could find by reading, at once after it was said, and nothing else. How long
it takes does not depend on what others wrote.

Rules.

* It looks into the conversations where the user is a member now, each above what the user may see; or into one that
  the user may read. Without any there is nothing to look into. Rights are looked up first, and are part of the question
  to the index; they are not a filter of its answer.
* Rows of the log that are not indexed yet are read. What is new in them, and messages that they edit, are candidates as
  those of the index are.
* Each candidate is looked up at its conversation's newest position, with the user's rights at that position, and is
  compared with the query. So neither a late delete nor a wrong entry of the index shows in an answer.
* The order is total: newest first by time, channel and offset; or best first by a score that depends on the message
  alone. A cursor is a place in that order. What is written later is newer, and does not move it.
* Best first is of the newest 1,000 that are found. Pages look at the same ones: none newer than the first page.
* An answer reads 4,000 rows that are not indexed at most, and 4 MiB. If there are more it says `incomplete`, and they
  are indexed. Whatever else an answer needs is bounded, too: messages are looked up a page at once, newest first, and
  only so many are compared (`turns.py`), and an index may read so much. Beyond that a page is short, and its cursor
  goes on from there; best first the answer says `incomplete`.
* A user asks the index one question at a time, whoever else does meanwhile.

Example. 20 of 300 conversations have a match. The index returns the newest 21 places; one of these was deleted just
now, so the index is asked for more behind the last one, until 20 are there or there are no more.

Trade-offs. A number of all matches is not told: it would have to be counted message by message.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

from services.persistence.chat import views
from services.persistence.chat.conversations import Conversations
from services.persistence.chat.domain.access import history_from, may_read
from services.persistence.chat.domain.state import Message
from services.persistence.chat.inbox.inbox import Inbox
from services.persistence.chat.index.analyser import atoms_of
from services.persistence.chat.index.ports import Asked, Place, Scope, SearchIndex
from services.persistence.chat.index.query import Query
from services.persistence.chat.pages import Shown
from services.persistence.chat.queries import Queries
from services.persistence.chat.refused_call import FORBIDDEN, RefusedCall
from services.persistence.chat.search.cursors import Cursor, encoded
from services.persistence.chat.search.indexing import Indexing, is_emptied
from services.persistence.chat.search.tail import Candidates, Tail
from services.persistence.chat.search.turns import OneEach, Turns, Work, effort
from services.persistence.chat.views import Json
from services.persistence.domain.ports import Rows

_BEST_OF = 1_000  # of the newest hits, by score
_MAX_ROUNDS = 12  # of questions to the index for one answer; a page may have fewer messages then
_SPARE = 4  # places beyond those wanted, as some may be gone
_MAX_EFFORT = 8 << 20  # of comparing what was looked up, see `turns.py`: about a second
_AT_ONCE = 16  # conversations that are asked at the same time


class Wanted(NamedTuple):
    """What is searched for.

    Args:
        user: Who searches; "": the platform, which names a channel.
        query: What a message must be like.
        channel: The conversation to search; "": all of the user.
        namespace: If `channel` is "", where conversations lie; "": anywhere.
        limit: Messages of the page.
        best: By score.
        cursor: Behind which place the page begins.
    """

    user: str
    query: Query
    channel: str
    namespace: str
    limit: int
    best: bool
    cursor: Cursor | None


class _Found(NamedTuple):
    """A message that is found, and as of which position of its conversation."""

    place: Place
    message: Message
    epoch: str
    position: int


class Search:
    """Searches messages; every method raises `Unavailable`."""

    def __init__(
        self,
        queries: Queries,
        conversations: Conversations,
        inbox: Inbox,
        rows: Rows,
        index: SearchIndex,
        indexing: Indexing,
        now_ms: Callable[[], int],
        is_conversation: Callable[[str], bool],
    ) -> None:
        """Put it together.

        Args:
            queries: Answers for one conversation.
            conversations: Those of this process.
            inbox: Knows those of a user.
            rows: The store of the log.
            index: What was indexed.
            indexing: Told of what is far behind.
            now_ms: Returns the time of Redis, Unix ms.
            is_conversation: Whether a channel is one, by its name; no others are searched.
        """
        self._queries, self._conversations, self._inbox = queries, conversations, inbox
        self._index, self._now_ms, self._is_conversation = index, now_ms, is_conversation
        self._turns, self._one_each = Turns(), OneEach()
        self._tail = Tail(rows, indexing, self._turns, index.logs_at_once)

    async def messages(self, wanted: Wanted) -> Json:
        """Return a page of messages.

        Raises:
            RefusedCall: the user may not read the conversation.
        """
        query, limit, best, cursor = wanted.query, wanted.limit, wanted.best, wanted.cursor
        upto = self._now_ms() if cursor is None else cursor.upto
        scopes, is_all = await self._scopes(wanted)
        after = None if cursor is None else cursor.place
        found: list[_Found] = []
        tail: Candidates | None = None
        in_tail: set[tuple[str, int]] = set()
        work = Work(self._turns, _MAX_EFFORT)
        most = _BEST_OF if best else limit + 1 + _SPARE
        for _ in range(_MAX_ROUNDS):
            async with self._one_each.turn(wanted.user):
                hits = await self._index.find(Asked(query, scopes, most, after, upto if best else None, best))
            if tail is None:
                scopes = [one._replace(position=max(one.position, hits.indexed[one.channel])) for one in scopes]
                tail = await self._tail.candidates(query, scopes, hits.indexed)
                in_tail = {(one.channel, one.offset) for one in (*tail.new, *tail.edited)}
                found, is_whole = await self._of_tail(wanted, tail, upto, work)
                is_all = is_all and is_whole
            others = [one for one in hits.places if (one.channel, one.offset) not in in_tail]
            if len(found) > limit:  # those behind are on later pages
                others = [one for one in others if one < found[limit].place]
            some, stopped_at = await self._first(wanted, others, upto, work)
            found = sorted(found + some, key=_place)[: limit + 1]
            if stopped_at is not None:
                after = stopped_at
                break
            if hits.stopped_at is not None:  # and it would have to read the same again
                if best or (after is not None and hits.stopped_at <= after):
                    after, is_all = None, False
                else:
                    after = hits.stopped_at
                break
            after = hits.places[-1] if hits.has_more and not best else None
            if after is None or sum(one.place <= after for one in found) > limit:
                break
            most = min(2 * most, _BEST_OF)
        answer = self._page(wanted, found, after, upto)
        if not is_all:
            answer["incomplete"] = True
        return answer

    async def _scopes(self, wanted: Wanted) -> tuple[list[Scope], bool]:
        """Return where to search, the last active first; and whether that is all."""
        user, channel = wanted.user, wanted.channel
        if channel:
            if not self._is_conversation(channel):
                raise RefusedCall(FORBIDDEN)
            live = await self._queries.seen(channel, user)
            return [Scope(channel, max(history_from(live.state, user), live.removed), live.position)], True
        readable, is_whole = await self._inbox.readable(user)
        first = f"{wanted.namespace}:" if wanted.namespace else ""
        there = [one for one in readable if one.channel.startswith(first) and self._is_conversation(one.channel)]
        return [Scope(one.channel, one.above, one.position) for one in there], is_whole

    # Looking up what may be found.

    async def _of_tail(self, wanted: Wanted, tail: Candidates, upto: int, work: Work) -> tuple[list[_Found], bool]:
        """Return the first of what rows name that are not indexed, and if it is sure.

        One more than a page has. The newest are looked up first, some at once, until no other can be among them.
        """
        best, cursor, most = wanted.best, wanted.cursor, wanted.limit + 1
        todo = {(one.channel, one.offset): one for one in sorted(tail.edited, reverse=True)}
        for place in tail.new:
            if (place.time_ms <= upto) if best else (cursor is None or place > cursor.place):
                todo[place.channel, place.offset] = place
            else:
                todo.pop((place.channel, place.offset), None)
        places = sorted(todo.values())
        found: list[_Found] = []
        for start in range(0, len(places), most):
            if not best and len(found) == most and found[-1].place < places[start]:
                break
            if start and work.left <= 0:
                return found, False
            some = await self._look_up(wanted, places[start : start + most], upto, work)
            found = sorted(found + [one for one in some if _is_behind(one, cursor)], key=_place)[:most]
        return found, tail.is_whole

    async def _first(
        self, wanted: Wanted, places: Sequence[Place], upto: int, work: Work
    ) -> tuple[list[_Found], Place | None]:
        """Return those of these places that hold, in order, until a page is full.

        And the last place that was looked at, if there was too much to compare; None: there was not.
        """
        found: list[_Found] = []
        most = wanted.limit + 1
        for start in range(0, len(places), most):
            found += await self._look_up(wanted, places[start : start + most], upto, work)
            if len(found) >= most:
                break
            if work.left <= 0 and start + most < len(places):
                return found, places[start + most - 1]
        return found, None

    async def _look_up(self, wanted: Wanted, places: Sequence[Place], upto: int, work: Work) -> list[_Found]:
        """Return those of these messages that the user may see and that are found."""
        at_once = asyncio.Semaphore(_AT_ONCE)
        offsets: dict[str, list[int]] = {}
        for place in places:
            offsets.setdefault(place.channel, []).append(place.offset)

        async def one(channel: str) -> list[_Found]:
            async with at_once:
                return await self._of_channel(wanted, channel, sorted(offsets[channel]), upto, work)

        some = await asyncio.gather(*(one(channel) for channel in offsets))
        return [found for of_channel in some for found in of_channel]

    async def _of_channel(
        self, wanted: Wanted, channel: str, offsets: Sequence[int], upto: int, work: Work
    ) -> list[_Found]:
        user, query, best = wanted.user, wanted.query, wanted.best
        live = await self._conversations.current(channel)
        if not may_read(live.state, user, self._now_ms()):
            return []
        messages = await self._conversations.messages(live, offsets)
        if not may_read(live.state, user, self._now_ms()):  # any more
            return []
        epoch, position = live.epoch, live.position
        above = max(history_from(live.state, user), live.removed)
        seen = [  # copies, as messages change with the conversation while others have their turn
            (offset, copy.copy(message))
            for offset, message in messages.items()
            if offset > above
            and isinstance(message, Message)
            and not is_emptied(message.content)
            and not (best and message.time_ms > upto)
        ]

        def look(one: tuple[int, Message]) -> tuple[int, _Found | None]:
            offset, message = one
            cost = effort(message.content.text)
            if not query.fits(message.author, message.time_ms, message.content):
                return cost, None
            score = query.score(" ".join(atoms_of(message.content.text))) if best else 0.0
            place = Place(-score, -message.time_ms, channel, -offset)
            return cost, _Found(place, message, epoch, position)

        return await work.pick(seen, look)

    def _page(self, wanted: Wanted, found: Sequence[_Found], after: Place | None, upto: int) -> Json:
        """Return the answer; `after`: up to there all is found, None: everywhere."""
        sure = [one for one in found if after is None or one.place <= after]
        shown = views.fitting(_entry(wanted.user, one) for one in sure[: wanted.limit])
        answer: Json = {"messages": shown}
        rest = sure[len(shown) - 1].place if len(sure) > len(shown) else after
        if rest is not None:
            answer["cursor"] = encoded(rest, best=wanted.best, upto=upto)
        return answer


def _place(one: _Found) -> Place:
    return one.place


def _is_behind(one: _Found, cursor: Cursor | None) -> bool:
    return cursor is None or one.place > cursor.place


def _entry(user: str, one: _Found) -> Json:
    shown = Shown(one.place.offset, one.message.time_ms, one.message)
    as_of = {"epoch": one.epoch, "offset": one.position}
    return {**views.message(one.place.channel, shown, user), "as_of": as_of}
