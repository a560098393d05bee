"""`LogStore` on SQLite, for one host.

One writer thread, one transaction per batch, synced to the disk before a commit returns.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from services.persistence.adapters import sqlite_counts as sqlite_counts
from services.persistence.adapters import sqlite_erasing, sqlite_page, sqlite_queued, sqlite_segments
from services.persistence.adapters.sqlite_database import SqliteDatabase, Transaction
from services.persistence.domain.ports import (
    MAX_BYTES,
    ChannelState,
    CountedRow,
    Extent,
    Heartbeat,
    KnownKey,
    Removal,
    Row,
    StoredAt,
    Written,
)
from services.persistence.metrics import COMMITS
from services.shared.hotlog.hotlog import KEY_TTL_S, new_epoch
from services.shared.hotlog.keys import unpair
from services.shared.incarnation.calls import Known
from services.shared.namespaces import Namespaces

logger = logging.getLogger(__name__)

_KEYS_AT_ONCE = 5_000  # publications of one read for keys
_ABOVE_ALL = (1 << 63) - 1  # largest integer of SQLite
_OWN_KEY_S = 60.0  # age, in seconds, at which keys made by the platform are left out: nobody repeats them later
_SKEW_S = 5.0  # largest difference of the clocks of replicas, seconds: by so much the times of a channel may fall
_FOLLOWS_S = 10.0  # seconds after an erasure in which the read model, in the same file, loses its content, too
_REMOVALS_AT_ONCE = 100  # removals that one call returns
_DROPPED_AT_ONCE = 5_000  # rows deleted in one transaction, so that writes can come in between
_CHANNELS_AT_ONCE = 1_000  # channels of one page
_TOP = "SELECT top, epoch || ifnull((SELECT mark FROM restored), '') FROM channels WHERE channel = ?"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS channels (
    channel TEXT PRIMARY KEY,
    epoch TEXT NOT NULL,
    top INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS log (
    channel TEXT NOT NULL,
    offset INTEGER NOT NULL,
    id BLOB NOT NULL,
    key TEXT NOT NULL,
    stored_at REAL NOT NULL,
    publication BLOB NOT NULL,
    PRIMARY KEY (channel, offset)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS removals (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    channel TEXT NOT NULL,
    upto INTEGER NOT NULL,
    begun_at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS removals_by_channel ON removals (channel, upto);
CREATE TABLE IF NOT EXISTS beacon (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    count INTEGER NOT NULL,
    generation INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS identity (id INTEGER PRIMARY KEY CHECK (id = 1), store TEXT NOT NULL);
INSERT INTO identity SELECT 1, lower(hex(randomblob(8))) WHERE NOT EXISTS (SELECT 1 FROM identity);
CREATE TABLE IF NOT EXISTS ending (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    count INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    writes INTEGER NOT NULL,
    at_ms INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS restored (id INTEGER PRIMARY KEY CHECK (id = 1), mark TEXT NOT NULL);
"""


