"""Changes of conversations in DynamoDB, and what there is of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.persistence.chat.adapters.dynamodb.store import DynamoDbChatStore
from services.persistence.chat.ports import Changes
from services.shared.dynamodb.client import DynamoDb, values_of
from services.shared.dynamodb.settings import DynamoDbSettings
from tests.support.chat_store import MemoryChatStore
from tests.support.dynamodb_tables import PATIENCE_S

CHANNEL = "conv:o.chat"


def store_of(db: DynamoDb, settings: DynamoDbSettings) -> DynamoDbChatStore:
    return DynamoDbChatStore(db, settings.chat_table, deadline_s=PATIENCE_S, long_deadline_s=PATIENCE_S)


def changes(position: int, mark: str = "", **values: Any) -> Changes:
    made = Changes(position, (mark or str(position)).encode(), {}, {}, {})
    return made._replace(**values)


def crowd(count: int, mark: str, first: int = 0) -> dict[str, bytes]:
    return {f"user {number}": mark.encode() for number in range(first, first + count)}


async def kept(db: DynamoDb, settings: DynamoDbSettings) -> dict[tuple[str, str], dict[str, Any]]:
    """All items of the table, by key."""
    found: list[dict[str, Any]] = []
    more: dict[str, Any] = {}
    while True:
        response = await db.call("scan", TableName=settings.chat_table, ConsistentRead=True, **more)
        found += map(values_of, response["Items"])
        if "LastEvaluatedKey" not in response:
            return {(values["p"], values["s"]): values for values in found}
        more = {"ExclusiveStartKey": response["LastEvaluatedKey"]}


async def model_of(*applied: tuple[int | None, Changes]) -> MemoryChatStore:
    model = MemoryChatStore()
    for expected, one in applied:
        assert await model.apply(CHANNEL, expected, one)
    return model


async def assert_same(store: DynamoDbChatStore, model: MemoryChatStore, users: int = 80) -> None:
    """All that the port can tell is the same."""
    assert await store.load(CHANNEL) == await model.load(CHANNEL)
    assert await store.overlays_between(CHANNEL, 1, 20_000) == await model.overlays_between(CHANNEL, 1, 20_000)
    for name in list(crowd(users, ""))[:: users // 5]:
        assert [*await store.conversations_of(name, "", 9)] == [*await model.conversations_of(name, "", 9)]
    assert [*await store.directory("conv", "", "", 9)] == [*await model.directory("conv", "", "", 9)]


@pytest.fixture
async def db(settings: DynamoDbSettings) -> AsyncIterator[DynamoDb]:
    made = DynamoDb(settings, deadline_s=PATIENCE_S)
    yield made
    await made.close()


@pytest.fixture
def store(db: DynamoDb, settings: DynamoDbSettings) -> DynamoDbChatStore:
    return store_of(db, settings)
