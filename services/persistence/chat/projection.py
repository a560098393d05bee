"""Writes the read model behind the log.

Purpose. Readers are exact without it: they fold what the log has behind the read model. It keeps that tail short, so
that loading a conversation is quick, and lists and directories are up to date.

Rules.

* Before an event that may change something is appended, its conversation is marked in Redis (`begin`). The mark goes
  once it is written. A process that dies in between leaves the mark, and the sweep of any replica finishes its work.
* A conversation is written about a second after its first change, so a burst costs one write.
* What else follows from the log, as the index of messages, does a bounded part of its work with each write
  (`on_written`). The mark stays until all of it is done, and other conversations do not wait for that.
* Plain messages alone are written every 256, so that nobody must read a long tail.

Example. 30 reactions within a second: 30 events in the log, one write of the documents of their messages.

Trade-offs. Of two replicas that write at the same time one is refused, and reads the model again. A random delay makes
that rarer.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection

from services.persistence.chat.conversations import Conversations
from services.persistence.chat.live import Live
from services.persistence.chat.marks import Marks
from services.persistence.chat.metrics import PROJECTION_LAG
from services.persistence.chat.rotation import Rotation
from services.shared.errors import Unavailable

logger = logging.getLogger(__name__)

_SOON_S = (0.4, 1.0)  # seconds from a change to its write
_LONG_TAIL = 256  # plain messages behind the read model
_TICK_S = 0.1
_SWEEP_S = 5.0  # seconds between sweeps, and after which a mark is of nobody who lives
_SWEPT_AT_ONCE = 100
_WRITTEN_AT_ONCE = 8


class Projection:
    """Writes of the read model by this process; see the module."""

    def __init__(self, conversations: Conversations, marks: Marks) -> None:
        self._conversations, self._marks = conversations, marks
        self._due: dict[str, float] = {}  # channel → when to write it, by the clock of the loop
        self._open: Counter[str] = Counter()  # channel → events that are being appended
        self._own: dict[str, bytes] = {}  # channel → newest own mark
        self._rotation = Rotation()
        self.on_swept: Callable[[Live], Awaitable[None]] | None = None  # called before the mark of a dead process goes
        self.on_written: Callable[[Live], Awaitable[bool]] | None = None  # False: its mark must not go yet
        self.on_grew: Callable[[str], None] | None = None  # called with the channel of new messages

    async def begin(self, channels: Collection[str]) -> None:
        """Note that these conversations may change; call `end` for each of them.

        Raises:
            Unavailable: Redis does not answer; `end` is not to be called.
        """
        self._open.update(channels)
        try:
            mark = await self._marks.mark([*dict.fromkeys(channels)])
        except BaseException:
            for channel in channels:
                self._close(channel)
            raise
        self._own.update(dict.fromkeys(channels, mark))

    def end(self, channel: str) -> None:
        """Note that one of these events is folded, or was not appended."""
        self._close(channel)
        self._soon(channel)

    def grew(self, live: Live) -> None:
        """Note that plain messages were added."""
        if self.on_grew is not None:
            self.on_grew(live.channel)
        if live.seen - (live.projected or 0) > _LONG_TAIL:
            self._soon(live.channel)

    async def run(self) -> None:
        """Write and sweep until cancelled."""
        loop = asyncio.get_running_loop()
        sweep_at = loop.time() + random.uniform(0, _SWEEP_S)
        while True:
            await asyncio.sleep(_TICK_S)
            await self._write_due(loop.time())
            if loop.time() >= sweep_at:
                sweep_at = loop.time() + _SWEEP_S
                try:
                    await self.sweep(_SWEEP_S)
                except Unavailable as error:
                    logger.warning("the read model can't be swept", extra={"error": str(error)})

    async def flush(self) -> None:
        """Write everything that is due soon, as at an orderly stop."""
        await self._write_due(float("inf"))

    async def sweep(self, age_s: float) -> int:
        """Write what was marked more than `age_s` ago; return how many it was.

        Raises:
            Unavailable: Redis does not answer.
        """
        PROJECTION_LAG.set(await self._marks.oldest_s())
        found = await self._marks.settled(age_s, _SWEPT_AT_ONCE, self._rotation.skip)
        random.shuffle(found)  # several replicas sweep
        done: list[tuple[str, bytes]] = []
        for channel, mark in found:
            if self._open[channel]:
                continue
            try:
                live = await self._conversations.current(channel)
                await self._conversations.write(live)
                if self.on_swept is not None:
                    await self.on_swept(live)
                if await self._may_unmark(live):
                    done.append((channel, mark))
            except Exception as error:
                _log(channel, error)
        if done:
            await self._marks.unmark(done)
        self._rotation.swept(left=len(found) - len(done), is_end=len(found) < _SWEPT_AT_ONCE)
        return len(done)

    def _close(self, channel: str) -> None:
        self._open[channel] -= 1
        if self._open[channel] <= 0:
            del self._open[channel]

    def _soon(self, channel: str) -> None:
        if channel not in self._due:
            self._due[channel] = asyncio.get_running_loop().time() + random.uniform(*_SOON_S)

    async def _write_due(self, now: float) -> None:
        due = [channel for channel, at in self._due.items() if at <= now]
        for start in range(0, len(due), _WRITTEN_AT_ONCE):
            await asyncio.gather(*map(self._write, due[start : start + _WRITTEN_AT_ONCE]))

    async def _may_unmark(self, live: Live) -> bool:
        return self.on_written is None or await self.on_written(live)

    async def _write(self, channel: str) -> None:
        if self._due.pop(channel, None) is None:  # a flush was quicker
            return
        mark = self._own.pop(channel, None) if not self._open[channel] else None
        live = self._conversations.cached(channel)
        try:
            if live is not None:
                await self._conversations.write(live)
                may_unmark = await self._may_unmark(live)
                if mark is not None and may_unmark:
                    await self._marks.unmark([(channel, mark)])
                elif mark is not None:
                    self._own.setdefault(channel, mark)  # unless there is a newer one
                    self._soon(channel)
        except Exception as error:  # the mark stays, and the sweep tries again
            _log(channel, error)


def _log(channel: str, error: Exception) -> None:
    """Log why a conversation could not be written."""
    if isinstance(error, Unavailable):
        logger.warning("a read model can't be written", extra={"channel": channel, "error": str(error)})
    else:
        logger.error("a read model can't be written", exc_info=error, extra={"channel": channel})
