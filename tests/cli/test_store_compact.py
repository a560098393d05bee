"""`thalamus store compact`: an SQLite file without a byte of what was erased."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from pathlib import Path

from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.domain.ports import Row
from tests.support.stack import clean_environment

PLANTED = b"planted:b1946ac92492d234"


def compact(file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "store", "compact", "--db", str(file), *arguments],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


async def fill_and_erase(file: Path) -> dict[str, int]:
    """Write to many channels and erase all; return the channels and their tops."""
    random_ = random.Random(1)
    store = SqliteLogStore(file)
    tops = {f"conv:g.{number}": 0 for number in random_.sample(range(10**9), 60)}
    for channel in tops:
        await store.open(channel)
    for _ in range(500):
        rows = []
        for channel in random_.sample(sorted(tops), 3):
            tops[channel] += 1
            publication = PLANTED + bytes(random_.randrange(600))
            rows.append(Row(channel, tops[channel], random_.randbytes(16), publication, "1:u"))
        await store.write(rows)
    for channel, top in tops.items():
        await store.erase(channel, dict.fromkeys(range(1, top + 1), b"gone"))
    assert await store.scrub()
    await store.close()
    return tops


async def tops_in(file: Path, channels: list[str]) -> list[int]:
    store = SqliteLogStore(file)
    found = [(await store.open(channel)).top for channel in channels]
    await store.close()
    return found


def test_it_leaves_no_copy_of_what_was_erased(tmp_path: Path) -> None:
    file = tmp_path / "log.sqlite3"
    tops = asyncio.run(fill_and_erase(file))
    assert PLANTED in file.read_bytes(), "SQLite leaves none by itself: the command is not needed any more"
    ran = compact(file, "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {"store": str(file), "bytes": file.stat().st_size}
    assert not [one.name for one in tmp_path.iterdir() if PLANTED in one.read_bytes()]
    assert asyncio.run(tops_in(file, list(tops))) == list(tops.values())


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    ran = compact(tmp_path / "none.sqlite3")
    assert ran.returncode == 1
    assert "there is no such file" in ran.stderr
    assert not list(tmp_path.iterdir())
