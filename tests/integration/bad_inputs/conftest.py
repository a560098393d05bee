"""Bad inputs by row against real processes.

The answer of each row, over WebSocket and over the server API.

Two bystanders, one on each edge, sit in the channels that are attacked. After every test they publish and must have
heard nothing but each other, without a hole. At the end nobody may have logged a fault, nor anything but whole lines.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.integration.bad_inputs.site import (
    ATTACKED,
    NEW,
    Api,
    Site,
    check_logs,
)
from tests.support.stack import Stack
from tests.support.wire_client import WireClient


@pytest.fixture(scope="module")
def wide() -> Iterator[Stack]:
    """Two edges with the limits of production; everything is logged."""
    with Stack(environment={"LOG_LEVEL": "DEBUG"}) as running:
        yield running
    check_logs(running)  # with what they said when they ended


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(wide: Stack) -> AsyncIterator[Site]:
    key = wide.api_key
    apis = [Api(url, key) for url in wide.http_urls]
    async with WireClient(wide.ws_urls[0]) as one, WireClient(wide.ws_urls[1]) as two:
        made = Site(wide, apis, [one, two])
        for bystander in made.bystanders:
            await bystander.connect(wide.token("bystander"))
            for channel in ATTACKED.values():
                await bystander.subscribe(channel)
        yield made
        await made.redis.aclose()
        for api in apis:
            await api.http.aclose()


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def unharmed(site: Site) -> AsyncIterator[None]:
    """After every test."""
    yield
    await site.check()


@pytest.fixture(params=list(NEW))
def durability(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def channel(durability: str) -> str:
    """One that nobody has used yet."""
    return f"{NEW[durability]}new-{secrets.token_hex(4)}"
