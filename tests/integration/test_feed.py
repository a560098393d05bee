"""The feed of a whole platform: what `thalamus events` prints of it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.stack import Stack, clean_environment
from tests.support.wire_client import WireClient

CHANNELS = """
[namespaces.quick]
subscribe = ["authenticated"]
publish = ["subscriber"]
events = ["publication"]

[namespaces.kept]
durability = "stored"
presence = true
subscribe = ["authenticated"]
publish = ["subscriber"]
events = ["publication", "join", "leave", "occupied", "vacated"]

[namespaces.leaves]
presence = true
subscribe = ["authenticated"]
publish = ["subscriber"]
events = ["leave"]

[namespaces.silent]
presence = true
subscribe = ["authenticated"]
publish = ["subscriber"]
"""
EXPECTED = {
    ("connect", "", "ann"),
    ("publication", "quick:1", "ann"),
    ("publication", "kept:1", "ann"),
    ("join", "kept:1", "ann"),
    ("occupied", "kept:1", ""),
    ("leave", "kept:1", "ann"),
    ("vacated", "kept:1", ""),
    ("leave", "leaves:1", "ann"),
    ("disconnect", "", "ann"),
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    path = tmp_path_factory.mktemp("feed") / "channels.toml"
    path.write_text(CHANNELS)
    with Stack(channels_file=path, environment={"EDGE_CONNECTION_EVENTS": "true"}) as running:
        yield running


async def test_what_happens_on_a_platform_is_told_and_nothing_else(stack: Stack) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli.main", "events", "--group", "all"),
        env=clean_environment() | {"REDIS_URL": stack.redis_url, "PYTHONPATH": str(Path.cwd())},
        stdout=asyncio.subprocess.PIPE,
    )
    output = process.stdout
    assert output is not None

    async def line() -> dict[str, Any]:
        async with asyncio.timeout(30):
            found: dict[str, Any] = json.loads(await output.readline())
        return found

    try:
        assert (await line())["reason"] == "new"
        async with WireClient(stack.ws_urls[0]) as ann:
            await ann.connect(stack.token("ann"))
            for channel in ("silent:1", "quick:1", "kept:1", "leaves:1"):
                await ann.subscribe(channel)
                await ann.publish(channel, {"n": 1})
            for channel in ("kept:1", "leaves:1"):
                await ann.call(unsubscribe={"channel": channel})
        told: dict[tuple[str, str, str], dict[str, Any]] = {}
        while not told.keys() >= EXPECTED:
            event = await line()
            told[event["type"], event.get("channel", ""), event.get("user", "")] = event
        assert told.keys() == EXPECTED
        assert told["publication", "kept:1", "ann"]["number"] == 1
        assert told["join", "kept:1", "ann"]["number"] < told["leave", "kept:1", "ann"]["number"]
        assert told["connect", "", "ann"]["number"] < told["disconnect", "", "ann"]["number"]
        assert told["connect", "", "ann"]["client"] == told["join", "kept:1", "ann"]["client"]
    finally:
        process.kill()
        await process.communicate()
