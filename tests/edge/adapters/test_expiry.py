"""Many that wait equally long, and one timer."""

from __future__ import annotations

import asyncio

import pytest

from services.edge.adapters.redis.expiry import Expiry
from services.shared.errors import Unavailable

LIMIT_S = 0.05


async def test_who_is_not_done_in_time_is_told_and_who_is_keeps_its_result() -> None:
    loop = asyncio.get_running_loop()
    deadlines = Expiry(LIMIT_S, "too late")
    futures = [loop.create_future() for _ in range(3)]
    for future in futures:
        deadlines.add(future, loop.time())
    futures[1].set_result("in time")
    with pytest.raises(Unavailable, match="too late"):
        await futures[0]
    with pytest.raises(Unavailable, match="too late"):
        await futures[2]
    assert await futures[1] == "in time"


async def test_a_later_one_has_its_own_time() -> None:
    loop = asyncio.get_running_loop()
    deadlines = Expiry(LIMIT_S, "too late")
    first, second = loop.create_future(), loop.create_future()
    deadlines.add(first, loop.time())
    deadlines.add(second, loop.time() + 60.0)
    with pytest.raises(Unavailable):
        await first
    assert not second.done()
    deadlines.close()


async def test_what_is_done_is_not_kept() -> None:
    loop = asyncio.get_running_loop()
    deadlines = Expiry(60.0, "too late")
    for _ in range(1_000):
        future = loop.create_future()
        deadlines.add(future, loop.time())
        future.set_result(None)
    assert len(deadlines._waiting) == 1
    deadlines.close()


async def test_who_waits_at_the_end_is_told_then() -> None:
    loop = asyncio.get_running_loop()
    expiry = Expiry(60.0, "the end")
    future = loop.create_future()
    expiry.add(future, loop.time())
    expiry.close()
    with pytest.raises(Unavailable, match="the end"):
        await future
