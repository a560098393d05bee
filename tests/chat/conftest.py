"""One Redis, one store, and replicas of the chat service on them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio

from services.shared.redis.pipeline import RedisPipeline
from tests.support.chat import ChatSite
from tests.support.chat_calls import Replica, dynamodb_site, sqlite_site
from tests.support.chat_calls import Site as CallSite
from tests.support.dynamodb_fixtures import faults as faults
from tests.support.dynamodb_fixtures import settings as settings
from tests.support.patience import be_patient
from tests.support.persistence import Site


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no failure."""
    be_patient(monkeypatch)


@pytest.fixture
async def chat(
    redis_conn: redis.asyncio.Redis, redis_pipeline: RedisPipeline, tmp_path: Path
) -> AsyncIterator[ChatSite]:
    made = ChatSite(Site(redis_conn, redis_pipeline, tmp_path / "log.sqlite3"))
    yield made
    await made.close()


@pytest.fixture
async def site(redis_url: str, tmp_path: Path) -> AsyncIterator[CallSite]:
    """Two replicas that serve methods."""
    async with sqlite_site(redis_url, tmp_path / "log.sqlite3") as made:
        yield made


@pytest.fixture
async def dynamodb_calls(redis_url: str, dynamodb: str) -> AsyncIterator[CallSite]:
    """The same on DynamoDB."""
    async with dynamodb_site(redis_url, dynamodb) as made:
        yield made


@pytest.fixture
def a(site: CallSite) -> Replica:
    return site.replicas[0]


@pytest.fixture
def b(site: CallSite) -> Replica:
    return site.replicas[1]
