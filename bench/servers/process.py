"""Peers' processes: started, waited for, and ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

from bench.servers.target import TargetFailed
from services.shared.redis.binary import find_redis_server

_STARTS_WITHIN_S = 30.0
_ENDS_WITHIN_S = 5.0
_POLL_S = 0.05


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def process(
    command: Sequence[str], *, port: int, cwd: Path, environment: Mapping[str, str] | None = None
) -> AsyncIterator[int]:
    """Run a server until the end of the block; yield its pid once it listens."""
    with tempfile.TemporaryFile() as said:
        running = await asyncio.create_subprocess_exec(
            *command,
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
        try:
            await _wait_for(running, port, said, command[0])
            yield running.pid
        finally:
            await _end(running)


async def _wait_for(running: asyncio.subprocess.Process, port: int, said: IO[bytes], name: str) -> None:
    try:
        async with asyncio.timeout(_STARTS_WITHIN_S):
            while not await _listens(port):
                if running.returncode is not None:
                    said.seek(0)
                    last = said.read().decode("utf-8", "replace").strip().rpartition("\n")[2]
                    raise TargetFailed(f"{name} ended with code {running.returncode}: {last}")
                await asyncio.sleep(_POLL_S)
    except TimeoutError as error:
        raise TargetFailed(f"{name} does not listen after {_STARTS_WITHIN_S:g} s") from error


async def _end(running: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        running.terminate()
    try:
        await asyncio.wait_for(running.wait(), _ENDS_WITHIN_S)
    except TimeoutError:
        running.kill()
        await running.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@asynccontextmanager
async def redis(data: Path) -> AsyncIterator[tuple[int, int]]:
    """Run a Redis for a peer, which keeps nothing on disk; yield its pid and its port."""
    port = free_port()
    options = {"port": str(port), "bind": "127.0.0.1", "save": "", "appendonly": "no"}
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    async with process([str(find_redis_server()), *arguments], port=port, cwd=data) as pid:
        yield pid, port
