"""Writes markers from Redis to the store, some seconds after they moved.

Rules.

* What was noted more than 5 s ago is read from Redis, merged into the store, and then the note is removed, unless it
  was renewed meanwhile. A process may die between any two of these: the next one does all of it again.
* What is forgotten is deleted from the store for a minute: a write of before may still be under way. If Redis may have
  gone back, it is looked first whether the store knows of more.
* Every replica does it, for all markers. Two at once do no harm, nor does one that was slow: the store merges.
* What can't be written does not hold up the rest. If a write of many fails, they are written one by one; after five
  that failed the sweep ends, and the next one begins behind these (`rotation.py`).
* A slot of notes has 10 s, and somebody looks every 5 s. So a marker is in the store after 20 s, if that can write.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.persistence.chat.markers.kept import Kept, KeptMarkers, Note
from services.persistence.chat.markers.markers import compared
from services.persistence.chat.markers.ports import MarkerStore, Of
from services.persistence.chat.metrics import MARKERS_UNWRITTEN
from services.persistence.chat.rotation import Rotation
from services.shared.errors import Unavailable

logger = logging.getLogger(__name__)

_SWEEP_S = 5.0  # seconds between looks
_AGE_S = 5.0  # of a note; a swap that is acknowledged came less than 2 s behind its note
_AT_ONCE = 500  # notes
_MOST_FAILURES = 5  # of a sweep: the store may not answer at all, and each takes seconds then
_FORGOTTEN_S = 60.0  # for which deletes are repeated; a write that began before them takes 2 s


@dataclass(slots=True)
class _Tried:
    """How many notes were written, how many could not be, and why the last one."""

    done: int = 0
    failed: int = 0
    error: Exception | None = None


class Flusher:
    """Writes of markers by this process; see the module."""

    def __init__(self, kept: KeptMarkers, store: MarkerStore) -> None:
        self._kept, self._store = kept, store
        self._rotation = Rotation()

    async def run(self) -> None:
        """Write what is due until cancelled."""
        while True:
            await asyncio.sleep(random.uniform(0.8, 1.2) * _SWEEP_S)
            try:
                await self.sweep()
            except Unavailable as error:
                logger.warning("markers can't be written to the store", extra={"error": str(error)})
            except Exception:
                logger.exception("markers can't be written to the store")

    async def flush(self) -> None:
        """Write all of it, as at an orderly stop.

        Raises:
            Unavailable: Redis or the store does not answer.
        """
        self._rotation.skip = 0
        await self.sweep(-1.0)

    async def sweep(self, age_s: float = _AGE_S) -> int:
        """Write what was noted more than `age_s` ago; return how many notes that were.

        What can't be written is left, and logged.

        Raises:
            Unavailable: Redis or the store does not answer.
        """
        MARKERS_UNWRITTEN.set(await self._kept.oldest_s())
        count = 0
        while notes := await self._kept.noted(age_s, _AT_ONCE, self._rotation.skip):
            tried = await self._write_some(notes)
            count += tried.done
            is_end = len(notes) < _AT_ONCE and tried.done + tried.failed == len(notes)
            self._rotation.swept(left=tried.failed, is_end=is_end)
            if tried.error is not None and not tried.done:
                raise tried.error
            if is_end or tried.done + tried.failed < len(notes):
                break
        else:
            self._rotation.swept(left=0, is_end=True)
        MARKERS_UNWRITTEN.set(await self._kept.oldest_s())
        return count

    async def _write_some(self, notes: Sequence[Note]) -> _Tried:
        """Write all of them, or else one by one, until too many failed."""
        with contextlib.suppress(Exception):  # one of them may be why
            await self._write(notes)
            return _Tried(len(notes))
        tried = _Tried()
        for note in notes:
            try:
                await self._write([note])
                tried.done += 1
            except Exception as error:
                logger.warning(
                    "a marker can't be written to the store",
                    exc_info=None if isinstance(error, Unavailable) else error,
                    extra={"channel": note.of.channel, "error": str(error)},
                )
                tried.failed, tried.error = tried.failed + 1, error
                if tried.failed == _MOST_FAILURES:
                    break
        return tried

    async def _write(self, notes: Sequence[Note]) -> None:
        found = await self._kept.get({note.of for note in notes})
        doubtful = {of: kept for of, kept in found.items() if kept.forgotten_ms and not kept.is_new}
        found |= await compared(self._kept, self._store, doubtful)
        forgotten = {of: kept for of, kept in found.items() if kept.forgotten_ms}
        await self._store.merge([(of, kept.record) for of, kept in found.items() if kept.text and of not in forgotten])
        if forgotten:
            await self._forget(forgotten)
        await self._kept.remove(notes)

    async def _forget(self, forgotten: Mapping[Of, Kept]) -> None:
        """Delete from the store; and from Redis what was forgotten long ago."""
        await self._store.forget(list(forgotten))
        old = [(of, kept) for of, kept in forgotten.items() if self._kept.age_s(kept) > _FORGOTTEN_S]
        await self._kept.drop(old)
        if again := [of for of in forgotten if of not in dict(old)]:
            await self._kept.note(again)
