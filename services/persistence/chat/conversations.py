"""Conversations at their newest position: read model, then tail of the log.

Purpose. A conversation is the fold of its log. `current` brings it up to the newest readable position: what the read
model has (`ChatStore`), and behind it the rows of the log. It stays in memory, so the next time only new rows are read.

Rules.

* `current` asks for the readable top after it was called. So who was told of an acknowledged event finds it here.
* Before an event is folded, the messages that it names are loaded: their document in the read model, else their row.
* A document that is newer than the position means that another replica wrote the read model meanwhile. Then the
  conversation is loaded anew, in place; the object stays the same. While a reply was found erased of which the event is
  still to come, so is a document that is newer than the read model was: other replicas may count that reply.
* The read model is written on condition that it is as it was when it was read (`write`). Who comes second loads anew.
* Rows that are missing were removed by the deletion of the conversation, which is the next one: it applies. Documents
  go after them. So who has read documents looks whether history was removed meanwhile: some may have been gone.
* The read model is written up to where the log is stored. So what Redis loses is in no read model, either.
* Another epoch: the store was restored, or Redis has lost what was not stored. What is in memory may be of what is
  lost, and the read model of a later time than a restored log: it is made again.
* At most 10,000 conversations, and 500,000 members in all, are in memory (`lives.py`).

Example. The read model has position 100, the log 103: two plain messages, and at 102 a reaction to 4. The rows 101 to
103 are read. Message 4 has no document, so its row is read, too. All is folded; 4 with its reaction, position 103.

Trade-offs. Loading and folding hold a lock of the conversation; decisions about its newest state do not. Who reads pays
one more question to Redis, whether history was removed meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from typing import TypeVar

from services.persistence.chat.documents import Overlay, live_of, message_of
from services.persistence.chat.domain import events
from services.persistence.chat.domain.fold import Entry
from services.persistence.chat.list_watcher import OnLeft, left
from services.persistence.chat.live import Event, Found, Live, names
from services.persistence.chat.lives import MAX_CHANNELS, MAX_PEOPLE, Lives
from services.persistence.chat.lookup import Ahead, Lookup
from services.persistence.chat.metrics import VOID
from services.persistence.chat.model_writer import ModelWriter
from services.persistence.chat.ports import ChatStore, Loaded
from services.persistence.chat.purging import Purging
from services.persistence.chat.remaking import MadeModel, replace
from services.persistence.chat.rows import entry_behind_removed, parsed_rows
from services.persistence.domain.log import Log
from services.persistence.domain.ports import Rows
from services.shared.errors import Unavailable
from services.shared.process.single_flight import SingleFlight

logger = logging.getLogger(__name__)

_ATTEMPTS = 5  # to fold while another replica writes the read model
_PAGE_ROWS = 512
_PAGE_BYTES = 4 << 20
_WRITE_AT = 80  # changes: one transaction of the store takes 100
_WRITE_EVERY = 1_024  # rows, while much is folded
_PAUSE_S = 0.02
T = TypeVar("T")


class Conversations:
    """Conversations of this process; see the module.

    Every method raises `Unavailable` if Redis or the store does not answer.
    """

    def __init__(
        self,
        log: Log,
        rows: Rows,
        store: ChatStore,
        *,
        max_channels: int = MAX_CHANNELS,
        max_people: int = MAX_PEOPLE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Create it.

        `rows` is the store of the log, `clock` returns the time of Redis, Unix seconds.
        """
        self._log, self._rows, self._store = log, rows, store
        self.writer = ModelWriter(log, store, clock)
        self._lives = Lives(max_channels, max_people)
        self._lookup = Lookup(rows, store)
        self.purging = Purging(rows, self._lookup)
        self._loading = SingleFlight[Live]()
        self.on_left: OnLeft | None = None  # before their leaving is written

    def cached(self, channel: str) -> Live | None:
        """Return the conversation as it is in memory, perhaps behind; None: it is not."""
        return self._lives.get(channel)

    def forget(self, channel: str) -> None:
        """Have a conversation read anew by who asks next."""
        self._lives.forget(channel)

    async def current(self, channel: str, *, begin: bool = False) -> Live:
        """Return the conversation at the newest readable position, or one beyond.

        A channel without a log is a conversation that was not created: phase `none`, position 0. None is begun, unless
        `begin`.
        """
        live = await self._opened(channel, begin=begin)
        if not live.epoch:
            return live
        top = await self._log.open(channel)
        if live.epoch != top.epoch or live.position < top.top:
            async with live.lock:
                if live.epoch != top.epoch:
                    await self._reload(live)
                await self._reach(live, top.top)
        live.removed = max(live.removed, top.removed)
        return live

    async def upto(self, channel: str, offset: int, epoch: str = "") -> Live:
        """Return the conversation at a readable position, or beyond.

        `epoch`: that of the position; "": the present one.
        """
        live = await self._opened(channel, begin=True)
        if live.position < offset or epoch not in ("", live.epoch):
            async with live.lock:
                if epoch not in ("", live.epoch):
                    await self._reload(live)
                if epoch not in ("", live.epoch):
                    raise Unavailable("the log has another epoch")
                await self._reach(live, offset)
        return live

    async def stored_position(self, live: Live) -> int:
        """Have the store take the log up to the conversation's position, and return that."""
        position = live.position
        await self.writer.have_stored(live.channel, live.epoch, position)
        return position

    async def prepare(self, live: Live, event: Event) -> None:
        """Load the messages that an event names, so that it can be decided."""
        if all(map(live.knows, names(event))):
            return
        async with live.lock:
            await self.load(live, list(names(event)))
            live.trim()

    async def messages(self, live: Live, offsets: Collection[int], *, has_lock: bool = False) -> dict[int, Found]:
        """Return those of these messages that there are.

        As of `live.position` when this returns. `has_lock`: the caller has the conversation's lock.
        They change with the conversation: use them before the next `await`.
        """
        async with nullcontext() if has_lock else live.lock:
            return await self._whole(live, lambda: self._lookup.found(live, offsets))

    async def messages_of(
        self, live: Live, rows: Sequence[tuple[int, bytes]], *, has_lock: bool = False
    ) -> Mapping[int, Found]:
        """Return the messages among rows of the log, as `messages` does.

        `rows`: (offset, publication), by offset in either direction. Those above the position are not looked at.
        """
        if not rows:
            return {}
        async with nullcontext() if has_lock else live.lock:
            return await self._whole(live, lambda: self._lookup.among(live, rows))

    async def overlays_between(self, live: Live, first: int, last: int) -> dict[int, Overlay]:
        """Return what became of messages from `first` to `last`; for who holds the lock.

        As of `live.position` when this returns, apart from what is in memory.
        """
        return await self._whole(live, lambda: self._lookup.overlays_between(live, first, last))

    async def missed_removal(self, live: Live) -> bool:
        """Whether history was removed that was thought to be there.

        For who holds the lock. Then the conversation is brought up to the newest position.
        """
        if not live.epoch:  # there is no log, and asking would begin one
            return False
        top = await self._log.open(live.channel)
        if top.epoch != live.epoch:
            await self._reload(live)
        elif top.removed <= live.removed:
            return False
        await self._reach(live, top.top)
        live.removed = max(live.removed, top.removed)
        return True

    async def write(self, live: Live, purged: Collection[int] = ()) -> None:
        """Bring the read model up to the conversation's position.

        `purged`: messages whose documents are written again without content, if a purge took them.
        """
        async with live.lock:
            await self._reach(live, live.seen)
            for _ in range(_ATTEMPTS):
                if purged:
                    await self.load(live, purged)
                    live.unwritten.touch_deleted(purged, live.state.messages)
                await self._tell_left(live)
                if await self.writer.write(live):
                    live.left.clear()
                    live.trim()
                    return
                upto = live.position
                await self._reload(live)
                await self._reach(live, upto)
        raise Unavailable("other replicas write the read model all the time")

    async def remake(self, channel: str, loaded: Loaded, upto: int) -> bool:
        """Replace what is kept of a conversation by what its log says; return whether.

        `loaded`: what is kept. `upto`: for which position; not below what is kept.
        """

        async def fold(made: MadeModel) -> None:
            apart = Conversations(self._log, self._rows, made)
            apart.purging.lowest_mark = self.purging.lowest_mark
            await apart.write(await apart.upto(channel, upto))

        return await replace(self._store, self.writer.list_watcher, channel, loaded, upto, fold)

    async def load(self, live: Live, offsets: Collection[int]) -> None:
        """Have messages in memory, if there are any; for who holds the lock."""

        async def load() -> None:
            live.keep(await self._lookup.fetch(live, [offset for offset in offsets if not live.knows(offset)]))

        await self._again(live, load)

    # Loading a conversation.

    async def _opened(self, channel: str, *, begin: bool) -> Live:
        return self.cached(channel) or await self._loading.do((channel, begin), lambda: self._load(channel, begin))

    async def _load(self, channel: str, begin: bool) -> Live:
        if not begin and not await self._log.has_begun(channel):
            return Live(channel, "")
        return self._lives.add(await self._read_model(channel))

    async def _read_model(self, channel: str) -> Live:
        """Return what the read model has, if it is of the log's epoch."""
        epoch = (await self._log.open(channel)).epoch
        loaded = await self._store.load(channel)
        if loaded is None:
            return Live(channel, epoch)
        live = live_of(channel, loaded)
        if live.epoch != epoch:
            logger.warning("the read model is of another epoch and is made again", extra={"channel": channel})
            await self._store.drop(channel, loaded)
            return await self._read_model(channel)  # another replica may have made it already
        return live

    async def _reload(self, live: Live) -> None:
        """Take what the read model has, in place."""
        live.become(await self._read_model(live.channel))

    # Folding; for who holds the lock.

    async def _reach(self, live: Live, offset: int) -> None:
        """Fold the log up to a readable offset, if it is not."""
        for attempt in range(_ATTEMPTS):
            try:
                while live.position < offset:
                    await self._fold_page(live, max(offset, live.seen))
                return
            except Ahead:
                await self._take_over(live, attempt)
        raise Unavailable("other replicas write the read model all the time")

    async def _again(self, live: Live, work: Callable[[], Awaitable[T]]) -> T:
        """Do what loads messages; again, if the read model turns out to be newer."""
        upto = live.position
        for attempt in range(_ATTEMPTS):
            try:
                return await work()
            except Ahead:
                await self._take_over(live, attempt)
                await self._reach(live, upto)
        raise Unavailable("other replicas write the read model all the time")

    async def _whole(self, live: Live, work: Callable[[], Awaitable[T]]) -> T:
        """Do what reads messages; again, if their documents may have gone meanwhile."""
        while True:
            found = await self._again(live, work)
            if not await self.missed_removal(live):
                return found

    async def _take_over(self, live: Live, attempt: int) -> None:
        """Load anew what another replica has written.

        If that is never whole, the replica died in the midst of it; then the read model is made again.
        """
        if attempt == _ATTEMPTS - 2:
            loaded = await self._store.load(live.channel)
            if loaded is not None and loaded.position == live.projected:  # nobody goes on with it
                logger.warning("the read model is not whole and is made again", extra={"channel": live.channel})
                await self.remake(live.channel, loaded, (await self._log.open(live.channel)).top)
        elif attempt:
            await asyncio.sleep(_PAUSE_S * attempt)
        await self._reload(live)

    async def _fold_page(self, live: Live, upto: int) -> None:
        """Fold the next rows, up to an offset at most."""
        since = live.position
        rows = await self._rows.read_counted(
            live.channel, since_offset=since, upto=upto, limit=_PAGE_ROWS, reverse=False, max_bytes=_PAGE_BYTES
        )
        if not rows:  # they were removed
            live.skip(upto, mv=live.mv)
            return
        parsed = parsed_rows(rows)
        await self._load_named(live, [event for event, _ in parsed.values()], since)
        for row in rows:
            one = parsed.get(row.offset)
            if row.offset <= live.position:  # an own message, taken in meanwhile; something names it
                if one is not None and (message := message_of(live, row.offset, None, one)) is not None:
                    live.keep({row.offset: message})
            elif one is None:
                live.skip(row.offset, mv=row.mv, plain=row.publication)
            else:
                event, entry = one
                if row.offset > live.position + 1:
                    entry = entry_behind_removed(live.state, live.channel, row, entry)
                await self._fold(live, event, entry, row.mv)
        live.trim()
        self._lives.weigh(live)
        if live.position - (live.projected or 0) >= _WRITE_EVERY and not await self.writer.write(live):
            raise Ahead

    async def _fold(self, live: Live, event: Event | None, entry: Entry, mv: int) -> None:
        replies = await self.purging.before(live, event, entry) if isinstance(event, events.Purge) else {}
        why = live.fold(event, entry, mv, replies)
        if why is not None:
            VOID.inc()
        if len(live.unwritten) >= _WRITE_AT and not await self.writer.write(live):
            raise Ahead

    async def _load_named(self, live: Live, some: Sequence[Event | None], since: int) -> None:
        """Load what events name, if it is at `since` or below: the rest is to be folded."""
        named = {offset for event in some for offset in names(event) if offset <= since and not live.knows(offset)}
        live.keep(await self._lookup.fetch(live, named))
        targets = (live.state.messages.get(event.of) for event in some if isinstance(event, events.Delete))
        roots = {one.thread for one in targets if one is not None and one.thread is not None}
        live.keep(await self._lookup.fetch(live, [root for root in roots if root <= since and not live.knows(root)]))

    # Behind the write of the read model; for who holds the lock.

    async def _tell_left(self, live: Live) -> None:
        """Tell who has left, before that is written, and did not come back."""
        await self.writer.learn_gone(live)
        live.left |= left(live)
        if self.on_left is None or not live.left:
            return
        users = list(live.left)

        async def away() -> set[str]:
            await self._reach(live, (await self._log.open(live.channel)).top)
            return {user for user in users if user not in live.state.members}

        await self.on_left(live.channel, users, away)
