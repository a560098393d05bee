"""One connection for many callers, against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from services.shared.errors import Unavailable
from services.shared.hotlog.scripts import Call, Command, load
from services.shared.incarnation.calls import Incarnation, Known
from services.shared.incarnation.gate import IncarnationGate, run_id_of
from services.shared.process.config import ConfigError
from services.shared.redis.pipeline import NotSent, RedisPipeline
from tests.support.redis import RedisServer
from tests.support.tcp_proxy import TcpProxy

_SOON_S = 30.0


@pytest.fixture
async def own(own_redis: RedisServer) -> AsyncIterator[RedisPipeline]:
    """To a server that the test may break."""
    made = RedisPipeline(own_redis.url)
    yield made
    await made.aclose()


async def _one(pipeline: RedisPipeline, *words: str | bytes | int, timeout_s: float = _SOON_S) -> object:
    (reply,) = await pipeline.execute([words], timeout_s=timeout_s)
    return reply


async def test_everyone_gets_the_answers_to_what_they_sent(redis_pipeline: RedisPipeline) -> None:
    asked = [[("ECHO", f"{caller}.{number}") for number in range(caller)] for caller in range(20)]
    replies = await asyncio.gather(*(redis_pipeline.execute(commands, timeout_s=_SOON_S) for commands in asked))
    assert replies == [[words[1].encode() for words in commands] for commands in asked]


async def test_all_share_one_connection(redis_pipeline: RedisPipeline) -> None:
    ids = await asyncio.gather(*(_one(redis_pipeline, "CLIENT", "ID") for _ in range(5)))
    assert len(set(ids)) == 1


async def test_a_large_value_comes_whole(redis_pipeline: RedisPipeline) -> None:
    value = bytes(range(256)) * 8_192
    await _one(redis_pipeline, "SET", "t:large", value)
    assert await _one(redis_pipeline, "GET", "t:large") == value


async def test_a_refused_command_leaves_the_others_alone(redis_pipeline: RedisPipeline) -> None:
    first, refused, last = await redis_pipeline.execute(
        [("SET", "t:x", 1), ("LPUSH", "t:x", 2), ("INCR", "t:x")], timeout_s=_SOON_S
    )
    assert (first, last) == (b"OK", 2)
    assert str(refused).startswith("WRONGTYPE")


async def test_scripts_that_the_server_does_not_know_are_told(redis_pipeline: RedisPipeline, tmp_path: Path) -> None:
    (tmp_path / "say.lua").write_text("return {KEYS[1], ARGV[1]}")
    (tmp_path / "fail.lua").write_text("return redis.error_reply('NO: ' .. ARGV[1])")
    say, fail = load(tmp_path / "say.lua"), load(tmp_path / "fail.lua")
    calls = [Call(say, ["t:k"], [1]), Call(fail, [], ["why"]), Call(say, ["t:k"], [b"\xff"])]
    for _ in range(2):
        await _one(redis_pipeline, "SCRIPT", "FLUSH")
        for _ in range(2):
            first, failed, last = await redis_pipeline.run(calls, timeout_s=_SOON_S)
            assert (first, last) == ([b"t:k", b"1"], [b"t:k", b"\xff"])
            assert "NO: why" in str(failed)


async def test_only_what_was_never_sent_is_called_so(
    own: RedisPipeline, own_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "count.lua").write_text("return redis.call('INCR', KEYS[1])")
    (tmp_path / "new.lua").write_text("return 1")
    count = load(tmp_path / "count.lua")
    await own.run([Call(count, ["t:n"], [])], timeout_s=_SOON_S)  # brings all scripts that this process has by now
    new = load(tmp_path / "new.lua")
    send = own._send  # noqa: SLF001  # between its two calls is the moment that this test is about

    async def once(commands: Sequence[Command]) -> list[Any]:
        replies = await send(commands)
        own_redis.kill()  # it has executed one script, and asks for the other
        monkeypatch.setattr(own, "_send", send)
        while (connection := own._connection) is not None and not connection.is_lost:  # noqa: SLF001
            await asyncio.sleep(0.005)
        return replies

    monkeypatch.setattr(own, "_send", once)
    with pytest.raises(Unavailable) as partly:
        await own.run([Call(count, ["t:n"], []), Call(new, [], [])], timeout_s=_SOON_S)
    assert not isinstance(partly.value, NotSent)
    with pytest.raises(NotSent):
        await own.run([Call(count, ["t:n"], [])], timeout_s=_SOON_S)


async def test_what_is_under_way_when_the_connection_breaks_has_no_outcome_and_the_next_connects(
    own: RedisPipeline, own_redis: RedisServer
) -> None:
    assert await _one(own, "PING") == b"PONG"
    waiting = [asyncio.create_task(_one(own, "BLPOP", "t:nothing", 0)) for _ in range(2)]
    await asyncio.sleep(0)  # they are sent
    own_redis.kill()
    for failed in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(failed, Unavailable)
    with pytest.raises(Unavailable):
        await _one(own, "PING")
    own_redis.start()
    assert await _one(own, "PING") == b"PONG"


async def test_a_command_whose_outcome_is_unknown_is_not_repeated(own: RedisPipeline, own_redis: RedisServer) -> None:
    await _one(own, "PING")
    own_redis.pause()
    with pytest.raises(Unavailable):
        await _one(own, "INCR", "t:counter", timeout_s=0.2)
    own_redis.resume()
    async with asyncio.timeout(_SOON_S):
        while await _one(own, "GET", "t:counter") is None:
            pass
    assert await _one(own, "GET", "t:counter") == b"1"


async def test_a_connection_that_is_silent_is_given_up(own_redis: RedisServer) -> None:
    async with TcpProxy("127.0.0.1", own_redis.port) as proxy:
        pipeline = RedisPipeline(f"redis://127.0.0.1:{proxy.port}/0")
        before = await _one(pipeline, "CLIENT", "ID")
        proxy.stall()
        with pytest.raises(Unavailable):
            await _one(pipeline, "PING", timeout_s=0.1)
        proxy.flow()
        assert await _one(pipeline, "CLIENT", "ID") != before
        await pipeline.aclose()


async def test_a_slow_command_costs_nobody_else_the_connection(redis_pipeline: RedisPipeline) -> None:
    before = await _one(redis_pipeline, "CLIENT", "ID")
    replies = await asyncio.gather(
        _one(redis_pipeline, "PING"),
        _one(redis_pipeline, "BLPOP", "t:nothing", "0.3", timeout_s=0.1),
        _one(redis_pipeline, "CLIENT", "ID"),
        return_exceptions=True,
    )
    assert isinstance(replies[1], Unavailable)
    assert (replies[0], replies[2]) == (b"PONG", before)


async def test_an_answer_that_nobody_waits_for_any_more_goes_to_nobody(redis_pipeline: RedisPipeline) -> None:
    await _one(redis_pipeline, "PING")
    given_up = asyncio.create_task(_one(redis_pipeline, "ECHO", "old"))
    await asyncio.sleep(0)  # it is sent
    given_up.cancel()
    assert await _one(redis_pipeline, "ECHO", "new") == b"new"
    assert given_up.cancelled()


async def test_a_server_whose_incarnation_nobody_judged_is_not_used(own_redis: RedisServer) -> None:
    gate = IncarnationGate()
    pipeline, plain = RedisPipeline(own_redis.url, gate=gate), RedisPipeline(own_redis.url)

    async def open_gate() -> None:
        info = await _one(plain, "INFO", "server")
        assert isinstance(info, bytes)
        gate.open(Incarnation(run_id_of(info), 1, 0), Known(1))

    with pytest.raises(Unavailable):
        await _one(pipeline, "SET", "t:x", 1)
    assert gate.refused.is_set()
    await open_gate()
    await _one(pipeline, "SET", "t:x", 2)
    own_redis.kill()
    own_redis.start()
    with pytest.raises(Unavailable):
        await _one(pipeline, "SET", "t:x", 3)
    with pytest.raises(Unavailable):
        await _one(pipeline, "SET", "t:x", 4)
    assert await _one(plain, "GET", "t:x") in (None, b"2")
    await open_gate()
    assert await _one(pipeline, "SET", "t:x", 5) == b"OK"
    await pipeline.aclose()
    await plain.aclose()


async def test_it_logs_in_and_takes_the_database_of_the_address(own: RedisPipeline, own_redis: RedisServer) -> None:
    await _one(own, "CONFIG", "SET", "requirepass", "r:ght/")
    await _one(own, "ACL", "SETUSER", "edge", "on", ">s3cret", "+@all", "~*", "&*")
    place = f"127.0.0.1:{own_redis.port}"
    for login in (":r%3Aght%2F@", "edge:s3cret@"):
        pipeline = RedisPipeline(f"redis://{login}{place}/3")
        listed = await _one(pipeline, "CLIENT", "INFO")
        assert isinstance(listed, bytes)
        assert b" db=3 " in listed
        await pipeline.aclose()
    for login in ("", ":wrong@", "edge:wrong@"):
        pipeline = RedisPipeline(f"redis://{login}{place}/3")
        with pytest.raises(Unavailable, match=r"NOAUTH|WRONGPASS"):
            await _one(pipeline, "PING")
        await pipeline.aclose()


async def test_it_speaks_over_a_unix_socket(tmp_path: Path) -> None:
    server = RedisServer("--unixsocket", str(tmp_path / "redis"))
    try:
        server.start()
        pipeline = RedisPipeline(f"unix://{tmp_path}/redis")
        assert await _one(pipeline, "PING") == b"PONG"
        await pipeline.aclose()
    finally:
        server.close()


async def test_closing_tells_those_that_wait(redis_pipeline: RedisPipeline, own: RedisPipeline) -> None:
    await _one(redis_pipeline, "PING")
    waiting = asyncio.create_task(_one(redis_pipeline, "BLPOP", "t:nothing", 0))
    connecting = asyncio.create_task(_one(own, "PING"))
    await asyncio.sleep(0)
    await redis_pipeline.aclose()
    await own.aclose()
    for failed in await asyncio.gather(waiting, connecting, return_exceptions=True):
        assert isinstance(failed, Unavailable)


def test_an_address_that_is_none_names_its_variable() -> None:
    with pytest.raises(ConfigError, match="REDIS_URL"):
        RedisPipeline("http://127.0.0.1")
