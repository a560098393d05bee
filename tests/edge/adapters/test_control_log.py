"""The control log in a real Redis.

What is kept, for how long, and what is published.
"""

from __future__ import annotations

import asyncio

import pytest
import redis.asyncio

from services.edge.adapters.redis.command_log import RedisControlLog, parse_command
from services.edge.domain.model import ControlCommand, ControlCommandId
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.redis.pipeline import RedisPipeline
from tests.support.faults import free_port


@pytest.fixture
def control_log(redis_pipeline: RedisPipeline) -> RedisControlLog:
    return RedisControlLog(redis_pipeline)


async def test_commands_are_read_in_pages_each_with_the_one_before_it(control_log: RedisControlLog) -> None:
    assert await control_log.read((0, 0)) == ([], (0, 0), True)
    for number in range(250):
        assert await control_log.append(b"%d" % number) == 0  # nobody listens
    found: list[bytes] = []
    since: ControlCommandId = (0, 0)
    for is_last in (False, True):
        page = await control_log.read(since)
        assert page.is_last is is_last
        for command in page.commands:
            assert command.previous == since < command.id
            since = command.id
            found.append(command.payload)
    assert page.newest == since
    assert found == [b"%d" % number for number in range(250)]


async def test_what_is_told_is_what_is_kept(control_log: RedisControlLog, redis_conn: redis.asyncio.Redis) -> None:
    async with redis_conn.pubsub() as listener:
        await listener.subscribe(keys.control())
        await listener.get_message(timeout=60)
        for payload in (b'{"op":"one two"}', b"\x00\xff\n"):
            assert await control_log.append(payload) == 1
        published: list[ControlCommand] = []
        async with asyncio.timeout(30):
            while len(published) < 2:
                message = await listener.get_message(ignore_subscribe_messages=True, timeout=60)
                published += [parse_command(message["data"])] if message else []
    assert published == (await control_log.read((0, 0))).commands
    assert [command.payload for command in published] == [b'{"op":"one two"}', b"\x00\xff\n"]


async def test_what_is_older_than_a_minute_goes_with_the_next_command(
    control_log: RedisControlLog, redis_conn: redis.asyncio.Redis
) -> None:
    now_s, _ = await redis_conn.time()
    for number in range(250):  # Redis drops nodes of a hundred entries
        fields = {"previous": "0-0", "order": "old"}
        await redis_conn.xadd(keys.control_log(), fields, id=f"{(now_s - 120) * 1000 + number}-0")  # type: ignore[arg-type]
    await control_log.append(b"new")
    page = await control_log.read((0, 0))
    assert page.commands[-1].payload == b"new"
    assert len(page.commands) <= 101


async def test_an_entry_that_is_no_order_does_not_stop_who_follows(
    control_log: RedisControlLog, redis_conn: redis.asyncio.Redis
) -> None:
    await redis_conn.xadd(keys.control_log(), {"something": "else"})
    await redis_conn.xadd(keys.control_log(), {"previous": "nonsense", "order": "x"})
    await control_log.append(b"command")
    page = await control_log.read((0, 0))
    assert [command.payload for command in page.commands] == [b"", b"", b"command"]


@pytest.mark.parametrize("payload", [b"o", b"o1-0 0-0", b"ox-0 0-0 {}", b"o1-0  {}"])
def test_what_is_told_and_is_no_order_is_said_to_be_none(payload: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # any of them: it is counted and dropped
        parse_command(payload)


async def test_a_redis_that_is_away_is_unavailable() -> None:
    pipeline = RedisPipeline(f"redis://127.0.0.1:{free_port()}/0")
    control_log = RedisControlLog(pipeline)
    for call in (control_log.append(b"x"), control_log.read((0, 0))):
        with pytest.raises(Unavailable):
            await call
    await pipeline.aclose()
