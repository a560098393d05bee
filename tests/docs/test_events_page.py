"""docs/events.md: its example runs as printed, its tables name what there is."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import redis.asyncio

from services.shared.feed.events import EventType, GapReason
from services.shared.namespaces import ChannelEvent
from tests.support.feed import tell_publications

PAGE = (Path(__file__).parents[2] / "docs" / "events.md").read_text(encoding="utf-8")
_MOST_LINES = 25


def table(head: str) -> set[str]:
    """The words in the first column of a table."""
    rows = PAGE[PAGE.index(head) :].split("\n\n")[0].splitlines()[2:]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}


async def test_the_example_runs_as_printed(redis_url: str, redis_conn: redis.asyncio.Redis, tmp_path: Path) -> None:
    (source,) = re.findall(r"<!-- indexer.py -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(source.splitlines()) <= _MOST_LINES
    path = tmp_path / "indexer.py"
    path.write_text(source)
    await tell_publications(redis_conn, "chat:1", 1, 2)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(path),
        env={**os.environ, "REDIS_URL": redis_url, "PYTHONPATH": os.getcwd()},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            lines = [(await process.stdout.readline()).decode().strip() for _ in range(3)]
        assert lines == [
            "something may be missing, look again: new",
            "index chat:1 up to 1",
            "index chat:1 up to 2",
        ]
    finally:
        process.kill()
        await process.communicate()


def test_the_page_names_every_type_and_reason() -> None:
    assert table("| type | when") == set(EventType)
    assert table("| `reason` | what happened") - {"reason"} == set(GapReason)


def test_the_namespace_of_the_page_asks_for_every_event_that_it_may() -> None:
    (asked,) = re.findall(r"^events = \[(.*)\]$", PAGE, re.MULTILINE)
    assert set(re.findall(r'"(\w+)"', asked)) == set(ChannelEvent) <= set(EventType)
