"""What is erased from the log of a conversation, and when.

Purpose. What a member deletes is gone: from the log, its files, and Redis. `domain/erasures.py` erases, and this module
says what.

Rules.

* A `delete` erases the message, its edits and its reactions, as far as they are known, before anybody can read the
  event (`resolve`); of more than 49 edits and reactions, the rest right after. Whatever process makes the event
  readable asks for it.
* After the fold, and before the answer, it is erased once more (`after`): what was numbered between the decision and
  the event is known by then. Messages and edits that turn out to be void erase themselves:
  no delete and no purge would find them.
* Where the setting `versions` is `erase`, an edit empties the versions before it, after the fold: another edit may have
  come first.
* A `purge` erases all messages of a user, page by page. The answer waits for it for 2 s; then it goes on behind the
  answer. Until it is done, its messages are deleted for every reader, and stand in the log.
* The deletion of a conversation removes its history below the event.
* A mark in Redis stands for what is not finished (`erasure_marks.py`). Any replica finishes what a dead one left.

Example. 5 is a message, 7 an edit of it, 9 its delete. Once the store has 9, the rows 5 and 7 are tombstones; then 9 is
readable. An edit at 8, which nobody had folded when 9 was stored, is replaced before the answer.

Trade-offs. A delete reads the rows that it erases, twice. A tombstone of a message names the root of its thread, for
replicas that fold the delete after the message was erased.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from services.persistence.chat.conversations import Conversations
from services.persistence.chat.domain import events
from services.persistence.chat.domain.names import type_of
from services.persistence.chat.domain.rules import Why
from services.persistence.chat.domain.state import Deleted, Message
from services.persistence.chat.erasure_marks import ErasureMarks, Mark
from services.persistence.chat.fates import Fates
from services.persistence.chat.first_deletion import FirstDeletion
from services.persistence.chat.live import Event, Live
from services.persistence.chat.ports import ChatStore
from services.persistence.chat.rotation import Rotation
from services.persistence.chat.rows import parsed_row, read_publications
from services.persistence.chat.tombstones import emptied, tombstone, void_tombstone
from services.persistence.domain.log import Log
from services.persistence.domain.ports import LogStore, Row, Rows
from services.persistence.metrics import ERASURE_OLDEST
from services.shared.errors import Unavailable
from services.shared.hotlog.hotlog import ERASES
from services.shared.process.cancellation import end_task

logger = logging.getLogger(__name__)

_TICK_S = 0.5  # seconds between removals of marks
_SWEEP_S = 5.0  # seconds between sweeps
_AGE_S = 30.0  # after which a mark is of nobody who lives; an event takes 3 s, longer work is known to its process
_SWEPT_AT_ONCE = 50
_PURGE_S = 2.0  # longest wait of an answer for a purge
_PAGE_ROWS = 256
_PAGE_BYTES = 1 << 20
_ERASED_AT_ONCE = 50  # rows: DynamoDB takes two requests for each
_MOST_BEFORE = 49  # edits and reactions erased before a delete is readable: all wait, and DynamoDB has 2 s for it
_VERSIONS_AT_ONCE = 8  # of a message, that are looked at


class Folded(NamedTuple):
    """An event of a conversation that was folded; `void`: it changed nothing."""

    event: Event
    offset: int
    void: Why | None


class Eraser:
    """Erases what events of conversations delete; see the module.

    Methods raise `Unavailable` if Redis or the store does not answer; repeating is safe.
    """

    def __init__(
        self,
        log: Log,
        rows: Rows,
        stored: LogStore,
        store: ChatStore,
        conversations: Conversations,
        marks: ErasureMarks,
    ) -> None:
        """Create it; `stored` is the store of the log. From now on the log asks it."""
        self._log, self._rows, self._conversations, self._marks = log, rows, conversations, marks
        self._stored = stored
        self._fates = Fates(store)
        self._first = FirstDeletion(stored, store, conversations)
        self._rotation = Rotation()
        self._own: set[bytes] = set()  # marks of this process
        self._ended: list[bytes] = []  # marks to remove
        self._tasks: set[asyncio.Task[None]] = set()
        self.gone: dict[str, int] = {}  # channel → offset up to which no message is left, while that is known
        log.erasures.resolve = self.resolve

    async def begin(self, lives: Sequence[Live]) -> list[Mark]:
        """Mark conversations before an event is appended that erases something."""
        marks = await self._marks.set([(live.channel, live.position) for live in lives])
        self._own.update(mark.name for mark in marks)
        return marks

    def end(self, mark: Mark) -> None:
        """Note that an event was not appended, or all is erased."""
        self._own.discard(mark.name)
        self._ended.append(mark.name)

    def leave(self, mark: Mark) -> None:
        """Note that the outcome is unknown: a sweep will look."""
        self._own.discard(mark.name)

    async def resolve(self, row: Row) -> Mapping[int, bytes]:
        """Return what takes the places of what a row erases, before it is readable."""
        if type_of(row.channel) is None:
            return {}
        event, _ = parsed_row(row.offset, row.publication)
        if not isinstance(event, events.Delete):
            return {}
        of = event.of
        known = await self._first.known(row.channel, of, row.offset)
        message = await read_publications(self._stored, row.channel, (of,))
        by, about = await self._first.of(known, message.get(of), of, row.offset)
        # What was not known first: of the rest it is known where it stands.
        found = message | await read_publications(self._stored, row.channel, (*about, *known.about)[:_MOST_BEFORE])
        erased: dict[int, bytes] = {}
        for offset, one in found.items():
            made = tombstone(one, offset=offset, of=of, by=by, again=False)
            if made is not None:
                erased[offset] = made
            elif isinstance(parsed_row(offset, one)[0], events.Erased):
                erased[offset] = one  # of a process that failed behind the store: Redis may have the former one
        return erased

    async def after(self, live: Live, folded: Iterable[Folded], marks: Sequence[Mark] = ()) -> None:
        """Erase what events that were folded erase, before their answers."""
        epoch = live.epoch  # offsets are of this one
        deletes: set[int] = set()
        purges: list[tuple[events.Purge, int]] = []
        for event, offset, void in folded:
            match event:
                case events.Delete():
                    deletes.add(event.of)
                case events.Edit() if void is None and live.state.settings.versions == "erase":
                    await self._empty_versions(live, event.of)
                case events.Edit() if void is Why.DELETED:
                    await self._erase_late_edit(live, epoch, event.of, offset)
                case events.Edit() | events.Message() if void is not None:
                    await self._erase_void(live, epoch, {offset: void})
                case events.Purge() if void is None:
                    purges.append((event, offset))
                case events.Lifecycle(op="delete") if void is None:
                    await self._log.remove_history(live.channel, offset - 1)
        await self._erase(live, deletes)
        if purges:
            task = asyncio.create_task(self._purge(live, purges, marks))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            await asyncio.wait({task}, timeout=_PURGE_S)
        else:
            for mark in marks:
                self.end(mark)

    async def erase_void(self, live: Live) -> None:
        """Erase messages and edits that are void, as far as it is known which are."""
        epoch, void = live.epoch, dict(live.void)
        late = [offset for offset, why in void.items() if why is Why.DELETED]
        for offset, publication in (await read_publications(self._rows, live.channel, late)).items():
            event, _ = parsed_row(offset, publication)
            if isinstance(event, events.Edit):
                await self._erase_late_edit(live, epoch, event.of, offset)
        await self._erase_void(live, epoch, void)

    async def again(self, channel: str, offsets: Collection[int]) -> None:
        """Erase those of these messages that are deleted, if they are there again.

        The same of what is about them.
        """
        await self._erase(await self._conversations.current(channel), offsets)

    async def run(self) -> None:
        """Remove marks and sweep, until cancelled."""
        loop = asyncio.get_running_loop()
        sweep_at = loop.time()
        try:
            while True:
                await asyncio.sleep(_TICK_S)  # at the start Redis was not compared with the store yet
                try:
                    await self.flush()
                    if loop.time() >= sweep_at:
                        sweep_at = loop.time() + _SWEEP_S
                        await self.sweep(_AGE_S)
                except Unavailable as error:
                    logger.warning("what is to be erased can't be read", extra={"error": str(error)})
        finally:
            for task in list(self._tasks):
                await end_task(task)

    async def flush(self) -> None:
        """Remove the marks of what is done."""
        names, self._ended = self._ended, []
        if names:
            try:
                await self._marks.remove(names)
            except BaseException:
                self._ended += names
                raise

    async def sweep(self, age_s: float) -> int:
        """Finish what processes have left that died; return how many marks that were."""
        ERASURE_OLDEST.labels("log").set(await self._marks.oldest_s())
        done = 0
        found = await self._marks.settled(age_s, _SWEPT_AT_ONCE, self._rotation.skip)
        for mark in found:
            if mark.name in self._own:
                continue
            self._own.add(mark.name)
            try:
                await self._finish(mark)
                done += 1
            except Exception as error:
                self.leave(mark)
                _log(mark.channel, error)
        await self.flush()
        self._rotation.swept(left=len(found) - done, is_end=len(found) < _SWEPT_AT_ONCE)
        return done

    async def _finish(self, mark: Mark) -> None:
        """Erase again what the events above a mark erase."""
        live = await self._conversations.current(mark.channel)
        folded: list[Folded] = []
        since = mark.position
        while rows := await self._rows.read_counted(
            mark.channel, since_offset=since, upto=live.position, limit=_PAGE_ROWS, reverse=False, max_bytes=_PAGE_BYTES
        ):
            since = rows[-1].offset
            fates = await self._fates.of(live, [row.offset for row in rows])
            for row in rows:
                void = fates[row.offset]
                if row.flags & ERASES or void is Why.DELETED:
                    event, _ = parsed_row(row.offset, row.publication)
                    if event is not None:
                        folded.append(Folded(event, row.offset, void))
        await self.after(live, folded, [mark])

    # What there is to erase.

    async def _tombstones(self, channel: str, places: Mapping[int, tuple[int, int]]) -> dict[int, bytes]:
        """Return the tombstones of rows; `places`: offset → (message, by which event)."""
        found: dict[int, bytes] = {}
        for offset, row in (await read_publications(self._rows, channel, places)).items():
            of, by = places[offset]
            made = tombstone(row, offset=offset, of=of, by=by)
            if made is not None:
                found[offset] = made
        return found

    async def _erase(self, live: Live, offsets: Collection[int]) -> None:
        """Erase those of these messages that are deleted, and what is about them."""
        if not offsets:
            return
        found = await self._conversations.messages(live, offsets)
        places: dict[int, tuple[int, int]] = {}
        for of, message in found.items():
            if isinstance(message, Deleted):
                places |= dict.fromkeys((of, *message.about), (of, message.by))
        await self._erase_places(live.channel, live.epoch, places)

    async def _empty_versions(self, live: Live, of: int) -> None:
        """Empty the versions of a message before its present one.

        The newest are looked at first, up to those that earlier edits have emptied.
        """
        message, epoch = (await self._conversations.messages(live, [of])).get(of), live.epoch
        if not isinstance(message, Message):
            return
        rev, found = message.rev, dict[int, bytes]()
        older = [offset for offset in (of, *message.edits) if offset < rev]
        while older:
            some, older = older[-_VERSIONS_AT_ONCE:], older[:-_VERSIONS_AT_ONCE]
            rows = await read_publications(self._rows, live.channel, some)
            made = {offset: emptied(row, offset=offset, of=of, rev=rev) for offset, row in rows.items()}
            if not any(made.values()):
                break
            found |= {offset: row for offset, row in made.items() if row is not None}
        await self._replace(live.channel, epoch, found)

    async def _erase_void(self, live: Live, epoch: str, void: Mapping[int, Why]) -> None:
        rows = await read_publications(self._rows, live.channel, void)
        made = {offset: void_tombstone(row, offset=offset, why=void[offset]) for offset, row in rows.items()}
        await self._log.erase(live.channel, {offset: row for offset, row in made.items() if row is not None}, epoch)

    async def _erase_late_edit(self, live: Live, epoch: str, of: int, offset: int) -> None:
        found = await self._conversations.messages(live, [of])
        message = found.get(of)
        if isinstance(message, Deleted):
            await self._erase_places(live.channel, epoch, {offset: (of, message.by)})

    async def _erase_places(self, channel: str, epoch: str, places: Mapping[int, tuple[int, int]]) -> None:
        messages = {offset for offset, (of, _) in places.items() if offset == of}
        # Messages last: whoever goes on finds the rest by them.
        offsets = [*sorted(places.keys() - messages), *sorted(messages)]
        for start in range(0, len(offsets), _ERASED_AT_ONCE):
            some = {offset: places[offset] for offset in offsets[start : start + _ERASED_AT_ONCE]}
            made = await self._tombstones(channel, some)
            for part in (made.keys() - messages, made.keys() & messages):
                if part:
                    await self._log.erase(channel, {offset: made[offset] for offset in part}, epoch)

    async def _replace(self, channel: str, epoch: str, publications: Mapping[int, bytes]) -> None:
        """Erase the oldest first: who finds one erased takes those before it to be, too."""
        offsets = sorted(publications)
        for start in range(0, len(offsets), _ERASED_AT_ONCE):
            some = {one: publications[one] for one in offsets[start : start + _ERASED_AT_ONCE]}
            await self._log.erase(channel, some, epoch)

    async def _purge(self, live: Live, purges: Sequence[tuple[events.Purge, int]], marks: Sequence[Mark]) -> None:
        """Erase all messages of users, and remove the marks then."""
        try:
            uptos: dict[str, int] = {}
            for event, by in purges:
                uptos[event.user] = max(uptos.get(event.user, 0), min(event.upto, by - 1))
            await self._erase_messages_of(live, uptos)
            for mark in marks:
                self.end(mark)
        except Exception as error:  # the mark stays, and a sweep goes on
            _log(live.channel, error)
        finally:
            self._own.difference_update(mark.name for mark in marks)

    async def _erase_messages_of(self, live: Live, uptos: Mapping[str, int]) -> None:
        """Erase the messages of users, each up to an offset."""
        since, last = self.gone.get(live.channel, 0), max(uptos.values())
        while rows := await self._rows.read(
            live.channel, since_offset=since, upto=last, limit=_PAGE_ROWS, reverse=False, max_bytes=_PAGE_BYTES
        ):
            since = rows[-1][0]
            parsed = [parsed_row(offset, publication) for offset, publication in rows]
            own = [
                entry.offset
                for event, entry in parsed
                if isinstance(event, events.Message) and entry.offset <= uptos.get(entry.author, 0)
            ]
            await self._erase(live, own)
            if own:  # their documents have content, too: of edits, and names of reactions
                await self._conversations.write(live, own)


def _log(channel: str, error: Exception) -> None:
    """Log why something could not be erased."""
    if isinstance(error, Unavailable):
        logger.warning("it can't be erased now", extra={"channel": channel, "error": str(error)})
    else:
        logger.error("it could not be erased", exc_info=error, extra={"channel": channel})
