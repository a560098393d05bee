"""docs/webhooks.md: its receiver runs as printed, its table has every option."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from services.persistence.webhooks.endpoints import Endpoint
from services.shared.feed.events import EventType
from services.shared.hotlog import keys
from tests.support.faults import free_port
from tests.support.webhooks import SECRET, dispatching, endpoint, tell

PAGE = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text(encoding="utf-8")
_MOST_LINES = 20


def receiver_source() -> str:
    (found,) = re.findall(r"<!-- receiver.py -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


class Printed:
    """The receiver of the page as a process, and the last history it printed."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/hook"
        self.history: dict[str, list[dict[str, Any]]] = {}

    async def follow(self, output: asyncio.StreamReader) -> None:
        async for line in output:
            self.history = json.loads(line)


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[Printed]:
    port = free_port()
    path = tmp_path / "receiver.py"
    path.write_text(receiver_source())
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *(str(path), str(port)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "SECRET": SECRET},
    )
    assert process.stdout is not None
    printed = Printed(port)
    following = asyncio.create_task(printed.follow(process.stdout))
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                await writer.wait_closed()
                break
            except OSError:
                await asyncio.sleep(0.05)
    yield printed
    process.kill()
    await process.wait()
    await following


async def test_the_receiver_as_printed_ends_with_the_true_history(
    redis_conn: redis.asyncio.Redis, redis_url: str, receiver: Printed, tmp_path: Path
) -> None:
    true: dict[str, list[tuple[int, str]]] = {}
    async with dispatching(redis_url, endpoint(receiver.url, tmp_path, events=frozenset(EventType))):
        async with asyncio.timeout(30):
            while "" not in receiver.history:  # the gap of the new group
                await asyncio.sleep(0.05)
        for number in range(60):
            user, kind = f"u{number % 3}", "disconnect" if number % 2 else "connect"
            true.setdefault(user, []).append((await tell(redis_conn, kind, user), kind))
            if number < 3:
                await redis_conn.xadd(
                    keys.commits(keys.feed_shard("room")), {"c": "room", "e": "E", "o": number + 1, "a": user, "t": 1}
                )
        async with asyncio.timeout(30):
            while sum(map(len, receiver.history.values())) < 64:
                await asyncio.sleep(0.05)
    assert [one["type"] for one in receiver.history.pop("")] == ["gap"]
    found = {user: [(one["number"], one["type"]) for one in events] for user, events in receiver.history.items()}
    assert found == {**true, "room E": [(number, "publication") for number in (1, 2, 3)]}


@pytest.mark.parametrize("signature", ["v1,AAAA", "", "nonsense", "v1,%%%"])
async def test_the_receiver_as_printed_refuses_what_is_not_signed(receiver: Printed, signature: str) -> None:
    headers = {"webhook-id": "m", "webhook-timestamp": "1", "webhook-signature": signature}
    request = urllib.request.Request(receiver.url, b'{"events": []}', headers)
    with pytest.raises(urllib.error.HTTPError) as refused:
        await asyncio.to_thread(urllib.request.urlopen, request, timeout=10)
    assert refused.value.code == 401
    refused.value.close()
    assert receiver.history == {}


def test_the_receiver_is_short() -> None:
    assert sum(bool(line.strip()) for line in receiver_source().splitlines()) <= _MOST_LINES


def test_the_page_has_every_option_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", PAGE, re.MULTILINE))
    for field in dataclasses.fields(Endpoint):
        if isinstance(field.default, int | float):
            shown = str(field.default).lower() if isinstance(field.default, bool) else f"{field.default:g}"
            assert rows[field.name] == shown
        elif field.name != "name":
            assert field.name in rows


def test_the_page_names_every_type_of_event() -> None:
    assert {kind for kind in EventType if f"`{kind}`" not in PAGE} == set()
