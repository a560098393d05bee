"""Tables in DynamoDB that no other test has, and fixtures on them."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable

import pytest

from services.shared.dynamodb import tables
from services.shared.dynamodb.client import DynamoDb
from services.shared.dynamodb.settings import DynamoDbSettings
from tests.support.dynamodb import CREDENTIALS, settings_of

Connect = Callable[[], DynamoDb]
PATIENCE_S = 240.0  # for a request or an operation: the emulator shares a machine with other tests


async def own_tables(address: str) -> DynamoDbSettings:
    """Make empty tables on a server, and return their settings."""
    settings = settings_of(address, f"{uuid.uuid4().hex}-")
    db = DynamoDb(settings, deadline_s=PATIENCE_S)
    await tables.create(db, settings)
    await db.close()
    return settings


async def environment_on_dynamodb(address: str, *services: str) -> dict[str, str]:
    """Make empty tables; return variables with which these services use them."""
    settings = await own_tables(address)
    return {
        **CREDENTIALS,
        **{f"{service.upper()}_STORE": "dynamodb" for service in services},
        "DYNAMODB_ENDPOINT": address,
        "DYNAMODB_TABLE_PREFIX": settings.table_prefix,
    }


class OnDynamoDb:
    """Fixtures of a contract's tests on moto's server."""

    @pytest.fixture
    def address(self, dynamodb: str) -> str:
        return dynamodb

    @pytest.fixture
    async def settings(self, address: str) -> DynamoDbSettings:
        """Of tables that no other test has."""
        return await own_tables(address)

    @pytest.fixture
    async def connect(self, settings: DynamoDbSettings) -> AsyncIterator[Connect]:
        """Returns a new client each time; all are closed in the end."""
        made: list[DynamoDb] = []

        def connect() -> DynamoDb:
            made.append(DynamoDb(settings, deadline_s=PATIENCE_S))
            return made[-1]

        yield connect
        for one in made:
            await one.close()


class OnDynamoDbLocal(OnDynamoDb):
    """The same on dynamodb-local in a container, where an engine runs."""

    @pytest.fixture
    def address(self, dynamodb_local: str) -> str:
        return dynamodb_local
