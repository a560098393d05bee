"""Replicas of persistence, and a notifier with a backend."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio

from tests.support.chat_calls import Site, dynamodb_site, sqlite_site
from tests.support.full import sized
from tests.support.push import Backend, Run, WhoIsThere
from tests.support.push_server import PushServer


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run C60 to C64 on both stores; in the long version all."""
    marked = any(mark.name == "parametrize" and mark.args[0] == "site" for mark in metafunc.definition.iter_markers())
    if "site" in metafunc.fixturenames and not marked:
        both = sized(0, 1) or metafunc.function.__name__.startswith("test_c6")
        metafunc.parametrize("site", ["sqlite", "dynamodb"] if both else ["sqlite"], indirect=True)


@pytest.fixture
async def site(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    if request.param == "sqlite":
        made = sqlite_site(redis_url, tmp_path / "log.sqlite3")
    else:
        made = dynamodb_site(redis_url, request.getfixturevalue("dynamodb"))
    async with made as running:
        yield running


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with PushServer() as server:
        yield Backend(server)


@pytest.fixture
def presence() -> WhoIsThere:
    return WhoIsThere()


@pytest.fixture
async def run(
    redis_url: str, redis_conn: redis.asyncio.Redis, site: Site, backend: Backend, presence: WhoIsThere
) -> AsyncIterator[Run]:
    made = Run(redis_url, redis_conn, site, [backend.way()], presence)
    await made.begin()
    yield made
    await made.close()