class SqliteLogStore:
    """`LogStore` in an SQLite file, which several processes may share."""

    apart = False  # one transaction for all channels

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time, searchers: int = 1) -> None:
        """Open the file, and create what is missing.

        Args:
            path: Of the file.
            clock: Returns Unix seconds.
            searchers: Threads that search messages.

        Raises:
            ConfigError: the file can't be opened or created.
        """
        self._unscrubbed_since = clock() if sqlite_erasing.has_log(path) else None
        self._erased_at = 0.0  # the last time, Unix seconds
        self.database = SqliteDatabase(
            path,
            _SCHEMA + sqlite_counts.SCHEMA + sqlite_erasing.SCHEMA + sqlite_queued.SCHEMA + sqlite_segments.SCHEMA,
            searchers=searchers,
        )
        self._run, self._clock = self.database.run, clock
        self.has_segments = self.database.first(sqlite_segments.has_segments)

    async def close(self) -> None:
        """Finish running operations, then close the file."""
        await self.database.close()

    async def open(self, channel: str) -> ChannelState:
        return await self._run("write", "open", lambda connection: _open(connection, channel))

    async def has_begun(self, channel: str) -> bool:
        query = "SELECT count(*) FROM channels WHERE channel = ?"
        return await self._run(
            "read", "has_begun", lambda connection: bool(connection.execute(query, (channel,)).fetchone()[0])
        )

    async def channels(self, cursor: str) -> tuple[list[str], str]:
        query = "SELECT channel FROM channels WHERE channel > ? ORDER BY channel LIMIT ?"
        rows = await self._run(
            "read", "channels", lambda connection: connection.execute(query, (cursor, _CHANNELS_AT_ONCE)).fetchall()
        )
        found = [str(channel) for (channel,) in rows]
        return found, found[-1] if len(found) == _CHANNELS_AT_ONCE else ""

    async def retain(self, channel: str) -> None:
        """Do nothing: `retained` looks at all channels."""

    async def note_retention(self, namespaces: Namespaces) -> None:
        """Do nothing, too."""

    async def retained(self, cursor: str, namespaces: Namespaces) -> tuple[list[str], str]:
        return await self.channels(cursor)

    async def extent(self, channel: str) -> Extent:
        return await self._run("read", "extent", lambda connection: sqlite_page.extent(connection, channel))

    async def stored_at(self, channel: str, offset: int) -> StoredAt | None:
        return await self._run(
            "read", "stored_at", lambda connection: sqlite_page.stored_at(connection, channel, offset)
        )

    async def first_since(self, channel: str, low: int, high: int, at: float) -> int | None:
        find = partial(sqlite_page.first_since, channel=channel, low=low, high=high, at=at)
        return await self._run("read", "first_since", find)

    async def recent_keys(self, channel: str, within_s: float) -> list[KnownKey]:
        known: list[KnownKey] = []
        read = partial(_recent_keys, channel=channel, within_s=within_s, now=self._clock())
        below: int | None = _ABOVE_ALL
        while below is not None:  # page by page, so that other reads can come in between
            page, below = await self._run("read", "recent_keys", partial(read, below=below))
            known += page
        return known

    async def write(self, rows: Sequence[Row]) -> dict[str, Written]:
        now = self._clock()
        return await self._run("write", "write", lambda connection: _write(connection, rows, now))

    async def read(
        self, channel: str, *, since_offset: int, upto: int, limit: int, reverse: bool, max_bytes: int = MAX_BYTES
    ) -> list[tuple[int, bytes]]:
        read = sqlite_page.reading(channel, since_offset, upto, limit, reverse, max_bytes)
        return await self._run("read", "read", read)

    async def read_counted(
        self, channel: str, *, since_offset: int, upto: int, limit: int, reverse: bool, max_bytes: int = MAX_BYTES
    ) -> list[CountedRow]:
        read = sqlite_page.reading(channel, since_offset, upto, limit, reverse, max_bytes)
        return await self._run(
            "read", "read", lambda connection: sqlite_counts.counted(connection, channel, read(connection))
        )

    async def ids(self, channel: str, *, since_offset: int, upto: int, limit: int) -> list[tuple[int, bytes]]:
        read = partial(sqlite_page.ids, channel=channel, since_offset=since_offset, upto=upto, limit=limit)
        return await self._run("read", "ids", read)

    async def erase(self, channel: str, publications: Mapping[int, bytes]) -> int:
        now = self._clock()

        def replace(connection: sqlite3.Connection) -> int:
            with Transaction(connection):
                sqlite_segments.note_erased(connection, channel, publications, now)
                return sqlite_erasing.replace(connection, channel, publications)

        try:
            return await self._run("write", "erase", replace)
        finally:
            self.note_erasure()

    async def scrub(self) -> bool:
        since, self._unscrubbed_since = self._unscrubbed_since, None
        is_done, is_last = False, self._clock() >= self._erased_at + _FOLLOWS_S
        try:
            is_done = await self._run("scrub", "scrub", sqlite_erasing.truncate_log)
        finally:
            if not (is_done and is_last):
                self._unscrubbed_since = since
        return is_done

    async def compact(self) -> bool:
        """Write the file anew, without copies of erased rows; nobody writes meanwhile.

        Returns False if the write-ahead log still has some, because somebody reads: a later `scrub` truncates it.
        """
        return await self._run("scrub", "compact", sqlite_erasing.compact)

    @property
    def unscrubbed_since(self) -> float | None:
        return self._unscrubbed_since

    def note_erasure(self) -> None:
        """Have the write-ahead log truncated soon: something was erased."""
        self._erased_at = self._clock()
        if self._unscrubbed_since is None:
            self._unscrubbed_since = self._erased_at

    async def note_queued(self, channel: str, generation: int) -> None:
        await self._run("write", "note_queued", lambda connection: sqlite_queued.note(connection, channel, generation))

    async def renew_epoch(self, channel: str, state: ChannelState, generation: int, *, forget: bool = False) -> None:
        forgotten = state.queued_in if forget else None
        renew = partial(
            sqlite_queued.renew_epoch, channel=channel, epoch=state.epoch, generation=generation, forgotten=forgotten
        )
        await self._run("write", "renew_epoch", renew)

    async def begin_removal(self, channel: str, upto: int) -> None:
        note = (upto, self._clock(), channel)

        def hide(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO removals (channel, upto, begun_at)"
                " SELECT channel, min(top, ?), ? FROM channels WHERE channel = ? AND top > 0",
                note,
            )

        await self._run("write", "remove", hide)

    async def removals(self) -> list[Removal]:
        query = "SELECT number, channel, upto, begun_at <= ? FROM removals ORDER BY number LIMIT ?"
        bounds = (self._clock() - KEY_TTL_S, _REMOVALS_AT_ONCE)
        found = await self._run("read", "removals", lambda connection: connection.execute(query, bounds).fetchall())
        return [Removal(number, channel, upto, bool(is_due)) for number, channel, upto, is_due in found]

    async def finish_removal(self, removal: Removal) -> None:
        drop = (
            "DELETE FROM log WHERE channel = ?1 AND offset IN"
            " (SELECT offset FROM log WHERE channel = ?1 AND offset <= ?2 ORDER BY offset LIMIT ?3)"
        )
        bounds = (removal.channel, removal.upto, _DROPPED_AT_ONCE)
        while await self._run("write", "drop", lambda connection: connection.execute(drop, bounds).rowcount):
            pass
        await self._run(
            "write", "drop", lambda connection: sqlite_counts.drop(connection, removal.channel, removal.upto)
        )
        self.note_erasure()
        forget = "DELETE FROM removals WHERE number = ?"
        await self._run("write", "drop", lambda connection: connection.execute(forget, (removal.number,)))

    async def heartbeat(self) -> Heartbeat:
        query = (
            "SELECT ifnull(count, 0), ifnull(generation, 0), store, ifnull(mark, '')"
            " FROM identity LEFT JOIN beacon USING (id) LEFT JOIN restored USING (id)"
        )
        return await self._run("read", "heartbeat", lambda connection: Heartbeat(*connection.execute(query).fetchone()))

    async def keep_heartbeat(self, heartbeat: Heartbeat) -> None:
        def keep(connection: sqlite3.Connection) -> None:
            with Transaction(connection):
                _keep_heartbeat(connection, heartbeat)

        await self._run("write", "keep_heartbeat", keep)

    async def keep_orderly_end(self, heartbeat: Heartbeat, known: Known) -> None:
        def keep(connection: sqlite3.Connection) -> None:
            with Transaction(connection):
                _keep_heartbeat(connection, heartbeat)
                connection.execute(
                    "INSERT OR REPLACE INTO ending SELECT id, count, ?2, ?3, ?4 FROM beacon WHERE count = ?1",
                    (heartbeat.counter, *known),
                )

        await self._run("write", "keep_orderly_end", keep)

    async def pop_orderly_end(self, heartbeat: Heartbeat) -> Known | None:
        def take(connection: sqlite3.Connection) -> Known | None:
            with Transaction(connection):
                found = connection.execute("SELECT count, generation, writes, at_ms FROM ending").fetchone()
                connection.execute("DELETE FROM ending")
            return Known(*found[1:]) if found and found[0] == heartbeat.counter else None

        return await self._run("write", "pop_orderly_end", take)

    async def begin_new_epochs(self, seen: Heartbeat) -> None:
        def begin(connection: sqlite3.Connection) -> None:
            with Transaction(connection):
                (mark,) = connection.execute("SELECT ifnull((SELECT mark FROM restored), '')").fetchone()
                if mark == seen.restored:
                    connection.execute("INSERT OR REPLACE INTO restored VALUES (1, ?)", (new_epoch(),))

        await self._run("write", "begin_new_epochs", begin)
        await self.keep_heartbeat(seen)


