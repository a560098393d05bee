"""Manifests of archived segments in the SQLite store, and steps that move rows.

Three tables, which every file gets: `segments`; `segment_erasures`, publications that are to take the place of archived
ones; `dropped_objects`, objects that are to be deleted.

**The first and the last row of a segment stay in `log`, with the number 0 in place of the publication.** So the lowest
row still says up to where history was removed, and a version that does not know the archive fails where it reads over
an end of a segment: it expects bytes. It does not where it reads within one segment alone. With the first segment the
file gets triggers that refuse what such a version would do wrong: to open the file, to erase, to delete those rows of a
segment. They go with the last segment.

See docs/decisions/0065.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence

from services.persistence.adapters import sqlite_counts, sqlite_erasing, sqlite_page
from services.persistence.adapters.sqlite_database import Transaction
from services.persistence.archive.ports import ArchivedRow, Ids, InSegment, Limits, Manifest, Part, Stretch

SCHEMA = """
CREATE TABLE IF NOT EXISTS segments (
    channel TEXT NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    object TEXT NOT NULL UNIQUE,
    digest BLOB NOT NULL,
    key BLOB NOT NULL,
    size INTEGER NOT NULL,
    put_at REAL NOT NULL,
    is_cleared INTEGER NOT NULL,
    PRIMARY KEY (channel, first)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS segment_erasures (
    channel TEXT NOT NULL,
    offset INTEGER NOT NULL,
    publication BLOB NOT NULL,
    begun_at REAL NOT NULL,
    PRIMARY KEY (channel, offset)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dropped_objects (object TEXT PRIMARY KEY, since REAL NOT NULL) WITHOUT ROWID;
"""
_REFUSED = "this file has archived publications, which this version of Thalamus does not know"
_GUARDS = {
    "archive_start": "BEFORE INSERT ON identity",
    "archive_erase": "BEFORE INSERT ON erasures WHEN NEW.times > 0",
    "archive_remove": "BEFORE DELETE ON log WHEN typeof(OLD.publication) = 'integer'",
}
_MANIFEST = "channel, first, last, object, digest, key, size"
_CLEARED_AT_ONCE = 2_000  # rows deleted in one transaction, so that writes can come in between
_AT_ONCE = 100  # of what one call returns


def has_segments(connection: sqlite3.Connection) -> bool:
    """Whether anything is archived."""
    return connection.execute("SELECT 1 FROM segments LIMIT 1").fetchone() is not None


def stretch(
    connection: sqlite3.Connection,
    *,
    channel: str,
    since_offset: int,
    upto: int,
    limit: int,
    reverse: bool,
    max_bytes: int,
) -> Stretch | InSegment:
    """Return the first rows of a page, or the segment that has them."""
    with Transaction(connection, "DEFERRED"):
        removed = sqlite_page.extent(connection, channel).removed
        newest = min(since_offset - 1, upto) if since_offset else upto
        start = newest if reverse else max(since_offset, removed) + 1
        if not removed < start <= upto:
            return Stretch([], False)
        below = _nearest(connection, channel, "first <= ? ORDER BY first DESC", start)
        if below is not None and below.last >= start:
            low, high = (max(below.first, removed + 1), start) if reverse else (start, min(below.last, upto))
            return InSegment(below, low, high, _erased(connection, channel, low, high))
        if reverse:
            goes_on = below is not None and below.last > removed
            end = below.last if below is not None and goes_on else removed
            where, bounds = "offset <= ? AND offset > ? ORDER BY offset DESC", (start, end)
        else:
            above = _nearest(connection, channel, "first > ? ORDER BY first", start)
            goes_on = above is not None and above.first <= upto
            end = above.first - 1 if above is not None and goes_on else upto
            where, bounds = "offset >= ? AND offset <= ? ORDER BY offset", (start, end)
        query = f"SELECT offset, publication FROM log WHERE channel = ? AND {where} LIMIT ?"
        page: list[tuple[int, bytes]] = []
        for one in connection.execute(query, (channel, *bounds, limit)):
            page.append(one)
            max_bytes -= len(one[1])
            if max_bytes <= 0:
                break
        return Stretch(sqlite_counts.counted(connection, channel, page), goes_on)


def ids(connection: sqlite3.Connection, channel: str, since_offset: int, upto: int, limit: int) -> Ids:
    """Return where the ids of some publications are."""
    with Transaction(connection, "DEFERRED"):
        since = max(since_offset, sqlite_page.extent(connection, channel).removed)
        high = min(upto, since + limit)
        found = dict(sqlite_page.ids(connection, channel, since, high, limit))
        return Ids(since + 1, high, found, segments(connection, channel, since + 1, high))


def segments(connection: sqlite3.Connection, channel: str, low: int, high: int) -> list[Manifest]:
    """Return the segments that have any of these offsets, lowest first."""
    query = f"SELECT {_MANIFEST} FROM segments WHERE channel = ? AND first <= ? AND last >= ? ORDER BY first"
    return [Manifest(*one) for one in connection.execute(query, (channel, high, low))]


def all_segments(connection: sqlite3.Connection, after: tuple[str, int], limit: int) -> list[Manifest]:
    """Return segments of all channels, behind one."""
    query = f"SELECT {_MANIFEST} FROM segments WHERE (channel, first) > (?, ?) ORDER BY channel, first LIMIT ?"
    return [Manifest(*one) for one in connection.execute(query, (*after, limit))]


def next_part(connection: sqlite3.Connection, channel: str, before: float, limits: Limits) -> Part | None:
    """Return the lowest rows that can be archived."""
    with Transaction(connection, "DEFERRED"):
        extent = sqlite_page.extent(connection, channel)
        for low, high in _gaps(connection, channel, extent.removed, extent.top - 1):
            rows = _rows(connection, channel, low, high, before, limits)
            if len(rows) >= limits.least_rows or sum(len(row.publication) for row in rows) >= limits.least_bytes:
                return Part(rows, sqlite_erasing.times(connection, channel))
    return None


def put(connection: sqlite3.Connection, manifest: Manifest, part: Part, now: float) -> bool:
    """Note a segment, unless any of its rows was erased, removed or archived since."""
    channel, first, last = manifest.channel, manifest.first, manifest.last
    with Transaction(connection):
        if sqlite_erasing.times(connection, channel) != part.erasures or segments(connection, channel, first, last):
            return False
        if first <= sqlite_page.extent(connection, channel).removed:
            return False
        for name, when in _GUARDS.items():
            connection.execute(
                f"CREATE TRIGGER IF NOT EXISTS {name} {when} BEGIN SELECT RAISE(ABORT, '{_REFUSED}'); END"
            )
        connection.execute("INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)", (*manifest, now))
        _mark_ends(connection, channel, first, last)
    return True


def clear(connection: sqlite3.Connection, manifest: Manifest) -> bool:
    """Delete some rows of a noted segment, all but its ends.

    Returns whether there are more. At last the entries of what it counts go, but for the last one, from which later
    rows count on.
    """
    bounds = (manifest.channel, manifest.first, manifest.last)
    with Transaction(connection):
        if segments(connection, *bounds) != [manifest]:
            return False
        deleted = connection.execute(
            "DELETE FROM log WHERE channel = ?1 AND offset IN (SELECT offset FROM log"
            " WHERE channel = ?1 AND offset > ?2 AND offset < ?3 ORDER BY offset LIMIT ?4)",
            (*bounds, _CLEARED_AT_ONCE),
        ).rowcount
        if deleted:
            return True
        connection.execute(
            "DELETE FROM counts WHERE channel = ?1 AND offset BETWEEN ?2 AND ?3 AND offset <"
            " (SELECT max(offset) FROM counts WHERE channel = ?1 AND offset <= ?3)",
            bounds,
        )
        connection.execute("UPDATE segments SET is_cleared = 1 WHERE object = ?", (manifest.object,))
    return False


def uncleared(connection: sqlite3.Connection) -> list[Manifest]:
    """Return some segments of which rows are left."""
    query = f"SELECT {_MANIFEST} FROM segments WHERE NOT is_cleared LIMIT ?"
    return [Manifest(*one) for one in connection.execute(query, (_AT_ONCE,))]


def note_erased(connection: sqlite3.Connection, channel: str, publications: Mapping[int, bytes], now: float) -> None:
    """Note what takes the place of archived publications, when they are erased."""
    offsets = sorted(publications)
    for manifest in segments(connection, channel, offsets[0], offsets[-1]) if offsets else []:
        connection.executemany(
            "INSERT INTO segment_erasures VALUES (?, ?, ?, ?) ON CONFLICT (channel, offset)"
            " DO UPDATE SET publication = excluded.publication",
            [
                (channel, offset, publications[offset], now)
                for offset in offsets
                if manifest.first <= offset <= manifest.last
            ],
        )


def erased(connection: sqlite3.Connection, after: tuple[str, int]) -> list[tuple[Manifest, dict[int, bytes]]]:
    """Return some segments, behind one, of which something was erased."""
    query = (
        f"SELECT {_MANIFEST} FROM segments WHERE (channel, first) > (?, ?) AND EXISTS (SELECT 1 FROM segment_erasures"
        " AS e WHERE e.channel = segments.channel AND e.offset BETWEEN first AND last) ORDER BY channel, first LIMIT ?"
    )
    with Transaction(connection, "DEFERRED"):
        if connection.execute("SELECT 1 FROM segment_erasures LIMIT 1").fetchone() is None:
            return []
        found = [Manifest(*one) for one in connection.execute(query, (*after, _AT_ONCE))]
        return [(one, _erased(connection, one.channel, one.first, one.last)) for one in found]


def erased_since(connection: sqlite3.Connection) -> float | None:
    """Return the Unix time since which something waits to be taken out of segments."""
    (found,) = connection.execute("SELECT min(begun_at) FROM segment_erasures").fetchone()
    return None if found is None else float(found)


def swap(
    connection: sqlite3.Connection,
    old: Manifest,
    new: Manifest | None,
    first: ArchivedRow | None,
    applied: Mapping[int, bytes],
    now: float,
) -> bool:
    """Put a segment in the place of another one; see `SegmentStore.swap`."""
    channel = old.channel
    with Transaction(connection):
        if segments(connection, channel, old.first, old.last) != [old]:
            return False
        connection.executemany(
            "DELETE FROM segment_erasures WHERE channel = ? AND offset = ? AND publication = ?",
            [(channel, offset, publication) for offset, publication in applied.items()],
        )
        _drop(connection, old, now)
        kept_from = old.last + 1 if new is None else new.first
        connection.execute(
            "DELETE FROM segment_erasures WHERE channel = ? AND offset >= ? AND offset < ?",
            (channel, old.first, kept_from),
        )
        if new is None:
            _unmark(connection, channel, old.first, old.last)
            connection.execute("DELETE FROM segments WHERE object = ?", (old.object,))
            _drop_guards(connection)
            return True
        if first is not None and new.first > old.first:
            _unmark(connection, channel, old.first)
            connection.execute("INSERT OR REPLACE INTO log VALUES (?, ?, ?, ?, ?, 0)", (channel, *first[:4]))
        connection.execute(
            "UPDATE segments SET first = ?, object = ?, digest = ?, key = ?, size = ? WHERE object = ?",
            (new.first, new.object, new.digest, new.key, new.size, old.object),
        )
    return True


def restore(
    connection: sqlite3.Connection, manifest: Manifest, rows: Sequence[ArchivedRow], keep_until: float, now: float
) -> bool:
    """Bring the rows of a segment back into the log."""
    channel, first, last = manifest.channel, manifest.first, manifest.last
    with Transaction(connection):
        if segments(connection, channel, first, last) != [manifest]:
            return False
        erased = _erased(connection, channel, first, last)
        _unmark(connection, channel, first, last)
        connection.executemany(
            "INSERT OR REPLACE INTO log VALUES (?, ?, ?, ?, ?, ?)",
            [(channel, one[0], one[1], one[2], one[3], erased.get(one.offset, one.publication)) for one in rows],
        )
        connection.executemany(
            "INSERT OR IGNORE INTO counts VALUES (?, ?, ?, ?, ?)",
            [(channel, one.offset, one.flags, one.n, one.mv) for one in rows if one.flags],
        )
        connection.execute("DELETE FROM segments WHERE object = ?", (manifest.object,))
        connection.execute(
            "DELETE FROM segment_erasures WHERE channel = ? AND offset BETWEEN ? AND ?", (channel, first, last)
        )
        _drop(connection, manifest, now if erased else keep_until)
        _drop_guards(connection)
    return True


def dropped(connection: sqlite3.Connection, now: float, after: str) -> list[str]:
    """Return some objects, behind one, that are to be deleted."""
    query = "SELECT object FROM dropped_objects WHERE since <= ? AND object > ? ORDER BY object LIMIT ?"
    return [name for (name,) in connection.execute(query, (now, after, _AT_ONCE))]


def forget(connection: sqlite3.Connection, objects: Sequence[str]) -> None:
    """Forget dropped objects."""
    with Transaction(connection):
        connection.executemany("DELETE FROM dropped_objects WHERE object = ?", [(name,) for name in objects])


def known(connection: sqlite3.Connection, objects: Sequence[str]) -> set[str]:
    """Return those of the objects that a segment has, or that are dropped."""
    query = "SELECT 1 FROM segments WHERE object = ?1 UNION ALL SELECT 1 FROM dropped_objects WHERE object = ?1"
    return {name for name in objects if connection.execute(query, (name,)).fetchone() is not None}


def _nearest(connection: sqlite3.Connection, channel: str, where: str, offset: int) -> Manifest | None:
    query = f"SELECT {_MANIFEST} FROM segments WHERE channel = ? AND {where} LIMIT 1"
    found = connection.execute(query, (channel, offset)).fetchone()
    return Manifest(*found) if found else None


def _erased(connection: sqlite3.Connection, channel: str, low: int, high: int) -> dict[int, bytes]:
    query = "SELECT offset, publication FROM segment_erasures WHERE channel = ? AND offset BETWEEN ? AND ?"
    return dict(connection.execute(query, (channel, low, high)).fetchall())


def _gaps(connection: sqlite3.Connection, channel: str, removed: int, high: int) -> Iterator[tuple[int, int]]:
    """Yield the stretches of offsets that are not archived, lowest first."""
    low = removed + 1
    for manifest in segments(connection, channel, low, high):
        if manifest.first > low:
            yield low, manifest.first - 1
        low = manifest.last + 1
    if low <= high:
        yield low, high


def _rows(
    connection: sqlite3.Connection, channel: str, low: int, high: int, before: float, limits: Limits
) -> list[ArchivedRow]:
    """Return rows from `low` on, up to the first one that is young, or the limits."""
    found: list[tuple[int, bytes, str, float, bytes]] = []
    left = limits.bytes
    query = (
        "SELECT offset, id, key, stored_at, publication FROM log"
        " WHERE channel = ? AND offset BETWEEN ? AND ? ORDER BY offset LIMIT ?"
    )
    for one in connection.execute(query, (channel, low, high, limits.rows)):
        left -= len(one[4])
        if one[3] >= before or (left < 0 and found):
            break
        found.append(one)
    counts = sqlite_counts.counted(connection, channel, [(one[0], one[4]) for one in found])
    return [ArchivedRow(*one, count.flags, count.n, count.mv) for one, count in zip(found, counts, strict=True)]


def _mark_ends(connection: sqlite3.Connection, channel: str, first: int, last: int) -> None:
    connection.execute("UPDATE log SET publication = 0 WHERE channel = ? AND offset IN (?, ?)", (channel, first, last))


def _unmark(connection: sqlite3.Connection, channel: str, *ends: int) -> None:
    """Make rows without content of ends, which can be deleted or replaced."""
    connection.executemany(
        "UPDATE log SET publication = x'' WHERE channel = ? AND offset = ?", [(channel, end) for end in ends]
    )


def _drop(connection: sqlite3.Connection, manifest: Manifest, since: float) -> None:
    connection.execute("INSERT OR REPLACE INTO dropped_objects VALUES (?, ?)", (manifest.object, since))


def _drop_guards(connection: sqlite3.Connection) -> None:
    """Let other versions use the file again, if nothing is archived."""
    if not has_segments(connection):
        for name in _GUARDS:
            connection.execute(f"DROP TRIGGER IF EXISTS {name}")
