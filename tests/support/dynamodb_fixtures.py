"""Fixtures of DynamoDB with faults; a conftest imports them where they are wanted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services.shared.dynamodb.settings import DynamoDbSettings
from tests.support.dynamodb_faults import DynamoDbFaults, dynamodb_faults
from tests.support.dynamodb_tables import own_tables


@pytest.fixture
def faults(dynamodb: str) -> Iterator[DynamoDbFaults]:
    """What stands in front of the server, and makes no faults yet."""
    with dynamodb_faults(dynamodb, seed=1) as made:
        yield made


@pytest.fixture
async def settings(faults: DynamoDbFaults) -> DynamoDbSettings:
    """Settings of tables that are there, empty; their requests go through `faults`."""
    settings = await own_tables(faults.address)
    faults.requests.clear()
    return settings
