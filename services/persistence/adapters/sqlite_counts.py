"""What the log of a channel counts, in a table of the SQLite store.

Only rows with flags have an entry: it says how many publications count and what the membership version is from there
on. So `n` and `mv` of any row are those of the last entry at or below it, also where an earlier version wrote the row.

A table of its own, and not columns of `log` and `channels`: earlier versions insert into these without naming columns,
and must go on working on the same file. See docs/decisions/0049.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from services.persistence.domain.ports import CountedRow, Row

SCHEMA = """
CREATE TABLE IF NOT EXISTS counts (
    channel TEXT NOT NULL,
    offset INTEGER NOT NULL,
    flags INTEGER NOT NULL,
    n INTEGER NOT NULL,
    mv INTEGER NOT NULL,
    PRIMARY KEY (channel, offset)
) WITHOUT ROWID;
"""
_NEWEST = "SELECT n, mv FROM counts WHERE channel = ? AND offset <= ? ORDER BY offset DESC LIMIT 1"


def put(connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
    """Note what rows with flags count; called in the transaction that stores them.

    Also for rows that are there already: an earlier version may have stored them, without this.
    """
    flagged = [(row.channel, row.offset, row.flags, row.n, row.mv) for row in rows if row.flags]
    if flagged:
        connection.executemany("INSERT OR IGNORE INTO counts VALUES (?, ?, ?, ?, ?)", flagged)


def at(connection: sqlite3.Connection, channel: str, offset: int) -> tuple[int, int]:
    """Return `n` and `mv` as of an offset."""
    found: tuple[int, int] | None = connection.execute(_NEWEST, (channel, offset)).fetchone()
    return found or (0, 0)


def counted(connection: sqlite3.Connection, channel: str, page: Sequence[tuple[int, bytes]]) -> list[CountedRow]:
    """Add flags, `n` and `mv` to a page of (offset, publication), in either order."""
    if not page:
        return []
    low, high = sorted((page[0][0], page[-1][0]))
    query = "SELECT offset, flags, n, mv FROM counts WHERE channel = ? AND offset BETWEEN ? AND ?"
    entries = {offset: rest for offset, *rest in connection.execute(query, (channel, low, high))}
    n, mv = at(connection, channel, low - 1)
    rows = []
    for offset, publication in page if page[0][0] == low else reversed(page):
        flags, n, mv = entries.get(offset, (0, n, mv))
        rows.append(CountedRow(offset, publication, flags, n, mv))
    return rows if page[0][0] == low else rows[::-1]


def drop(connection: sqlite3.Connection, channel: str, upto: int) -> None:
    """Delete the entries of removed rows, but the last one.

    What comes behind it counts on from there.
    """
    connection.execute(
        "DELETE FROM counts WHERE channel = ?1 AND offset <"
        " (SELECT max(offset) FROM counts WHERE channel = ?1 AND offset <= ?2)",
        (channel, upto),
    )
