"""What the SQLite store has of a channel's log: pages of rows, and their extent."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from services.persistence.domain.ports import Extent, StoredAt
from services.shared.errors import Unavailable

# Up to where the history of channel ?1, a row of `channels`, was removed: hidden, or dropped since.
REMOVED = (
    "max(ifnull((SELECT max(upto) FROM removals WHERE channel = ?1), 0),"
    " ifnull((SELECT min(offset) - 1 FROM log WHERE channel = ?1), top))"
)


def reading(
    channel: str, since_offset: int, upto: int, limit: int, reverse: bool, max_bytes: int
) -> Callable[[sqlite3.Connection], list[tuple[int, bytes]]]:
    """Return what reads a page: (offset, publication) each.

    It ends with the publication that reaches `max_bytes`.
    """
    if reverse:
        newest = min(since_offset - 1, upto) if since_offset else upto
        where, bounds = "offset <= ? ORDER BY offset DESC", (newest,)
    else:
        where, bounds = "offset > ? AND offset <= ? ORDER BY offset", (since_offset, upto)  # type: ignore[assignment]
    hidden = "coalesce((SELECT max(upto) FROM removals WHERE channel = ?), 0)"
    query = f"SELECT offset, publication FROM log WHERE channel = ? AND offset > {hidden} AND {where} LIMIT ?"

    def read(connection: sqlite3.Connection) -> list[tuple[int, bytes]]:
        page: list[tuple[int, bytes]] = []
        left = max_bytes
        for one in connection.execute(query, (channel, channel, *bounds, limit)):
            if isinstance(one[1], int):  # see `sqlite_segments.py`
                raise Unavailable("publications of the page are archived, and PERSISTENCE_ARCHIVE is not set")
            page.append(one)
            left -= len(one[1])
            if left <= 0:
                break
        return page

    return read


def ids(
    connection: sqlite3.Connection, channel: str, since_offset: int, upto: int, limit: int
) -> list[tuple[int, bytes]]:
    """Return (offset, publication id) of a page."""
    query = "SELECT offset, id FROM log WHERE channel = ? AND offset > ? AND offset <= ? ORDER BY offset LIMIT ?"
    return connection.execute(query, (channel, since_offset, upto, limit)).fetchall()


def extent(connection: sqlite3.Connection, channel: str) -> Extent:
    """Return which offsets the log has."""
    query = f"SELECT {REMOVED}, top FROM channels WHERE channel = ?1"
    found = connection.execute(query, (channel,)).fetchone()
    return Extent(*found) if found else Extent(0, 0)


def stored_at(connection: sqlite3.Connection, channel: str, offset: int) -> StoredAt | None:
    """Return when a publication was stored."""
    query = "SELECT stored_at FROM log WHERE channel = ? AND offset = ?"
    found = connection.execute(query, (channel, offset)).fetchone()
    return StoredAt(offset, offset, found[0]) if found else None


def first_since(connection: sqlite3.Connection, channel: str, low: int, high: int, at: float) -> int | None:
    """Return the first of these offsets that was stored at a time or later."""
    query = "SELECT min(offset) FROM log WHERE channel = ? AND offset BETWEEN ? AND ? AND stored_at >= ?"
    (found,) = connection.execute(query, (channel, low, high, at)).fetchone()
    return None if found is None else int(found)
