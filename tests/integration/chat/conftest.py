"""One stack for the tests of a process; they leave it healthy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest

from tests.support.chat_client import Backend
from tests.support.chat_stack import ChatStack
from tests.support.full import FULL

STORES = ["sqlite", "dynamodb"] if FULL else ["sqlite"]


@pytest.fixture(scope="session", params=STORES)
def chat_stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatStack]:
    """Three edges, two replicas of persistence; in the long version on DynamoDB, too."""
    with ChatStack(tmp_path_factory.mktemp("chat"), store=request.param) as running:
        yield running


@pytest.fixture
async def backend(chat_stack: ChatStack) -> AsyncIterator[Backend]:
    """Calls of the server API."""
    async with Backend(chat_stack.stack) as made:
        yield made


@pytest.fixture
async def exits() -> AsyncIterator[AsyncExitStack]:
    """Ends clients with the test."""
    async with AsyncExitStack() as made:
        yield made
