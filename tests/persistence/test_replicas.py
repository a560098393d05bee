"""Several persistence processes on one file and one Redis, killed under load."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from cli.bundled import ROOT
from services.edge.adapters.persistence_client import PersistenceClient
from services.edge.domain.model import HistoryPage, Publication, StreamPosition
from services.shared.errors import Busy, Unavailable
from services.shared.rpc.replicas import Replicas
from tests.support.faults import free_port
from tests.support.full import sized
from tests.support.redis import RedisServer

CHANNELS = [f"chat:replicas{number}" for number in range(5)]
START_S = 90.0


class Process:
    """One `python -m services.persistence`."""

    def __init__(self, redis_url: str, db: Path, **more: str) -> None:
        """Create it; `more`: variables of its environment."""
        self.grpc_port, self._internal_port = free_port(), free_port()
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "proto" / "gen")]),
            "REDIS_URL": redis_url,
            "PERSISTENCE_DB": str(db),
            "PERSISTENCE_GRPC_PORT": str(self.grpc_port),
            "PERSISTENCE_INTERNAL_PORT": str(self._internal_port),
            **more,
        }
        self._environment.pop("SERVICE_TOKEN_FILE", None)
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self, *arguments: str) -> None:
        self._process = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-m", "services.persistence", *arguments], env=self._environment, stderr=subprocess.PIPE
        )
        os.set_blocking(self._process.stderr.fileno(), False)  # type: ignore[union-attr]
        deadline = time.monotonic() + START_S
        async with httpx.AsyncClient() as client:
            while True:
                try:
                    response = await client.get(f"http://127.0.0.1:{self._internal_port}/readyz")
                    if response.status_code == 200:
                        return
                except httpx.HTTPError:
                    pass
                assert self._process.poll() is None, self.said()
                assert time.monotonic() < deadline, self.said()
                await asyncio.sleep(0.05)

    async def metrics(self) -> str:
        async with httpx.AsyncClient() as client:
            return (await client.get(f"http://127.0.0.1:{self._internal_port}/metrics")).text

    def kill(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._process.stderr.close()

    def said(self) -> str:
        assert self._process is not None
        assert self._process.stderr is not None
        return (self._process.stderr.read() or b"").decode()

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stderr is not None
            self._process.stderr.close()


@pytest.fixture
async def processes(own_redis: RedisServer, tmp_path: Path) -> AsyncIterator[list[Process]]:
    made = [Process(own_redis.url, tmp_path / "shared.sqlite3") for _ in range(3)]
    try:
        await asyncio.gather(*(one.start() for one in made))
        yield made
    finally:
        for one in made:
            one.close()


class Edge:
    """An edge's client of one of the processes."""

    def __init__(self, process: Process) -> None:
        self._replicas = Replicas(f"127.0.0.1:{process.grpc_port}", service_token=None, service="edge")
        self.store = PersistenceClient(self._replicas)

    async def start(self) -> None:
        await self._replicas.start()
        await self.store.start()

    async def close(self) -> None:
        await self.store.close()
        await self._replicas.close()


async def read(edge: Edge, channel: str, since: int) -> HistoryPage:
    """A page, as soon as the process can be reached again."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await edge.store.read(channel, since_offset=since, limit=100, reverse=False, max_bytes=1 << 30)
            except Unavailable:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("seed", range(1, 1 + sized(1, 4)))
async def test_many_edges_many_replicas_one_file(seed: int, processes: list[Process]) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    edges = [Edge(process) for process in processes]
    for edge in edges:
        await edge.start()
    acked: dict[str, dict[int, bytes]] = {channel: {} for channel in CHANNELS}
    epochs: dict[str, set[str]] = {channel: set() for channel in CHANNELS}

    async def publish(number: int, publisher: random.Random) -> None:
        for message in range(25):
            channel, data = publisher.choice(CHANNELS), f"{number}-{message}".encode()
            key = f"{number}-{message}"
            position = await until_acked(channel, data, key, publisher)
            assert acked[channel].setdefault(position.offset, data) == data, "one place, two publications"
            epochs[channel].add(position.epoch)

    async def until_acked(channel: str, data: bytes, key: str, publisher: random.Random) -> StreamPosition:
        """Through another process with every attempt, under the same key."""
        publication = Publication(data, None, {}, os.urandom(16), "", 1)
        async with asyncio.timeout(40):
            while True:
                try:
                    result = await publisher.choice(edges).store.append(
                        channel, publication, key_user="u", key=key, history_size=20, history_ttl_s=600
                    )
                    return result.position
                except (Unavailable, Busy):
                    await asyncio.sleep(0.05)

    publishing = asyncio.gather(*(publish(number, random.Random(rng.random())) for number in range(30)))
    for victim in (0, 1):
        await asyncio.sleep(0.3)
        processes[victim].kill()
        await asyncio.sleep(0.3)
        await processes[victim].start()
    await publishing
    for channel in CHANNELS:
        assert len(epochs[channel]) == 1
        for edge in edges:
            found: dict[int, bytes] = {}
            while True:
                page = await read(edge, channel, max(found, default=0))
                if not page.publications:
                    break
                found |= {one.offset: one.data for one in page.publications}
            assert sorted(found) == list(range(1, len(found) + 1)), "a hole"
            assert {offset: found[offset] for offset in acked[channel]} == acked[channel]
    assert sum(map(len, acked.values())) == 30 * 25, "every publication has one place of its own"
    for edge in edges:
        await edge.close()
    for process in processes:
        assert "Traceback" not in process.said()
