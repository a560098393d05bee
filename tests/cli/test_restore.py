"""`thalamus store restore` with SQLite.

A write-ahead log of the old file does not get into the copy.
"""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from services.persistence.adapters.sqlite_store import SqliteLogStore
from tests.support.stack import clean_environment


def restore(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "store", "restore", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=60,
        check=False,
    )


def count(path: Path) -> int:
    with closing(sqlite3.connect(path)) as opened:
        return int(opened.execute("SELECT count(*) FROM channels").fetchone()[0])


def add(opened: sqlite3.Connection, first: int, last: int) -> None:
    rows = [(f"chat:{number}", "epoch", 0) for number in range(first, last)]
    opened.executemany("INSERT INTO channels VALUES (?, ?, ?)", rows)
    opened.commit()


@pytest.fixture
async def damaged(tmp_path: Path) -> tuple[Path, Path]:
    """A store with 200 channels that was killed, and a copy of it with 100.

    So its write-ahead log is there.
    """
    store, copy, live = tmp_path / "store.sqlite3", tmp_path / "copy.sqlite3", tmp_path / "live.sqlite3"
    made = SqliteLogStore(live)
    await made.heartbeat()
    await made.close()
    with closing(sqlite3.connect(live)) as opened, closing(sqlite3.connect(copy)) as backup:
        add(opened, 0, 100)
        opened.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        opened.backup(backup)
        add(opened, 100, 200)
        shutil.copy(live, store)  # as a kill leaves it
        shutil.copy(f"{live}-wal", f"{store}-wal")
    return store, copy


def test_a_copy_that_was_put_beside_the_old_write_ahead_log_is_refused(damaged: tuple[Path, Path]) -> None:
    store, copy = damaged
    shutil.copy(copy, store)
    done = restore("--db", store)
    assert done.returncode != 0
    assert f"{store}-wal" in done.stderr
    Path(f"{store}-wal").unlink()
    assert restore("--db", store).returncode == 0
    assert count(store) == 100


@pytest.mark.parametrize("old", ["there", "deleted", "damaged"])
def test_from_puts_the_copy_in_place_without_what_belonged_to_the_old_file(
    old: str, damaged: tuple[Path, Path]
) -> None:
    store, copy = damaged
    if old == "deleted":
        store.unlink()
    elif old == "damaged":
        store.write_bytes(b"nothing of it is left" * 1_000)
    done = restore("--db", store, "--from", copy)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{store}  every channel has a new epoch\n"
    assert count(store) == count(copy) == 100
    assert [path.name for path in store.parent.iterdir() if path.name.startswith("store")] == ["store.sqlite3"]


def test_a_copy_with_a_write_ahead_log_of_its_own_is_taken_with_it(damaged: tuple[Path, Path], tmp_path: Path) -> None:
    """A snapshot of all files, as a file system makes it."""
    store, _ = damaged
    whole = tmp_path / "whole.sqlite3"
    shutil.move(store, whole)
    shutil.move(f"{store}-wal", f"{whole}-wal")
    assert restore("--db", store, "--from", whole).returncode == 0
    assert count(store) == 200


@pytest.mark.parametrize("content", ["absent", "no database", "another database", "cut"])
def test_what_is_no_copy_of_a_store_leaves_the_store_as_it_is(
    content: str, damaged: tuple[Path, Path], tmp_path: Path
) -> None:
    store, copy = damaged
    bad = tmp_path / "bad"
    if content == "no database":
        bad.write_bytes(b"no database at all" * 1_000)
    elif content == "another database":
        with closing(sqlite3.connect(bad)) as opened:
            opened.execute("CREATE TABLE users (name TEXT)")
    elif content == "cut":
        bad.write_bytes(copy.read_bytes()[:-8_192])
    done = restore("--db", store, "--from", bad)
    assert done.returncode != 0
    assert str(bad) in done.stderr
    assert count(store) == 200


def test_a_store_that_is_in_use_is_not_replaced(damaged: tuple[Path, Path]) -> None:
    store, copy = damaged
    with closing(sqlite3.connect(store)) as opened:
        opened.execute("SELECT count(*) FROM channels").fetchone()
        done = restore("--db", store, "--from", copy)
        assert done.returncode != 0
        assert "in use" in done.stderr
    assert count(store) == 200
