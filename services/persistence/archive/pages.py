"""Reads pages from the store and the archive, as if all were in one place.

A page is put together from stretches: rows of the table, and rows of segments. For each stretch the store says in one
step where it is. So the archiver may move rows at any time: they are read from the table or from the segment. If
something was removed between two stretches, the page ends there, so it has no hole.

Few segments are read and decoded at once; those that wait for too long fail. Decoded segments are kept in memory, those
that were used last, by the name of their object. Another object has another name, and the store is always asked for the
name first.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict

from services.persistence.archive import segment
from services.persistence.archive.metrics import FAILURES, LOADS
from services.persistence.archive.ports import (
    ArchivedRow,
    InSegment,
    Manifest,
    ObjectMissing,
    ObjectStore,
    SegmentStore,
    SegmentUnreadable,
)
from services.persistence.domain.ports import CountedRow
from services.shared.errors import Unavailable

logger = logging.getLogger(__name__)

CACHE_BYTES = 64 << 20
_ROW_BYTES = 500  # about what a decoded row takes besides its publication
_REPLACED = "an archived segment is replaced again and again"
_AT_ONCE = 3  # segments that are read and decoded at once: each takes some 30 MB meanwhile
_LONGEST_S = 60.0  # longest time in which a segment is read, with the wait for others, seconds
_ATTEMPTS = 5  # a segment that is replaced is looked up again


class Segments:
    """Segments by their manifests, from objects or from memory."""

    def __init__(self, objects: ObjectStore, cache_bytes: int = CACHE_BYTES) -> None:
        self._objects, self._left = objects, cache_bytes
        self._kept: OrderedDict[str, tuple[list[ArchivedRow], int]] = OrderedDict()
        self._few = asyncio.Semaphore(_AT_ONCE)
        self._loading: dict[str, asyncio.Task[list[ArchivedRow]]] = {}

    async def rows(self, manifest: Manifest) -> list[ArchivedRow]:
        """Return all rows of a segment.

        Raises:
            SegmentUnreadable: the object is missing, or another one.
            Unavailable: it can't be read now.
        """
        kept = self._kept.get(manifest.object)
        if kept is not None:
            self._kept.move_to_end(manifest.object)
            return kept[0]
        task = self._loading.get(manifest.object)
        if task is None:
            task = self._loading[manifest.object] = asyncio.create_task(self._load(manifest))
            task.add_done_callback(lambda done: self._loaded(manifest.object, done))
        return await asyncio.shield(task)

    def forget(self, name: str) -> None:
        """Forget a segment, since its object is dropped."""
        kept = self._kept.pop(name, None)
        if kept is not None:
            self._left += kept[1]

    async def _load(self, manifest: Manifest) -> list[ArchivedRow]:
        LOADS.inc()
        try:
            async with asyncio.timeout(_LONGEST_S), self._few:
                body = await self._objects.get(manifest.object)
                return await asyncio.to_thread(segment.decode, manifest, body)
        except ObjectMissing as error:
            raise SegmentUnreadable("an archived object is missing") from error
        except TimeoutError as error:
            raise Unavailable("too many archived segments are read at once") from error

    def _loaded(self, name: str, done: asyncio.Task[list[ArchivedRow]]) -> None:
        self._loading.pop(name, None)
        if done.cancelled() or done.exception() is not None:
            return
        rows = done.result()
        size = sum(len(row.publication) for row in rows) + _ROW_BYTES * len(rows)
        self._kept[name] = rows, size
        self._left -= size
        while self._left < 0 and self._kept:
            _, (_, size) = self._kept.popitem(last=False)
            self._left += size


class Pages:
    """Reads pages; see the module."""

    def __init__(self, store: SegmentStore, segments: Segments) -> None:
        self._store, self._segments = store, segments

    async def read(
        self, channel: str, *, since_offset: int, upto: int, limit: int, reverse: bool, max_bytes: int
    ) -> list[CountedRow]:
        """As `LogStore.read_counted`.

        Raises:
            SegmentUnreadable: the page has publications that the archive should have and has not.
        """
        page: list[CountedRow] = []
        at = since_offset
        while len(page) < limit and max_bytes > 0:
            found = await self._store.stretch(
                channel, since_offset=at, upto=upto, limit=limit - len(page), reverse=reverse, max_bytes=max_bytes
            )
            if isinstance(found, InSegment):
                rows, goes_on = await self._of_segment(found, reverse, limit - len(page)), True
                if rows is None:  # it has just been replaced: where is it now?
                    continue
            else:
                rows, goes_on = found
            if not rows or (page and rows[0].offset != page[-1].offset + (-1 if reverse else 1)):
                break
            for row in rows:
                page.append(row)
                max_bytes -= len(row.publication)
                if max_bytes <= 0:
                    return page
            at = page[-1].offset
            if not goes_on or (reverse and at <= 1):
                break
        return page

    async def archived(self, channel: str, low: int, high: int) -> list[ArchivedRow]:
        """Return those of these rows that are archived, as they were archived."""
        for _ in range(_ATTEMPTS):
            found: list[ArchivedRow] = []
            for manifest in await self._store.segments(channel, low, high):
                rows = await self._rows(manifest)
                if rows is None:
                    break
                first = manifest.first
                found += rows[max(low - first, 0) : high - first + 1]
            else:
                return found
        raise Unavailable(_REPLACED)

    async def ids(self, channel: str, *, since_offset: int, upto: int, limit: int) -> list[tuple[int, bytes]]:
        """As `LogStore.ids`.

        Raises:
            SegmentUnreadable: an id is in a segment that can't be read.
        """
        for _ in range(_ATTEMPTS):
            low, high, ids, segments = await self._store.ids(channel, since_offset=since_offset, upto=upto, limit=limit)
            for manifest in segments:
                rows = await self._rows(manifest)
                if rows is None:
                    break
                ids |= {row.offset: row.publication_id for row in rows if low <= row.offset <= high}
            else:
                return sorted(ids.items())
        raise Unavailable(_REPLACED)

    async def _of_segment(self, found: InSegment, reverse: bool, limit: int) -> list[CountedRow] | None:
        """Return the rows of a segment in the order of a read; None: it was replaced."""
        rows = await self._rows(found.manifest)
        if rows is None:
            return None
        first = found.manifest.first
        mine = rows[found.low - first : found.high - first + 1]
        mine = mine[: -limit - 1 : -1] if reverse else mine[:limit]
        erased = found.erased
        return [CountedRow(one.offset, erased.get(one.offset, one.publication), *one[5:]) for one in mine]

    async def _rows(self, manifest: Manifest) -> list[ArchivedRow] | None:
        """Return the rows of a segment; None: it was replaced meanwhile."""
        try:
            return await self._segments.rows(manifest)
        except SegmentUnreadable as error:
            now = await self._store.segments(manifest.channel, manifest.first, manifest.last)
            if manifest not in now:
                return None
            FAILURES.labels("read").inc()
            about = {"channel": manifest.channel, "first": manifest.first, "object": manifest.object}
            logger.error("an archived segment can't be read", extra={**about, "error": str(error)})
            raise
        except Unavailable:
            FAILURES.labels("read").inc()
            raise
