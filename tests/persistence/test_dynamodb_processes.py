"""Persistence as processes on DynamoDB.

How they start, and several of them killed under load.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.bundled import ROOT
from services.edge.adapters.persistence_client import PersistenceClient
from services.edge.domain.model import Publication
from services.shared.dynamodb import tables
from services.shared.dynamodb.client import DynamoDb
from services.shared.dynamodb.settings import DynamoDbSettings
from services.shared.errors import Unavailable
from services.shared.rpc.replicas import Replicas
from tests.support.dynamodb import CREDENTIALS, settings_of
from tests.support.dynamodb_faults import DynamoDbFaults, Shares
from tests.support.faults import free_port
from tests.support.full import sized
from tests.support.redis import RedisServer

START_S = 90.0


class Process:
    """One `python -m services.persistence`."""

    def __init__(self, redis_url: str, settings: DynamoDbSettings, **environment: str) -> None:
        self.grpc_port, self._internal_port = free_port(), free_port()
        self._environment = {
            **os.environ,
            **CREDENTIALS,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "proto" / "gen")]),
            "REDIS_URL": redis_url,
            "PERSISTENCE_STORE": "dynamodb",
            "PERSISTENCE_GRPC_PORT": str(self.grpc_port),
            "PERSISTENCE_INTERNAL_PORT": str(self._internal_port),
            "DYNAMODB_ENDPOINT": settings.endpoint,
            "DYNAMODB_TABLE_PREFIX": settings.table_prefix,
            **environment,
        }
        self._environment.pop("SERVICE_TOKEN_FILE", None)
        self.process = self._spawn()

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "services.persistence"]
        return subprocess.Popen(command, env=self._environment, stderr=subprocess.PIPE)

    async def readiness(self) -> dict[str, Any] | None:
        """What /readyz says; None: nothing yet."""
        async with httpx.AsyncClient() as client:
            try:
                response = await client.get(f"http://127.0.0.1:{self._internal_port}/readyz")
            except httpx.HTTPError:
                return None
        return {"status": response.status_code}

    async def until(self, status: int) -> None:
        deadline = time.monotonic() + START_S
        while (found := await self.readiness()) is None or found["status"] != status:
            assert self.process.poll() is None, "it ended"
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.05)

    async def restart(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()
        self.process = self._spawn()
        await self.until(200)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()


@pytest.fixture
def settings(faults: DynamoDbFaults) -> DynamoDbSettings:
    return settings_of(faults.address, f"{uuid.uuid4().hex}-")


@pytest.fixture
async def with_tables(settings: DynamoDbSettings) -> DynamoDbSettings:
    db = DynamoDb(settings)
    await tables.create(db, settings)
    await db.close()
    return settings


@pytest.fixture
async def processes() -> AsyncIterator[list[Process]]:
    made: list[Process] = []
    yield made
    for one in made:
        one.close()


async def test_a_missing_table_ends_the_start_with_one_line(
    own_redis: RedisServer, settings: DynamoDbSettings, processes: list[Process]
) -> None:
    processes.append(Process(own_redis.url, settings, LOG_LEVEL="ERROR"))
    _, said = await asyncio.to_thread(processes[0].process.communicate, timeout=START_S)
    assert processes[0].process.returncode == 2
    lines = said.decode().splitlines()
    assert len(lines) == 1, lines
    (line,) = lines
    assert line.startswith("thalamus persistence: DynamoDB has no table ")
    assert "thalamus store init" in line


@pytest.mark.parametrize("table", ["default", "namespaces.chat"])
async def test_a_namespace_that_accepts_what_can_not_be_stored_ends_the_start_with_one_line(
    own_redis: RedisServer, settings: DynamoDbSettings, processes: list[Process], tmp_path: Path, table: str
) -> None:
    path = tmp_path / "channels.toml"
    path.write_text(
        "[namespaces.hot]\nmax_data_bytes = 1_000_000\n"
        '[namespaces.fits]\ndurability = "stored"\nmax_data_bytes = 390_000\n'
        f'[{table}]\ndurability = "stored"\nmax_data_bytes = 390_001\n'
    )
    processes.append(Process(own_redis.url, settings, LOG_LEVEL="ERROR", CHANNELS_FILE=str(path)))
    _, said = await asyncio.to_thread(processes[0].process.communicate, timeout=START_S)
    assert processes[0].process.returncode == 2
    (line,) = said.decode().splitlines()
    assert f"{path}: [{table}] max_data_bytes: DynamoDB can store at most 390,000" in line


async def test_a_process_that_may_make_the_tables_does(
    own_redis: RedisServer, settings: DynamoDbSettings, processes: list[Process]
) -> None:
    processes.append(Process(own_redis.url, settings, DYNAMODB_CREATE_TABLES="true"))
    await processes[0].until(200)


async def test_a_dynamodb_that_does_not_answer_at_the_start_is_waited_for(
    own_redis: RedisServer, with_tables: DynamoDbSettings, faults: DynamoDbFaults, processes: list[Process]
) -> None:
    faults.shares = Shares(failed=1.0)
    processes.append(Process(own_redis.url, with_tables))
    await processes[0].until(503)
    while faults.faults["failed"] < 3:
        await asyncio.sleep(0.05)
    assert await processes[0].readiness() == {"status": 503}
    faults.shares = Shares()
    await processes[0].until(200)


@pytest.mark.parametrize("seed", range(1, 1 + sized(1, 3)))
@pytest.mark.slow
async def test_replicas_that_are_killed_under_load_keep_what_was_acknowledged_in_one_order(
    seed: int, own_redis: RedisServer, with_tables: DynamoDbSettings, faults: DynamoDbFaults, processes: list[Process]
) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    faults.shares = Shares(throttled=0.03, failed=0.03, lost=0.04)
    processes += [Process(own_redis.url, with_tables) for _ in range(2)]
    await asyncio.gather(*(one.until(200) for one in processes))
    channels = ["chat:one", "chat:two", "chat:three"]
    acked: dict[str, dict[bytes, int]] = {channel: {} for channel in channels}

    async def edge(process: Process, who: int) -> None:
        replicas = Replicas(f"127.0.0.1:{process.grpc_port}", service_token=None, service="edge")
        store = PersistenceClient(replicas)
        await replicas.start()
        await store.start()
        for number in range(40):
            channel, data = channels[number % 3], f'"{who} {number}"'.encode()
            publication = Publication(data, id=os.urandom(16))
            async with asyncio.timeout(60):
                while True:  # as edges do: repeat under the same key
                    try:
                        result = await store.append(
                            channel, publication, key_user="", key=data.decode(), history_size=100, history_ttl_s=600
                        )
                        break
                    except Unavailable:
                        await asyncio.sleep(0.05)
            acked[channel][data] = result.position.offset
        await store.close()
        await replicas.close()

    async def killer() -> None:
        for _ in range(2):
            await asyncio.sleep(chance.uniform(0.3, 0.8))
            await chance.choice(processes).restart()

    await asyncio.gather(*(edge(process, who) for who, process in enumerate([*processes, *processes])), killer())
    replicas = Replicas(f"127.0.0.1:{processes[0].grpc_port}", service_token=None, service="edge")
    store = PersistenceClient(replicas)
    await replicas.start()
    await store.start()
    faults.shares = Shares()
    for channel in channels:
        page = await store.read(channel, since_offset=0, limit=1_000, reverse=False, max_bytes=1 << 30)
        assert [one.offset for one in page.publications] == list(range(1, len(page.publications) + 1))
        found = {one.data: one.offset for one in page.publications}
        assert len(found) == len(page.publications), "a publication is there twice"
        assert found == acked[channel]
    await store.close()
    await replicas.close()
