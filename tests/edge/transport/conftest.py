"""Transport tests run on uvloop, as production does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
import uvloop

from tests.edge.transport.support import Serve, Served


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts servers on free ports; they end with the test."""
    started: list[Served] = []

    async def start(**options: Any) -> Served:
        served = await Served.start(**options)
        started.append(served)
        return served

    yield start
    for served in started:
        await served.close()
