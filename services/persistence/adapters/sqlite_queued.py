"""Durability `queued` in the SQLite store.

A table says since when Redis may have more than the store. It is one of its own, as earlier versions use the file too.
"""

from __future__ import annotations

import sqlite3

from services.persistence.adapters.sqlite_database import Transaction
from services.shared.hotlog.hotlog import new_epoch

SCHEMA = """
CREATE TABLE IF NOT EXISTS queued (channel TEXT PRIMARY KEY, generation INTEGER NOT NULL) WITHOUT ROWID;
"""
_NOTE = (
    "INSERT INTO queued VALUES (?, ?) ON CONFLICT (channel) DO UPDATE SET generation = excluded.generation"
    " WHERE generation < excluded.generation"
)
_RENEW = (
    "UPDATE channels SET epoch = ?1 WHERE channel = ?2 AND epoch || ifnull((SELECT mark FROM restored), '') = ?3"
    " AND ifnull((SELECT generation FROM queued WHERE channel = ?2), 0) BETWEEN ?4 AND ?5"
)
_FORGET = "DELETE FROM queued WHERE channel = ?"


def note(connection: sqlite3.Connection, channel: str, generation: int) -> None:
    """Raise the generation of the channel."""
    connection.execute(_NOTE, (channel, generation))


def renew_epoch(
    connection: sqlite3.Connection, channel: str, epoch: str, generation: int, forgotten: int | None = None
) -> None:
    """Replace the epoch of the channel, if it is still this one; note the generation.

    Not if the noted generation is a later one. `forgotten`: the note is removed, if it is this one, else nothing is
    done.
    """
    least, most = (0, generation) if forgotten is None else (forgotten, min(forgotten, generation))
    with Transaction(connection):
        if connection.execute(_RENEW, (new_epoch(), channel, epoch, least, most)).rowcount:
            if forgotten is None:
                note(connection, channel, generation)
            else:
                connection.execute(_FORGET, (channel,))


def generation_of(connection: sqlite3.Connection, channel: str) -> int:
    """Return the noted generation; 0 if there is none."""
    found = connection.execute("SELECT generation FROM queued WHERE channel = ?", (channel,)).fetchone()
    return found[0] if found else 0
