"""One page of a channel's rows in the SQLite store."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable


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
            page.append(one)
            left -= len(one[1])
            if left <= 0:
                break
        return page

    return read
