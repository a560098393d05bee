"""The health check of the image where an edge runs several workers.

All of them count.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from cli.stack.ports import why_not
from services.edge.config import EdgeConfig
from services.shared.process.internal_http import start_internal_http
from tests.deploy.tools import ROOT
from tests.support.faults import free_port

SCRIPT = (ROOT / "deploy" / "images" / "healthcheck.py").read_text(encoding="utf-8")


def free_pair() -> int:
    """A port that is free, and so is the next one."""
    while why_not("127.0.0.1", (port := free_port()) + 1):
        pass
    return port


class Container:
    """Internal ports side by side, each ready or not, and the check beside them."""

    def __init__(self, directory: Path, exits: AsyncExitStack) -> None:
        self._exits = exits
        self._was_ready = directory / "was-ready"
        self.first = 0
        self.ready: list[bool] = []

    async def listen(self) -> None:
        """One more process, which is not ready."""
        number = len(self.ready)
        port = self.first + number if self.first else free_pair()
        server = await start_internal_http("127.0.0.1", port, ready=lambda: {"redis": self.ready[number]})
        self._exits.push_async_callback(server.close)
        self.first = self.first or server.port
        self.ready.append(False)

    async def is_healthy(self, **environment: str) -> bool:
        script = SCRIPT.replace("PORT = 9100", f"PORT = {self.first}").replace("/tmp/was-ready", str(self._was_ready))
        command = [sys.executable, "-I", "-S", "-c", script]
        process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **environment})
        return await process.wait() == 0


@pytest.fixture
async def container(tmp_path: Path) -> AsyncIterator[Container]:
    async with AsyncExitStack() as exits:
        made = Container(tmp_path, exits)
        await made.listen()
        yield made


async def test_every_worker_must_answer(container: Container) -> None:
    container.ready[0] = True
    assert await container.is_healthy(EDGE_WORKERS="1")
    assert not await container.is_healthy(EDGE_WORKERS="2")
    await container.listen()
    assert await container.is_healthy(EDGE_WORKERS="2"), "it was ready before: it only has to answer"


async def test_not_ready_before_every_worker_was(container: Container) -> None:
    await container.listen()
    container.ready[0] = True
    assert not await container.is_healthy(EDGE_WORKERS="2")
    container.ready[1] = True
    assert await container.is_healthy(EDGE_WORKERS="2")


async def test_auto_counts_as_the_edge_does(container: Container) -> None:
    container.ready[0] = True
    assert await container.is_healthy(EDGE_WORKERS="auto") is (EdgeConfig(workers="auto").worker_count() == 1)
