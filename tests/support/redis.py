"""A real Redis server: one for the session, or one for a test that breaks it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis
import redis.asyncio

from services.shared.hotlog import keys
from services.shared.incarnation.calls import parse_incarnation
from services.shared.redis.binary import find_redis_server
from services.shared.redis.client import redis_client
from services.shared.redis.pipeline import RedisPipeline
from tests.support.faults import free_port

_START_S = 60.0


class RedisServer:
    """A server process with AOF; `start` after `kill` comes back with its data."""

    def __init__(self, *options: str) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="thalamus-redis-"))
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def start(self, *, whole: bool = True) -> None:
        """Return once it answers. `whole`: also say that it has lost nothing."""
        log = (self._directory / "log").open("ab")
        settings = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._directory), "--save", ""]
        settings += ["--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction"]
        # Not compressed: tests look in DUMP for what was deleted.
        settings += ["--rdbcompression", "no", "--enable-debug-command", "local", *self._options]
        with log:
            self._process = subprocess.Popen([find_redis_server(), *settings], stdout=log, stderr=log)
        deadline = time.monotonic() + _START_S
        with redis.Redis(port=self.port) as client:
            while True:
                try:
                    client.ping()
                    if whole:
                        _begin_incarnation(client)
                    return
                except redis.AuthenticationError:  # it answers, and lets us do nothing
                    return
                except redis.ConnectionError as error:
                    if self._process.poll() is not None or time.monotonic() > deadline:
                        said = (self._directory / "log").read_text()
                        raise AssertionError(f"redis-server did not start:\n{said}") from error
                    time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL; what AOF holds is there after the next `start`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def wipe(self) -> None:
        """Forget all data; the server must be down."""
        assert self._process is None, "kill the server first"
        shutil.rmtree(self._directory / "appendonlydir", ignore_errors=True)

    def copy(self) -> None:
        """Keep a copy of all data, in place of an earlier one."""
        shutil.rmtree(self._directory / "copy", ignore_errors=True)
        shutil.copytree(self._directory / "appendonlydir", self._directory / "copy")

    def go_back(self) -> None:
        """Put the copy in place of the data; the server must be down."""
        self.wipe()
        shutil.copytree(self._directory / "copy", self._directory / "appendonlydir")

    def files_with(self, secret: bytes) -> list[str]:
        """Names of its files that hold these bytes."""
        files = [path for path in self._directory.rglob("*") if path.is_file() and "copy" not in path.parts]
        return sorted(path.name for path in files if secret in path.read_bytes())

    def rewrite(self) -> None:
        """Rewrite the append-only file, and return once that is done."""
        with redis.Redis(port=self.port) as client:
            client.bgrewriteaof()
            deadline = time.monotonic() + _START_S
            while client.info("persistence")["aof_rewrite_in_progress"]:
                assert time.monotonic() < deadline, "the rewrite does not end"
                time.sleep(0.01)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)


def _begin_incarnation(client: redis.Redis) -> None:
    """Say that Redis lost nothing, as persistence does (shared/incarnation/calls.py)."""
    said = client.get(keys.incarnation())
    known = parse_incarnation(said if isinstance(said, bytes) else None)
    run_id = client.info("server")["run_id"]
    client.set(keys.incarnation(), f"{run_id} {known.generation if known else 1} 0")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One server for the session; leave it healthy. For faults there is `own_redis`."""
    server = RedisServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """Address of the session's server, emptied."""
    with redis.Redis(port=redis_server.port) as client:
        client.flushall()
        _begin_incarnation(client)
    return redis_server.url


@pytest.fixture
async def redis_conn(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    """A client of the emptied server, made as services make theirs."""
    client = redis_client(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
async def redis_pipeline(redis_url: str) -> AsyncIterator[RedisPipeline]:
    """The same for what many share."""
    pipeline = RedisPipeline(redis_url)
    yield pipeline
    await pipeline.aclose()


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A running server for this test alone: kill, pause, wipe and start it at will."""
    server = RedisServer()
    try:
        server.start()
        yield server
    finally:
        server.close()
