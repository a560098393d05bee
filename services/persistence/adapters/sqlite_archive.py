"""The SQLite store of a log of which a part is archived."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from services.persistence.adapters import sqlite_segments
from services.persistence.adapters.sqlite_database import SqliteDatabase
from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.archive.erasing import Erasing
from services.persistence.archive.pages import CACHE_BYTES, Pages, Segments
from services.persistence.archive.ports import (
    ArchivedRow,
    Ids,
    InSegment,
    Limits,
    Manifest,
    ObjectStore,
    Part,
    Stretch,
    Totals,
)
from services.persistence.domain.ports import MAX_BYTES, CountedRow, Removal, StoredAt
from services.shared.errors import Unavailable


class SqliteSegmentStore:
    """`SegmentStore` in the file of the log."""

    def __init__(self, database: SqliteDatabase, clock: Callable[[], float], on_erased: Callable[[], None]) -> None:
        """Create it; `on_erased` is called after something was erased from the file."""
        self._run, self._clock, self._on_erased = database.run, clock, on_erased

    async def name(self) -> str:
        query = "SELECT store FROM identity"
        return await self._run("read", "name", lambda connection: str(connection.execute(query).fetchone()[0]))

    async def stretch(
        self, channel: str, *, since_offset: int, upto: int, limit: int, reverse: bool, max_bytes: int
    ) -> Stretch | InSegment:
        read = partial(
            sqlite_segments.stretch,
            channel=channel,
            since_offset=since_offset,
            upto=upto,
            limit=limit,
            reverse=reverse,
            max_bytes=max_bytes,
        )
        return await self._run("read", "read", read)

    async def ids(self, channel: str, *, since_offset: int, upto: int, limit: int) -> Ids:
        find = partial(sqlite_segments.ids, channel=channel, since_offset=since_offset, upto=upto, limit=limit)
        return await self._run("read", "ids", find)

    async def segments(self, channel: str, low: int, high: int) -> list[Manifest]:
        return await self._run(
            "read", "segments", lambda connection: sqlite_segments.segments(connection, channel, low, high)
        )

    async def all_segments(self, after: tuple[str, int], limit: int) -> list[Manifest]:
        return await self._run(
            "read", "segments", lambda connection: sqlite_segments.all_segments(connection, after, limit)
        )

    async def totals(self) -> Totals:
        query = "SELECT count(*), ifnull(sum(last - first + 1), 0), ifnull(sum(size), 0) FROM segments"
        return await self._run("read", "segments", lambda connection: Totals(*connection.execute(query).fetchone()))

    async def next_part(self, channel: str, before: float, limits: Limits) -> Part | None:
        return await self._run(
            "archive", "next_part", lambda connection: sqlite_segments.next_part(connection, channel, before, limits)
        )

    async def put(self, manifest: Manifest, part: Part, now: float) -> bool:
        return await self._run(
            "write", "put_segment", lambda connection: sqlite_segments.put(connection, manifest, part, now)
        )

    async def clear(self, manifest: Manifest) -> bool:
        return await self._run("write", "clear_segment", lambda connection: sqlite_segments.clear(connection, manifest))

    async def uncleared(self) -> list[Manifest]:
        return await self._run("archive", "uncleared", sqlite_segments.uncleared)

    async def swap(
        self, old: Manifest, new: Manifest | None, first: ArchivedRow | None, applied: Mapping[int, bytes]
    ) -> bool:
        swap = partial(sqlite_segments.swap, old=old, new=new, first=first, applied=applied, now=self._clock())
        try:
            return await self._run("write", "swap_segment", swap)
        finally:
            self._on_erased()

    async def erased(self, after: tuple[str, int]) -> list[tuple[Manifest, dict[int, bytes]]]:
        return await self._run("archive", "erased", lambda connection: sqlite_segments.erased(connection, after))

    async def erased_since(self) -> float | None:
        return await self._run("archive", "erased", sqlite_segments.erased_since)

    async def restore(self, manifest: Manifest, rows: Sequence[ArchivedRow], keep_until: float) -> bool:
        restore = partial(
            sqlite_segments.restore, manifest=manifest, rows=rows, keep_until=keep_until, now=self._clock()
        )
        return await self._run("write", "restore_segment", restore)

    async def dropped(self, now: float, after: str) -> list[str]:
        return await self._run("archive", "dropped", lambda connection: sqlite_segments.dropped(connection, now, after))

    async def forget(self, objects: Sequence[str]) -> None:
        await self._run("write", "dropped", lambda connection: sqlite_segments.forget(connection, objects))

    async def known(self, objects: Sequence[str]) -> set[str]:
        return await self._run("archive", "known", lambda connection: sqlite_segments.known(connection, objects))


class ArchivedSqliteLogStore(SqliteLogStore):
    """`LogStore` in an SQLite file and an archive."""

    def __init__(
        self,
        path: Path,
        objects: ObjectStore,
        *,
        clock: Callable[[], float] = time.time,
        cache_bytes: int = CACHE_BYTES,
        searchers: int = 1,
    ) -> None:
        """Open the file; `objects` is closed with it.

        `searchers`: threads that search messages.

        Raises:
            ConfigError: the file can't be opened or created.
        """
        super().__init__(path, clock=clock, searchers=searchers)
        self.objects = objects
        self.segments = SqliteSegmentStore(self.database, clock, self.note_erasure)
        self.loaded = Segments(objects, cache_bytes)
        self.pages = Pages(self.segments, self.loaded)
        self.erasing = Erasing(self.segments, objects, self.loaded)

    async def close(self) -> None:
        await super().close()
        await self.objects.close()

    async def read(
        self, channel: str, *, since_offset: int, upto: int, limit: int, reverse: bool, max_bytes: int = MAX_BYTES
    ) -> list[tuple[int, bytes]]:
        page = await self.read_counted(
            channel, since_offset=since_offset, upto=upto, limit=limit, reverse=reverse, max_bytes=max_bytes
        )
        return [(row.offset, row.publication) for row in page]

    async def read_counted(
        self, channel: str, *, since_offset: int, upto: int, limit: int, reverse: bool, max_bytes: int = MAX_BYTES
    ) -> list[CountedRow]:
        return await self.pages.read(
            channel, since_offset=since_offset, upto=upto, limit=limit, reverse=reverse, max_bytes=max_bytes
        )

    async def ids(self, channel: str, *, since_offset: int, upto: int, limit: int) -> list[tuple[int, bytes]]:
        return await self.pages.ids(channel, since_offset=since_offset, upto=upto, limit=limit)

    async def stored_at(self, channel: str, offset: int) -> StoredAt | None:
        found = await super().stored_at(channel, offset)
        if found is None:
            for row in await self.pages.archived(channel, offset, offset):
                return StoredAt(offset, offset, row.stored_at)
        return found

    async def first_since(self, channel: str, low: int, high: int, at: float) -> int | None:
        young = await super().first_since(channel, low, high, at)
        archived = await self.pages.archived(channel, low, high if young is None else young)
        return min([row.offset for row in archived if row.stored_at >= at], default=young)

    async def finish_removal(self, removal: Removal) -> None:
        await self.erasing.trim(removal.channel, removal.upto)
        await super().finish_removal(removal)
        with contextlib.suppress(Unavailable):  # the store says what is left; it is tried again soon
            await self.erasing.delete_dropped(self._clock())
