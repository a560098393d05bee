"""Appending events of conversations: decide, number, and tell what became of it.

Purpose. An event gets an offset only if it is allowed where it then stands. Several replicas number one conversation,
so a decision with the state in memory is not enough.

Rules.

* Decide with the state in memory. If the event is allowed, append it with the membership version of that state as its
  guard: if anything that may take a right away was numbered since, it gets no offset, and is decided again (`Recheck`)
  with a state that has it. After 2.5 s its outcome is `unavailable`.
* In a `queued` namespace, what changes membership or rights, or erases something, is stored before it is acknowledged,
  with all in front of it: no loss of Redis brings back who was removed, or what was deleted. Everything else is
  acknowledged once Redis has it. The guard names the epoch, too: offsets that a loss has taken away are given again,
  and an event must not be about another message than was decided.
* A refusal is final only if the state has everything that was readable when the refusal was found: another replica may
  have let the author in. And not if the idempotency key has a place already: then that is the answer.
* What the fold does not know is decided here alone: see `admission.py`.
* What may be void in spite of all that (an edit of a message that is deleted meanwhile) is answered after it was
  folded, so the caller is told. A plain message applies, and is answered once it is stored.

Example. Replica A has state 10, in which eve is a member. B numbers her removal as 11. A appends her message with the
guard of state 10: it is refused, A reads 11, decides again, and answers 103. No message of hers has an offset above 11.

Trade-offs. A plain message costs a decision in memory, and no task: what must wait for something (a state that is not
in memory, a message that is to be loaded, slow mode, a refusal) gets one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from services.persistence.chat.admission import EARLIER_MS, latest_ms, why_not
from services.persistence.chat.conversations import Conversations
from services.persistence.chat.domain import events
from services.persistence.chat.domain.rights import Right
from services.persistence.chat.domain.rules import has_right
from services.persistence.chat.domain.state import PLATFORM
from services.persistence.chat.erasing import Eraser, Folded
from services.persistence.chat.erasure_marks import Mark
from services.persistence.chat.fates import Fates
from services.persistence.chat.flags import flags_of, users_of
from services.persistence.chat.live import Event, Live, names
from services.persistence.chat.marks import Marks
from services.persistence.chat.metrics import RECHECKS
from services.persistence.chat.new_events import (
    Appended,
    NewEvent,
    OnResult,
    Options,
    Refused,
    Result,
    key_of,
    read_new,
)
from services.persistence.chat.projection import Projection
from services.persistence.chat.refusals import answer
from services.persistence.domain.log import Log, Request
from services.persistence.domain.outcomes import AppendedPosition, Outcome, Recheck, TooLarge
from services.shared.errors import Busy, ErrorCode, Unavailable
from services.shared.hotlog.hotlog import CHANGES_MEMBERSHIP, ERASES, GRANTS, Item
from thalamus.common.v1 import common_pb2

__all__ = ["Appended", "Appender", "NewEvent", "OnResult", "Options", "Refused", "Result"]

logger = logging.getLogger(__name__)

_PATIENCE_S = 2.5  # how long an event is decided again: edges give up after 2.8 s
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.002, 0.1  # until what changed the membership is readable
_NEVER = 2**53  # a guard that no log has: such an item only tells whether its key is known
_OF_USERS = CHANGES_MEMBERSHIP | GRANTS
_BARRIER = CHANGES_MEMBERSHIP | GRANTS | ERASES  # what has one of these flags is stored before it is acknowledged
_FLAG_BYTES = [common_pb2.Publication(flags=flags).SerializeToString() for flags in range(16)]


_UNAVAILABLE = Refused(ErrorCode.INTERNAL, "unavailable")


class _Attempt:
    """An event on its way into the log."""

    __slots__ = ("deadline", "event", "index", "is_plain", "key", "live", "mark", "mv", "new", "on_result")

    def __init__(self, index: int, new: NewEvent, event: Event, on_result: OnResult, deadline: float) -> None:
        self.index, self.new, self.event, self.on_result, self.deadline = index, new, event, on_result, deadline
        self.is_plain = event.thread is None if isinstance(event, events.Message) else isinstance(event, events.Custom)
        self.key = new.key or key_of(event) or new.publication_id.hex()
        self.live: Live | None = None  # with which it was decided last
        self.mark: Mark | None = None  # of an event that erases something
        self.mv = 0  # membership version that it must be decided with

    def tell(self, result: Result) -> None:
        self.on_result(self.index, result)


class Appender:
    """Appends events of conversations; see the module."""

    def __init__(
        self,
        log: Log,
        conversations: Conversations,
        projection: Projection,
        eraser: Eraser,
        fates: Fates,
        marks: Marks,
        clock: Callable[[], float],
    ) -> None:
        """Create it; `clock` returns the time of Redis, Unix seconds."""
        self._log, self._conversations, self._projection, self._marks = log, conversations, projection, marks
        self._eraser, self._fates = eraser, fates
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._folding: dict[str, list[tuple[_Attempt, AppendedPosition]]] = {}

    async def append(self, event: NewEvent) -> Result:
        """Append one event."""
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

        def tell(_: int, found: Result) -> None:
            if not result.done():
                result.set_result(found)

        self.submit([event], tell)
        return await result

    def submit(self, new: Sequence[NewEvent], on_result: OnResult) -> None:
        """Append events; `on_result` gets the index of each and its result.

        It may be called before this returns. What nothing must be waited for is appended in one batch.
        """
        deadline, now_ms = asyncio.get_running_loop().time() + _PATIENCE_S, self._now_ms()
        ready: list[_Attempt] = []
        requests: list[Request] = []
        to_mark: list[_Attempt] = []
        marked: list[Request] = []
        for index, one in enumerate(new):
            found = read_new(one)
            if isinstance(found, Refused):
                on_result(index, found)
                continue
            attempt = _Attempt(index, one, found, on_result, deadline)
            live = self._conversations.cached(one.channel)
            if (
                live is None
                or not (attempt.is_plain or all(map(live.knows, names(found))))
                or why_not(live.state, found, one.author, now_ms) is not None
                or self._waits(live, attempt)
            ):
                self._start(self._decide(attempt), attempt)
            elif attempt.is_plain:
                requests.append(self._request(live, attempt, now_ms))
                ready.append(attempt)
            else:
                marked.append(self._request(live, attempt, now_ms))
                to_mark.append(attempt)
        if requests:
            self._log.append(requests, lambda index, outcome: self._settled(ready[index], outcome))
        if to_mark:
            self._start(self._append_marked(to_mark, marked), *to_mark)

    async def close(self, timeout_s: float = 3.0) -> None:
        """Wait for what is under way; the log must still be running."""
        await self._log.drain(timeout_s)
        while self._tasks:
            await asyncio.wait(self._tasks)
            await self._log.drain(timeout_s)

    # Deciding.

    def _now_ms(self) -> int:
        return int(self._clock() * 1_000)

    def _waits(self, live: Live, attempt: _Attempt) -> bool:
        """Whether slow mode holds for the event."""
        author = attempt.new.author
        return (
            live.state.settings.slow_mode_s > 0
            and isinstance(attempt.event, (events.Message, events.Custom))
            and author != PLATFORM
            and not has_right(live.state, author, Right.MODERATE, self._now_ms())
        )

    async def _decide(self, attempt: _Attempt) -> None:
        """Decide an event with the newest state, and append it or tell why not."""
        new, event = attempt.new, attempt.event
        creates = isinstance(event, events.Lifecycle) and event.op == "create"
        live = await self._conversations.current(new.channel, begin=creates)
        pause_s = _FIRST_PAUSE_S
        while live.position < attempt.mv and pause_s <= _LONGEST_PAUSE_S:  # it is numbered, and not readable yet
            await asyncio.sleep(pause_s)
            pause_s *= 2
            live = await self._conversations.current(new.channel)
        await self._conversations.prepare(live, event)
        now_ms = self._now_ms()
        why = why_not(live.state, event, new.author, now_ms)
        if why is not None:
            code, word, text = answer(live.state, new.author, now_ms - EARLIER_MS, why)
            await self._refuse(attempt, live, Refused(code, word, text))
            return
        request = self._request(live, attempt, now_ms)  # with the version that it was decided with
        if self._waits(live, attempt):
            seconds = live.state.settings.slow_mode_s
            wait_ms = await self._marks.wait_ms(new.channel, new.author, seconds, new.publication_id)
            if wait_ms:
                refused = Refused(ErrorCode.TOO_MANY_REQUESTS, "slow_mode", "too soon after the last message", wait_ms)
                await self._refuse(attempt, live, refused)
                return
        if attempt.is_plain:
            self._log.append([request], lambda _, outcome: self._settled(attempt, outcome))
        else:
            await self._append_marked([attempt], [request])

    async def _refuse(self, attempt: _Attempt, live: Live, refused: Refused) -> None:
        """Refuse an event, unless its key has a place in the log."""
        if attempt.mark is not None:
            self._eraser.end(attempt.mark)
        new = attempt.new
        if live.epoch and await self._marks.has_key(new.channel, live.epoch, new.key_user, attempt.key):
            item = Item(new.publication_id, new.publication, new.key_user, attempt.key, guard=_NEVER)
            known: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
            request = Request(new.channel, item, new.options.history_size, new.options.history_ttl_s)
            self._log.append([request], lambda _, outcome: None if known.done() else known.set_result(outcome))
            outcome = await known
            if isinstance(outcome, AppendedPosition):
                await self._tell_repeated(attempt, outcome)
                return
            if not isinstance(outcome, Recheck):
                attempt.tell(_refusal_of(outcome))
                return
        attempt.tell(refused)

    # Numbering.

    def _request(self, live: Live, attempt: _Attempt, now_ms: int) -> Request:
        """Return what the log is to append, with the state's version as guard."""
        attempt.live, event = live, attempt.event
        channel, publication, publication_id, author, _, options, key_user, _, _ = attempt.new
        history_size, history_ttl_s, feed, *_ = options
        flags, is_guarded = flags_of(live.state, event, author)
        item = Item(
            publication_id,
            publication + _FLAG_BYTES[flags],
            key_user,
            attempt.key,
            author,
            flags,
            live.mv if is_guarded else None,
            None if attempt.is_plain else latest_ms(live.state, event, author, now_ms),
            not feed,  # hidden
            users_of(event, author) if flags & _OF_USERS else b"",
            live.epoch if is_guarded else "",
        )
        return Request(channel, item, history_size, history_ttl_s, options.queued and not flags & _BARRIER)

    async def _append_marked(self, attempts: Sequence[_Attempt], requests: Sequence[Request]) -> None:
        """Mark the conversations of decided events, and append them."""
        await self._projection.begin([attempt.new.channel for attempt in attempts])
        try:
            await self._mark_erasing(attempts, requests)
        except BaseException:
            for attempt in attempts:
                self._projection.end(attempt.new.channel)
            raise
        self._log.append(requests, lambda index, outcome: self._settled(attempts[index], outcome))

    async def _mark_erasing(self, attempts: Sequence[_Attempt], requests: Sequence[Request]) -> None:
        """Mark what erases something, so that it is finished if this process dies."""
        places = [
            (attempt, attempt.live)
            for attempt, request in zip(attempts, requests, strict=True)
            if request.item.flags & ERASES and attempt.live is not None and attempt.mark is None
        ]
        if places:
            marks = await self._eraser.begin([live for _, live in places])
            for (attempt, _), mark in zip(places, marks, strict=True):
                attempt.mark = mark

    def _settled(self, attempt: _Attempt, outcome: Outcome) -> None:
        """Take the outcome of the log."""
        live = attempt.live
        if isinstance(outcome, AppendedPosition):
            if not attempt.is_plain:
                self._fold_soon(attempt, outcome)
                return
            if live is not None and live.epoch == outcome.epoch:
                if outcome.repeated_key:  # it may be of another event
                    live.seen = max(live.seen, outcome.offset)
                else:
                    live.acked(outcome.offset, attempt.event, attempt.new.author)
                self._projection.grew(live)
            if outcome.repeated_key:
                self._start(self._tell_repeated(attempt, outcome), attempt)
            else:
                attempt.tell(Appended(*outcome))
            return
        if not attempt.is_plain:
            self._projection.end(attempt.new.channel)
        if isinstance(outcome, Recheck) and asyncio.get_running_loop().time() < attempt.deadline:
            RECHECKS.inc()
            attempt.mv = outcome.mv
            self._start(self._decide(attempt), attempt)
        else:
            if attempt.mark is not None:
                (self._eraser.leave if isinstance(outcome, Unavailable) else self._eraser.end)(attempt.mark)
            attempt.tell(_refusal_of(outcome))

    # Telling.

    def _fold_soon(self, attempt: _Attempt, position: AppendedPosition) -> None:
        """Tell of an event once it is folded; one task for all of a conversation."""
        channel = attempt.new.channel
        if channel in self._folding:
            self._folding[channel].append((attempt, position))
        else:
            self._folding[channel] = [(attempt, position)]
            self._start(self._fold(channel))

    async def _fold(self, channel: str) -> None:
        try:
            while waiting := self._folding[channel]:
                self._folding[channel] = []
                try:
                    await self._tell_folded(channel, waiting)
                except Exception as error:  # they are in the log, and whether they apply is not known
                    self._fail([attempt for attempt, _ in waiting], error)
                for _ in waiting:
                    self._projection.end(channel)
        finally:
            del self._folding[channel]

    async def _tell_folded(self, channel: str, waiting: Sequence[tuple[_Attempt, AppendedPosition]]) -> None:
        epoch = waiting[-1][1].epoch
        if any(position.epoch != epoch for _, position in waiting):
            raise Unavailable("the log has got another epoch")
        live = await self._conversations.upto(channel, max(position.offset for _, position in waiting), epoch)
        fates = await self._fates.of(live, [position.offset for _, position in waiting])
        quick: list[tuple[_Attempt, Appended]] = []
        slow: list[tuple[_Attempt, Appended]] = []  # there may be much to erase, and others need not wait for it
        for attempt, position in waiting:
            result = Appended(*position, fates[position.offset])
            (quick if attempt.mark is None else slow).append((attempt, result))
        if slow:
            self._start(self._tell_erased(live, slow), *(attempt for attempt, _ in slow))
        await self._guarded(self._tell_erased(live, quick), [attempt for attempt, _ in quick])

    async def _tell_repeated(self, attempt: _Attempt, position: AppendedPosition) -> None:
        """Tell what became of the event that has the key already."""
        live = await self._conversations.upto(attempt.new.channel, position.offset, position.epoch)
        fates = await self._fates.of(live, [position.offset])
        attempt.tell(Appended(position.offset, position.epoch, repeated_key=True, void=fates[position.offset]))

    async def _tell_erased(self, live: Live, folded: Sequence[tuple[_Attempt, Appended]]) -> None:
        """Erase what folded events erase, and tell of them."""
        marks = [attempt.mark for attempt, _ in folded if attempt.mark is not None]
        await self._eraser.after(live, [Folded(one.event, at.offset, at.void) for one, at in folded], marks)
        for attempt, result in folded:
            attempt.tell(result)

    def _start(self, work: Coroutine[Any, Any, None], *attempts: _Attempt) -> None:
        """Do something in a task; if it fails, the attempts are unavailable."""
        task = asyncio.create_task(self._guarded(work, attempts))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Coroutine[Any, Any, None], attempts: Sequence[_Attempt]) -> None:
        try:
            await work
        except Exception as error:
            self._fail(attempts, error)

    def _fail(self, attempts: Sequence[_Attempt], error: Exception) -> None:
        """Tell that the outcome of events is not known; a sweep erases what they do."""
        if not isinstance(error, Unavailable):
            logger.error("an event could not be appended", exc_info=error)
        for attempt in attempts:
            if attempt.mark is not None:
                self._eraser.leave(attempt.mark)
            attempt.tell(_UNAVAILABLE)


def _refusal_of(outcome: Outcome) -> Refused:
    if isinstance(outcome, TooLarge):
        return Refused(ErrorCode.LIMIT_EXCEEDED, "too_large", str(outcome))
    if isinstance(outcome, Busy):
        return Refused(ErrorCode.TOO_MANY_REQUESTS, "busy", str(outcome), int(outcome.retry_after_s * 1_000))
    return _UNAVAILABLE
