"""Fixtures of DynamoDB with faults; a conftest imports them where they are wanted."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from services.shared.dynamodb import tables
from services.shared.dynamodb.client import DynamoDb
from services.shared.dynamodb.settings import DynamoDbSettings
from tests.support.dynamodb import settings_of
from tests.support.dynamodb_faults import DynamoDbFaults, dynamodb_faults


@pytest.fixture
def faults(dynamodb: str) -> Iterator[DynamoDbFaults]:
    """What stands in front of the server, and makes no faults yet."""
    with dynamodb_faults(dynamodb, seed=1) as made:
        yield made


@pytest.fixture
async def settings(faults: DynamoDbFaults) -> DynamoDbSettings:
    """Settings of tables that are there, empty; their requests go through `faults`."""
    settings = settings_of(faults.address, f"{uuid.uuid4().hex}-")
    db = DynamoDb(settings)
    await tables.create(db, settings)
    await db.close()
    faults.requests.clear()
    return settings