def _keep_heartbeat(connection: sqlite3.Connection, heartbeat: Heartbeat) -> None:
    """Keep each number that is greater than what is kept."""
    connection.execute(
        "INSERT INTO beacon VALUES (1, ?, ?) ON CONFLICT (id) DO UPDATE"
        " SET count = max(count, excluded.count), generation = max(generation, excluded.generation)",
        (heartbeat.counter, heartbeat.generation),
    )


def _open(connection: sqlite3.Connection, channel: str) -> ChannelState:
    """Return the channel's state; begin the channel if it is new."""
    query = (
        f"SELECT epoch || ifnull((SELECT mark FROM restored), ''), top, {sqlite_page.REMOVED}"
        " FROM channels WHERE channel = ?1"
    )
    found = connection.execute(query, (channel,)).fetchone()
    if found is None:
        with Transaction(connection):
            connection.execute("INSERT OR IGNORE INTO channels VALUES (?, ?, 0)", (channel, new_epoch()))
            found = connection.execute(query, (channel,)).fetchone()
    epoch, top, removed = found
    counts = sqlite_counts.at(connection, channel, top)
    erasures, queued_in = sqlite_erasing.times(connection, channel), sqlite_queued.generation_of(connection, channel)
    return ChannelState(epoch, top, removed, *counts, erasures, queued_in)


