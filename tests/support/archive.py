"""A log with an archive for tests: small segments, and a clock of the test."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from services.persistence.adapters.sqlite_archive import ArchivedSqliteLogStore
from services.persistence.archive.archiver import Archiver
from services.persistence.archive.directory import Directory
from services.persistence.archive.ports import Limits, ObjectStore
from services.persistence.domain.ports import CountedRow, Row
from services.shared.hotlog.keys import pair
from services.shared.namespaces import Durability, Namespace, Namespaces
from tests.support.retention import OwnTurn, one_clock

DAY = 86_400.0
SMALL = Limits(rows=7, bytes=2_000, least_rows=3, least_bytes=400)
OLD = Namespaces(None, {"old": Namespace(name="old", durability=Durability.STORED, archive_after_days=1)})


class Clock:
    """Unix time of a test."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class Ours(OwnTurn):
    """A turn that is always ours."""

    async def end(self, swept: Any, pause_s: int) -> None:
        self.ended.append((swept, pause_s))


def store_at(folder: Path, clock: Callable[[], float], objects: ObjectStore | None = None) -> ArchivedSqliteLogStore:
    return ArchivedSqliteLogStore(folder / "log.sqlite3", objects or Directory(folder / "archive"), clock=clock)


def archiver_of(store: ArchivedSqliteLogStore, clock: Callable[[], float], limits: Limits = SMALL) -> Archiver:
    return Archiver(
        store.segments,
        store.channels,
        store.objects,
        store.erasing,
        OLD,
        Ours(clock),
        one_clock(clock),
        keep_days=35,
        limits=limits,
    )


class Model:
    """What a channel must have: all rows, and up to where they are removed."""

    def __init__(self, channel: str, seed: int) -> None:
        self.channel, self.chance = channel, random.Random(seed)
        self.rows: list[Row] = []
        self.removed = 0

    @property
    def top(self) -> int:
        return len(self.rows)

    def new(self, count: int, most_bytes: int = 300) -> list[Row]:
        """Return rows to be stored next."""
        for _ in range(count):
            chance, last = self.chance, self.rows[-1] if self.rows else None
            flags = chance.choice((0, 0, 1, 1, 3))
            offset = self.top + 1
            n = (last.n if last else 0) + (flags & 1)
            mv = offset if flags & 2 else last.mv if last else 0
            data = b"%s:%d " % (self.channel.encode(), offset) + chance.randbytes(chance.randrange(most_bytes))
            key = pair("someone", f"key-{offset}")
            self.rows.append(Row(self.channel, offset, chance.randbytes(16), data, key, flags, n, mv))
        return self.rows[-count:]

    def erase(self, offset: int) -> bytes:
        """Put a tombstone in the place of a publication, and return it."""
        tomb = b"tomb %d" % offset
        self.rows[offset - 1] = self.rows[offset - 1]._replace(publication=tomb)
        return tomb

    def page(self, since: int, upto: int, limit: int, reverse: bool, max_bytes: int) -> list[CountedRow]:
        """Return a page as the log must."""
        readable = [row for row in self.rows if self.removed < row.offset <= upto]
        if reverse:
            readable = [row for row in reversed(readable) if not since or row.offset < since]
        else:
            readable = [row for row in readable if row.offset > since]
        found = []
        for row in readable[:limit]:
            found.append(CountedRow(row.offset, row.publication, row.flags, row.n, row.mv))
            max_bytes -= len(row.publication)
            if max_bytes <= 0:
                break
        return found

    async def check(self, store: Any, pages: int = 4) -> None:
        """Compare random pages, forwards and backwards, with those of a store."""
        for _ in range(pages):
            chance = self.chance
            since, limit = chance.randrange(self.top + 2), chance.choice((1, 3, 10, 1_000))
            reverse, most = chance.random() < 0.5, chance.choice((1, 500, 1 << 30))
            upto = chance.choice((self.top, self.top, chance.randrange(self.top + 1)))
            found = await store.read_counted(
                self.channel, since_offset=since, upto=upto, limit=limit, reverse=reverse, max_bytes=most
            )
            wanted = self.page(since, upto, limit, reverse, most)
            assert found == wanted, (since, upto, limit, reverse, most)

    async def check_ids(self, store: Any) -> None:
        """Compare the ids of a page from anywhere with those of a store."""
        since, limit = self.chance.randrange(self.top + 1), self.chance.choice((1, 3, 10, 1_000))
        found = await store.ids(self.channel, since_offset=since, upto=self.top, limit=limit)
        low = max(since, self.removed)
        assert found == [(row.offset, row.publication_id) for row in self.rows[low : low + limit]], (since, limit)

    async def check_all(self, store: Any, page: int = 5) -> None:
        """Compare all of the channel, by cursors in both directions."""
        for reverse in (False, True):
            since, found = 0, []
            while True:
                some = await store.read_counted(
                    self.channel, since_offset=since, upto=self.top, limit=page, reverse=reverse
                )
                found += some
                if not some or (reverse and some[-1].offset == 1):
                    break
                since = some[-1].offset
            assert found == self.page(0, self.top, self.top + 1, reverse, 1 << 50)


def bytes_of(folder: Path) -> bytes:
    """Return all bytes of the files of a folder."""
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def objects_of(folder: Path) -> Sequence[Path]:
    """Return the files of objects, but not the one that marks the place."""
    files = sorted((folder / "archive").rglob("*"))
    return [path for path in files if path.is_file() and path.name != "marker"]


def unique() -> str:
    return os.urandom(4).hex()
