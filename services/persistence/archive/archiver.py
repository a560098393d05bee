"""Archives what is old, one replica at a time.

About once an hour one replica looks at the channels of all namespaces with `archive_after_days`, lowest offsets first.
A channel that can't be archived is counted and left for the next time. After some of them in a row the run ends. Every
10 s each replica takes out of segments what was erased.

Where a process may die: before the manifest is put, the object is garbage (`garbage.py`). After it, rows are left that
nobody reads; the next run deletes them. See docs/decisions/0065.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from services.persistence.archive.erasing import Erasing
from services.persistence.archive.failures import Failed
from services.persistence.archive.garbage import collect
from services.persistence.archive.metrics import FAILURES, ON, ROWS, RUN_AT, SEGMENTS
from services.persistence.archive.ports import Limits, ObjectStore, SegmentStore
from services.persistence.archive.writing import write
from services.persistence.domain.clocks import Clocks, ClocksDisagree
from services.persistence.metrics import ERASURE_OLDEST
from services.shared.errors import Unavailable
from services.shared.namespaces import Namespaces

logger = logging.getLogger(__name__)

PAUSE_S = 3_600  # seconds from the end of a run to the begin of the next one
_DAY_S = 86_400.0
_FIRST_S = 5.0  # longest time from the start to the first look, seconds
_LOOK_S = 30.0  # seconds between looks whether a run is due
_ERASE_S = 10.0  # seconds between looks for what was erased

Channels = Callable[[str], Awaitable[tuple[list[str], str]]]  # as `LogStore.channels`


class Archived(NamedTuple):
    """What a run has done; `failed`: channels, and looks for garbage, that failed."""

    segments: int = 0
    rows: int = 0
    failed: int = 0


class Turn(Protocol):
    """Says which replica archives, and when; see `domain/retention.py`."""

    async def take(self) -> bool: ...

    async def keep(self) -> bool: ...

    async def end(self, swept: Archived, pause_s: int) -> None: ...


class _TurnLost(Exception):
    """Another replica has taken over."""


class Archiver:
    """Archives channels; see the module."""

    def __init__(
        self,
        store: SegmentStore,
        channels: Channels,
        objects: ObjectStore,
        erasing: Erasing,
        namespaces: Namespaces,
        turn: Turn,
        clocks: Clocks,
        *,
        keep_days: int,
        limits: Limits | None = None,
    ) -> None:
        """Create it; `keep_days`: for how long objects without a manifest are kept."""
        self._store, self._channels, self._objects, self._erasing = store, channels, objects, erasing
        self._namespaces, self._turn, self._clocks = namespaces, turn, clocks
        self._keep_s, self._limits = keep_days * _DAY_S, limits or Limits()

    async def run(self) -> None:
        """Archive whenever it is due, and erase, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._repeat("erase", self.erase, _ERASE_S))
            if self._namespaces.with_archive():
                ON.set(1)
                group.create_task(self._repeat("archive", self.archive, _LOOK_S))

    async def erase(self) -> None:
        """Write segments again that have something erased."""
        since, now = await self._store.erased_since(), await self._clocks.now()
        ERASURE_OLDEST.labels("archive").set(0 if since is None else max(0.0, now - since))
        await self._erasing.erase(now)

    async def archive(self) -> Archived | None:
        """Archive what is old enough, if it is due and no other replica does it.

        Returns what was done; None: it was not ours to do, or another replica has taken over.

        Raises:
            ClocksDisagree: it is not known what is old enough.
            Unavailable: Redis does not answer, or the store can't list channels.
        """
        now = await self._clocks.now()
        if not await self._turn.take():
            return None
        done, failed, cursor = Archived(), Failed(), ""
        try:
            await self._clear()
            while not failed.is_away:
                channels, cursor = await self._channels(cursor)
                for channel in channels:
                    if not failed.is_away:
                        done = await self._look(channel, now, done, failed)
                if not cursor:
                    break
        except _TurnLost:
            return None
        if not failed.is_away and not await self._collect(now):
            done = done._replace(failed=done.failed + 1)
        await self._turn.end(done, PAUSE_S)
        if not done.failed:
            RUN_AT.set_to_current_time()
        if done.segments or done.failed:
            logger.info("publications were archived", extra=done._asdict())
        return done

    async def _collect(self, now: float) -> bool:
        """Delete objects without a manifest; return whether it could be done."""
        try:
            await collect(self._store, self._objects, now - self._keep_s)
        except Unavailable as error:
            FAILURES.labels("collect").inc()
            logger.warning("objects without a manifest can't be deleted", extra={"error": str(error)})
            return False
        return True

    async def _look(self, channel: str, now: float, done: Archived, failures: Failed) -> Archived:
        """Archive what is old enough of a channel; return what was done so far."""
        namespace = self._namespaces.find(channel)
        if namespace is None or not namespace.archive_after_days:
            return done
        before = now - namespace.archive_after_days * _DAY_S
        segments, rows, failed = done
        try:
            while count := await self._next(channel, before):
                segments, rows = segments + 1, rows + count
                failures.note_success()
                await self._keep()
            await self._keep()
        except Unavailable as error:
            FAILURES.labels("archive").inc()
            failures.note(error)
            failed += 1
            logger.warning("a channel can't be archived", extra={"channel": channel, "error": str(error)})
        return Archived(segments, rows, failed)

    async def _next(self, channel: str, before: float) -> int:
        """Archive the next segment of a channel; return how many rows it has."""
        part = await self._store.next_part(channel, before, self._limits)
        if part is None:
            return 0
        manifest = await write(self._objects, self._store, channel, part.rows)
        if not await self._store.put(manifest, part, await self._clocks.now()):
            with contextlib.suppress(Unavailable):  # something was erased: the next run takes what is there then
                await self._objects.delete(manifest.object)
            return 0
        SEGMENTS.inc()
        ROWS.inc(len(part.rows))
        while await self._store.clear(manifest):
            pass
        return len(part.rows)

    async def _clear(self) -> None:
        """Delete the rows that a run before has left."""
        for manifest in await self._store.uncleared():
            while await self._store.clear(manifest):
                await self._keep()

    async def _keep(self) -> None:
        if not await self._turn.keep():
            raise _TurnLost

    async def _repeat(self, op: str, work: Callable[[], Awaitable[object]], every_s: float) -> None:
        await asyncio.sleep(random.uniform(0.0, _FIRST_S))
        while True:
            try:
                await work()
            except (Unavailable, ClocksDisagree) as error:
                FAILURES.labels(op).inc()
                logger.warning("the archive can't be used now", extra={"op": op, "error": str(error)})
            except Exception:  # a process ends with its first task that does, and nothing here is worth that
                FAILURES.labels(op).inc()
                logger.exception("the archive failed", extra={"op": op})
            await asyncio.sleep(every_s * random.uniform(0.8, 1.2))
