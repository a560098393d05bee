"""Two platforms on one Redis, each with a prefix, know nothing of each other."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis.asyncio

from cli.bundled import ROOT
from services.shared.hotlog import keys
from services.shared.incarnation.calls import parse_incarnation
from tests.support.stack import Stack, clean_environment
from tests.support.wire_client import WireClient

PROCESSES = ("auth", "presence", "persistence", "edge-1")
PREFIX = "staging"


@pytest.fixture(scope="module")
def production() -> Iterator[Stack]:
    with Stack(edges=1) as stack:
        yield stack


@pytest.fixture(scope="module")
def staging(production: Stack) -> Iterator[Stack]:
    own = {"REDIS_URL": re.sub("/0$", "/1", production.redis_url), "REDIS_PREFIX": PREFIX}
    with Stack(edges=1, environment_of=dict.fromkeys(PROCESSES, own)) as stack:
        yield stack


async def generation(client: redis.asyncio.Redis, name: str) -> int:
    said = await client.get(name)
    incarnation = parse_incarnation(said if isinstance(said, bytes) else None)
    assert incarnation is not None
    return incarnation.generation


async def test_neither_channels_nor_commands_nor_incarnations_mix(production: Stack, staging: Stack) -> None:
    async with (
        redis.asyncio.Redis.from_url(production.redis_url) as first,
        redis.asyncio.Redis.from_url(re.sub("/0$", "/1", production.redis_url)) as second,
        WireClient(production.ws_urls[0]) as ann,
        WireClient(staging.ws_urls[0]) as bob,
        httpx.AsyncClient() as http,
    ):
        before = await generation(first, "t:life"), await generation(second, f"{PREFIX}:life")
        await ann.connect(production.token("ann"))
        await bob.connect(staging.token("ann"))  # the same name of a user
        for channel in ("tick:a", "live:a", "chat:a"):
            await ann.subscribe(channel)
            await bob.subscribe(channel)
            await bob.publish(channel, {"from": "staging"})
            await ann.publish(channel, {"from": "production"})
            assert (await ann.publication(channel))["data"] == {"from": "production"}
            assert (await bob.publication(channel))["data"] == {"from": "staging"}
        response = await http.post(
            f"{staging.http_urls[0]}/api/disconnect", json={"user": "ann"}, headers={"X-API-Key": staging.api_key}
        )
        assert "result" in response.json(), response.text
        async with asyncio.timeout(30):
            await bob.socket.wait_closed()
        assert bob.socket.close_code == 3503
        await ann.publish("tick:a", {"still": "here"})
        assert (await ann.publication("tick:a"))["data"] == {"still": "here"}
        assert (await generation(first, "t:life"), await generation(second, f"{PREFIX}:life")) == before
        assert {bytes(key).split(b":")[0] async for key in first.scan_iter()} == {b"t"}
        assert {bytes(key).split(b":")[0] async for key in second.scan_iter()} == {PREFIX.encode()}
        channels: list[Any] = await first.pubsub_channels()
        received = {name.split(b":")[0] for name in channels}
        assert received == {b"t", PREFIX.encode()}
    assert keys.control() == "t:control"  # this process took no prefix from those it started


@pytest.mark.parametrize("database", [0, 5])
async def test_persistence_of_another_platform_with_the_same_prefix_ends_at_once_and_says_why(
    production: Stack, tmp_path: Path, database: int
) -> None:
    async with redis.asyncio.Redis.from_url(production.redis_url) as client:
        before = await generation(client, "t:life")
        environment = {
            **clean_environment(),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "proto" / "gen")]),
            "REDIS_URL": re.sub("/0$", f"/{database}", production.redis_url),
            "PERSISTENCE_DB": str(tmp_path / "another.sqlite3"),
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.persistence", env=environment, stderr=asyncio.subprocess.PIPE
        )
        try:
            async with asyncio.timeout(20):
                _, said = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        assert process.returncode == 2
        last = said.decode().strip().splitlines()[-1]
        assert last.startswith("thalamus persistence: REDIS_PREFIX: another platform uses this Redis")
        assert ("in database 0" in last) == (database == 5)
        assert await generation(client, "t:life") == before
    async with httpx.AsyncClient() as http:
        assert (await http.get(f"{production.internal_urls['persistence']}/readyz")).status_code == 200
