"""Erasing in the SQLite store: from the table, and from the files.

An erased publication is overwritten in its row. `PRAGMA secure_delete` fills what that frees in the database file with
zeros. The write-ahead log still has the pages as they were, for weeks if little is written, until a checkpoint
truncates it.

Where SQLite has split a page, it leaves copies of rows that it moved in the part of the page that is unused now, and
`secure_delete` does not reach them: they go when the page fills, or when the file is written anew (`compact`).

How often a channel was erased from is a table of its own, as earlier versions use the file too.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path

_TRUNCATE_MS = 100  # longest wait for readers and writers, in which nobody else writes
SCHEMA = """
CREATE TABLE IF NOT EXISTS erasures (channel TEXT PRIMARY KEY, times INTEGER NOT NULL) WITHOUT ROWID;
"""


def replace(connection: sqlite3.Connection, channel: str, publications: Mapping[int, bytes]) -> int:
    """Replace publications in their rows, in a transaction.

    Returns how often the channel was erased from.
    """
    connection.execute("INSERT OR IGNORE INTO erasures VALUES (?, 0)", (channel,))
    connection.execute("UPDATE erasures SET times = times + 1 WHERE channel = ?", (channel,))
    connection.executemany(  # rows of archived publications have a number: see `sqlite_segments.py`
        "UPDATE log SET publication = ? WHERE channel = ? AND offset = ? AND typeof(publication) = 'blob'",
        [(publication, channel, offset) for offset, publication in publications.items()],
    )
    return times(connection, channel)


def times(connection: sqlite3.Connection, channel: str) -> int:
    """Return how often the channel was erased from."""
    found = connection.execute("SELECT times FROM erasures WHERE channel = ?", (channel,)).fetchone()
    return found[0] if found else 0


def truncate_log(connection: sqlite3.Connection) -> bool:
    """Truncate the write-ahead log, once all of it is in the database.

    Returns whether it is empty. Most is written before the lock for that is taken, so that writers wait for little.
    If readers or writers do not end within 0.1 s, it is not done: everybody who wants to write waits meanwhile.
    """
    connection.execute(f"PRAGMA busy_timeout = {_TRUNCATE_MS}")
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    (is_busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not is_busy


def compact(connection: sqlite3.Connection) -> bool:
    """Write the file anew; nobody can write meanwhile.

    Returns whether the write-ahead log is empty.
    """
    connection.execute("VACUUM")
    return truncate_log(connection)


def has_log(path: Path) -> bool:
    """Whether there is a write-ahead log with anything in it, as a crash leaves it."""
    try:
        return path.with_name(path.name + "-wal").stat().st_size > 0
    except OSError:
        return False
