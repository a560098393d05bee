"""One Redis, one store, and processes on them; see `tests/support/persistence.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio

from services.shared.redis.pipeline import RedisPipeline
from tests.support.dynamodb_fixtures import faults as faults
from tests.support.dynamodb_fixtures import settings as settings
from tests.support.persistence import Process, Site


@pytest.fixture
async def site(redis_conn: redis.asyncio.Redis, redis_pipeline: RedisPipeline, tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(redis_conn, redis_pipeline, tmp_path / "log.sqlite3")
    yield made
    await made.close()


@pytest.fixture
async def process(site: Site) -> Process:
    return site.process()
