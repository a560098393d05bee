"""Ordinal, membership version and guard, on Redis and both stores.

Whatever crashes or goes back: `n` of a row is the number of rows with flag 1 up to it, `mv` the offset of the last row
with flag 2 at or below it, no publication with a wrong guard has an offset, and a repeated key has its first one.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from services.persistence.adapters.dynamodb.store import DynamoDbLogStore
from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.shared.dynamodb import tables
from services.shared.dynamodb.client import DynamoDb
from services.shared.redis.pipeline import RedisPipeline
from tests.properties.counted_log import CountedChannel, MixedChannel, live
from tests.support.dynamodb import settings_of
from tests.support.full import sized

_MEMORY = Path("/dev/shm")
_SCHEDULES = {"sqlite": sized(150, 2_000), "dynamodb": sized(6, 100)}
both = pytest.mark.parametrize("kind", [CountedChannel, MixedChannel], ids=["crashes", "a replica of before"])


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Crashes are logged, thousands of times."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="thalamus-log-", dir=_MEMORY if _MEMORY.is_dir() else None))
    yield made
    shutil.rmtree(made)


@pytest.fixture(params=["sqlite", "dynamodb"])
async def stored(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[tuple[str, Any]]:
    if request.param == "sqlite":
        store = SqliteLogStore(folder / "log.sqlite3")
        yield request.param, store
        await store.close()
        return
    settings = settings_of(request.getfixturevalue("dynamodb"), f"{uuid.uuid4().hex}-")
    db = DynamoDb(settings)
    await tables.create(db, settings)
    kept = DynamoDbLogStore(db, settings.log_table, bucket_offsets=7, deadline_s=20, shared_deadline_s=30)
    yield request.param, kept
    await kept.close()


@both
@pytest.mark.parametrize("seed", [1, 2])
async def test_what_was_counted_is_what_the_rows_say(
    kind: type[CountedChannel],
    seed: int,
    stored: tuple[str, Any],
    redis_conn: redis.asyncio.Redis,
    redis_pipeline: RedisPipeline,
) -> None:
    name, store = stored
    for number in range(_SCHEDULES[name]):
        print(f"seed {seed} {number}")
        async with asyncio.timeout(120):
            await live(kind, redis_conn, redis_pipeline, store, f"{seed} {number}")
