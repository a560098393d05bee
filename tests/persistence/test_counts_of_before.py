"""An SQLite file, and a version of before: earlier, beside, and after a downgrade."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.domain.ports import Row
from tests.support.before_counts import write_before

CHANNEL = "chat:file"


def row(offset: int, flags: int = 0, n: int = 0, mv: int = 0, channel: str = CHANNEL) -> Row:
    return Row(channel, offset, os.urandom(16), b"%d" % offset, f"u {offset}", flags, n, mv)


async def counts(store: SqliteLogStore) -> list[tuple[int, int, int, int]]:
    found = await store.read_counted(CHANNEL, since_offset=0, upto=99, limit=99, reverse=False)
    return [(one.offset, one.flags, one.n, one.mv) for one in found]


async def test_a_file_of_before_counts_from_zero_and_that_version_still_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite3"
    write_before(path, "epoch", [row(1), row(2)], 1.0)
    store = SqliteLogStore(path)
    assert (await store.open(CHANNEL))[:3] == ("epoch", 2, 0)
    assert await counts(store) == [(1, 0, 0, 0), (2, 0, 0, 0)]
    await store.write([row(3, 1, 1, 0), row(4, 2, 1, 4), row(5, 0, 1, 4)])
    write_before(path, "epoch", [row(6), row(7)], 2.0)  # beside it, or after a downgrade
    write_before(path, "another", [row(1, channel="chat:new")], 2.0)
    state = await store.open(CHANNEL)
    assert (state.top, state.n, state.mv) == (7, 1, 4)
    await store.write([row(8, 1, 2, 4)])
    await store.close()
    again = SqliteLogStore(path)
    assert (await counts(again))[2:] == [
        (3, 1, 1, 0),
        (4, 2, 1, 4),
        (5, 0, 1, 4),
        (6, 0, 1, 4),
        (7, 0, 1, 4),
        (8, 1, 2, 4),
    ]
    assert (await again.open("chat:new"))[1:] == (1, 0, 0, 0, 0, 0, 0)
    await again.close()


async def test_a_row_that_a_version_of_before_stored_gets_its_flags_from_who_numbered_it(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite3"
    store = SqliteLogStore(path)
    await store.open(CHANNEL)
    mine = row(1, 3, 1, 1)
    write_before(path, "epoch", [mine], 1.0)
    await store.write([mine])
    assert await counts(store) == [(1, 3, 1, 1)]
    await store.close()


async def test_only_rows_with_flags_take_room(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite3"
    store = SqliteLogStore(path)
    await store.open(CHANNEL)
    await store.write([row(1), row(2, 1, 1, 0), row(3, 0, 1, 0)])
    await store.close()
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT offset FROM counts").fetchall() == [(2,)]