def _recent_keys(
    connection: sqlite3.Connection, *, channel: str, below: int, within_s: float, now: float
) -> tuple[list[KnownKey], int | None]:
    """Return keys of publications below an offset, and below which offset to go on.

    One call looks at up to 5,000 publications; None: there are no more. Offsets are in the order of time.
    """
    rows = connection.execute(
        "SELECT offset, key, id, stored_at FROM log WHERE channel = ? AND offset < ? ORDER BY offset DESC LIMIT ?",
        (channel, below, _KEYS_AT_ONCE),
    ).fetchall()
    found: list[KnownKey] = []
    for offset, key, publication_id, stored_at in rows:
        left_s = int(stored_at + within_s - now)
        if left_s <= -_SKEW_S:
            return found, None
        if left_s <= 0 or (stored_at < now - _OWN_KEY_S and key.endswith(publication_id.hex())):
            continue
        user, idempotency_key = unpair(key)
        found.append(KnownKey(user, idempotency_key, offset, min(left_s, int(within_s))))
    return found, rows[-1][0] if len(rows) == _KEYS_AT_ONCE else None


def _write(connection: sqlite3.Connection, rows: Sequence[Row], now: float) -> dict[str, Written]:
    """Store rows in one transaction; return the outcome by channel."""
    by_channel: dict[str, list[Row]] = {}
    for row in rows:
        by_channel.setdefault(row.channel, []).append(row)
    outcome: dict[str, Written] = {}
    tops: list[tuple[int, str]] = []
    counting: list[Row] = []
    inserts: list[tuple[str, int, bytes, str, float, bytes]] = []
    with Transaction(connection):
        for channel, mine in by_channel.items():
            found = connection.execute(_TOP, (channel,)).fetchone()
            top, epoch = found or (0, "")
            old = 0
            while old < len(mine) and mine[old].offset <= top:
                old += 1
            conflict = found is None or _conflicts(connection, channel, mine[:old])
            new = mine[old:] if old else mine
            if not conflict and new and mine[0].epoch not in ("", epoch):
                outcome[channel] = Written(top, True, is_stale=True)
                continue
            if not conflict and new and new[0].offset != top + 1:
                logger.critical("a hole in the log", extra={"channel": channel, "top": top, "next": new[0].offset})
                conflict = True
            if conflict:
                outcome[channel] = Written(top, True)
                continue
            counting += mine
            for _, offset, publication_id, publication, key, *_ in new:
                inserts.append((channel, offset, publication_id, key, now, publication))
            if new:
                top = new[-1].offset
                tops.append((top, channel))
            outcome[channel] = Written(top, False)
        connection.executemany("UPDATE channels SET top = ? WHERE channel = ?", tops)
        connection.executemany("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?)", inserts)
        sqlite_counts.put(connection, counting)
    COMMITS.inc()
    return outcome


def _conflicts(connection: sqlite3.Connection, channel: str, rows: Sequence[Row]) -> bool:
    """Whether any of these offsets has another publication."""
    for row in rows:
        found = connection.execute(
            "SELECT id FROM log WHERE channel = ? AND offset = ?", (channel, row.offset)
        ).fetchone()
        if found is not None and found[0] != row.publication_id:
            return True
    return False
