"""The list of revocations in a real Redis.

Read once by everyone, bounded, and restored when Redis has lost it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest
import redis.asyncio
from redis import exceptions

from services.edge.adapters.redis import revocations
from services.edge.adapters.redis.revocations import RedisRevocationLog
from services.edge.domain.access.revocations import Revocation, RevokedKind
from services.edge.domain.access.tokens import TokenInvalid, TokenVerifier
from services.edge.domain.control import revoker
from services.shared.errors import ErrorCode, ThalamusError, Unavailable
from services.shared.hotlog import keys
from services.shared.redis.pipeline import Ask, RedisPipeline
from tests.support.edge import Client, Cluster
from tests.support.faults import free_port
from tests.support.live_edge import LiveEdge
from tests.support.redis import RedisServer
from tests.support.tcp_proxy import TcpProxy


def entry(name: str, *, kind: RevokedKind = RevokedKind.TOKEN, ttl_s: float = 600) -> Revocation:
    now = time.time()
    return Revocation(kind=kind, id=name, at=now, until=now + ttl_s)


class Taken:
    """A `RevocationListener` that keeps what it was given."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.times_lost = 0

    def take(self, entries: Iterable[Revocation], *, first: bool = False) -> None:
        self.names += [one.id for one in entries]

    def was_read(self, took_s: float) -> None:
        assert 0.0 <= took_s < 5.0

    def lost(self) -> None:
        self.times_lost += 1


def followed(pipeline: RedisPipeline) -> tuple[RedisRevocationLog, Taken]:
    log, taken = RedisRevocationLog(pipeline), Taken()
    log.follow(taken)
    return log, taken


async def test_each_entry_is_read_once_in_pages(redis_pipeline: RedisPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocations, "_PAGE", 3)
    log, taken = followed(redis_pipeline)
    for number in range(8):
        await log.append(entry(f"n{number}"))
    for _ in range(3):
        await log.poll()
    # Each append moves up to two old entries to the end; what was moved before it was read comes once, too.
    assert sorted(set(taken.names)) == [f"n{number}" for number in range(8)]
    before = len(taken.names)
    await log.poll()
    assert len(taken.names) == before


async def test_what_is_kept_stays_and_what_is_over_goes(
    redis_pipeline: RedisPipeline, redis_conn: redis.asyncio.Redis
) -> None:
    log, _ = followed(redis_pipeline)
    for number in range(20):
        await log.append(entry(f"kept{number}"))
        await log.append(entry(f"over{number}", ttl_s=-1))
    for number in range(25):  # each append looks at two old entries
        await log.append(entry(f"later{number}"))
    late, taken = followed(redis_pipeline)
    await late.poll()
    assert {f"kept{number}" for number in range(20)} <= set(taken.names)
    assert not [name for name in taken.names if name.startswith("over")]
    assert await redis_conn.xlen(keys.revocations()) == 45


async def test_an_entry_that_can_not_be_read_is_skipped_and_told(
    redis_pipeline: RedisPipeline, redis_conn: redis.asyncio.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    log, taken = followed(redis_pipeline)
    newer = {"kind": "tenant", "id": "x", "at": 1.0, "until": 9e9}
    await redis_conn.xadd(keys.revocations(), {"entry": msgspec.json.encode(newer), "until": "9000000000"})
    await log.append(entry("after"))
    await log.poll()
    assert "after" in taken.names
    assert "unreadable revocation" in caplog.text


async def test_an_entry_without_a_time_does_not_stop_the_list(
    redis_pipeline: RedisPipeline, redis_conn: redis.asyncio.Redis
) -> None:
    """Each append looks at the oldest entries.

    One that made it fail would make all fail.
    """
    log, taken = followed(redis_pipeline)
    await redis_conn.xadd(keys.revocations(), {"entry": "?"})
    await redis_conn.xadd(keys.revocations(), {"entry": "?", "until": "soon"})
    await log.append(entry("after"))
    await log.poll()
    assert taken.names == ["after"]
    assert await redis_conn.xlen(keys.revocations()) == 1


async def test_a_list_that_went_back_is_told_and_read_again(
    redis_pipeline: RedisPipeline, redis_conn: redis.asyncio.Redis
) -> None:
    log, taken = followed(redis_pipeline)
    await log.append(entry("first"))
    await log.append(entry("second"))
    await log.poll()
    await redis_conn.delete(keys.revocations())
    await redis_conn.xadd(
        keys.revocations(), {"entry": msgspec.json.encode(entry("older")), "until": "9000000000"}, id="5-0"
    )
    taken.names.clear()
    await log.poll()
    assert (taken.times_lost, taken.names) == (1, ["older"])


async def test_without_redis_the_outcome_is_unavailable() -> None:
    pipeline = RedisPipeline(f"redis://127.0.0.1:{free_port()}/0")
    log, _ = followed(pipeline)
    try:
        with pytest.raises(Unavailable):
            await log.append(entry("x"))
        with pytest.raises(Unavailable):
            await log.poll()
    finally:
        await pipeline.aclose()


async def test_a_connection_asks_its_first_question_before_anybody_else(redis_url: str) -> None:
    order: list[str] = []

    async def first(ask: Ask) -> None:
        await asyncio.sleep(0.02)
        (reply,) = await ask([("PING",)])
        order.append(f"first {reply!r}")

    pipeline = RedisPipeline(redis_url, before_use=first)

    async def other() -> None:
        await pipeline.execute([("PING",)], timeout_s=2)
        order.append("other")

    await asyncio.gather(other(), other())
    await pipeline.aclose()
    assert [one.split()[0] for one in order] == ["first", "other", "other"]


async def test_a_connection_whose_first_question_fails_is_not_used(redis_url: str) -> None:
    async def fails(ask: Ask) -> None:
        raise exceptions.ConnectionError("no")

    pipeline = RedisPipeline(redis_url, before_use=fails)
    with pytest.raises(Unavailable):
        await pipeline.execute([("PING",)], timeout_s=2)
    await pipeline.aclose()


async def until_closed(client: Client) -> tuple[int, str]:
    async with asyncio.timeout(30):
        while client.closed is None:
            await asyncio.sleep(0.005)
    return client.closed


async def test_a_revocation_closes_on_every_edge_and_refuses_new_connects(redis_url: str) -> None:
    tokens = Cluster()
    async with LiveEdge(tokens, redis_url) as one, LiveEdge(tokens, redis_url) as two:
        claims = {"iat": tokens.clock.unix - 1e9, "sid": "s1", "jti": "j1"}
        for kind, name in ((RevokedKind.USER, "u1"), (RevokedKind.SESSION, "s1"), (RevokedKind.TOKEN, "j1")):
            clients = [await edge.client("u1", **claims) for edge in (one, two)]
            bystanders = [await edge.client("u2", iat=claims["iat"], sid="s2", jti="j2") for edge in (one, two)]
            await one.revoker.revoke(kind, name, 600)
            assert [client.closed for client in clients] == [(3503, "force disconnect")] * 2
            assert [client.closed for client in bystanders] == [None, None]
            for edge in (one, two):
                again = Client(tokens, edge.node)
                await again.post(connect={"token": tokens.token("u1", ttl_s=None, **claims)})
                assert again.closed == (3500, "invalid token")
                edge.node.revocations.forget_expired(1e12)  # for the next kind


async def test_an_edge_that_was_cut_off_knows_it_before_it_serves_anything_new() -> None:
    """While an edge is cut off, a token is revoked and others publish.

    Then it hears of both: of the end first.

    The edge does not poll here: it is the new connections that bring the list.
    """
    server = RedisServer()
    server.start()
    try:
        tokens = Cluster()
        async with (
            TcpProxy("127.0.0.1", server.port) as proxy,
            LiveEdge(tokens, server.url) as whole,
            LiveEdge(tokens, f"redis://127.0.0.1:{proxy.port}/0", polls=False) as cut,
        ):
            revoked, bystander = await cut.client("bad", jti="j1"), await cut.client("good")
            writer = await whole.client("writer")
            for client in (revoked, bystander, writer):
                await answered(client, subscribe={"channel": "room"})
            await answered(writer, publish={"channel": "room", "data": "before"})
            await seen(bystander, 1)
            assert len(revoked.publications("room")) == 1
            proxy.cut()
            await whole.revoker.revoke(RevokedKind.TOKEN, "j1", 600)
            for number in range(3):
                await answered(writer, publish={"channel": "room", "data": number})
            proxy.heal()
            healed = asyncio.get_running_loop().time()
            assert await until_closed(revoked) == (3503, "force disconnect")
            assert asyncio.get_running_loop().time() - healed < 5
            await seen(bystander, 4)
            assert [one["data"] for one in revoked.publications("room")] == ["before"]
    finally:
        server.kill()


async def answered(client: Client, **request: object) -> None:
    """Send a command, and wait until its reply is there."""
    number = await client.post(**request)
    async with asyncio.timeout(30):
        while not [line for line in client.lines if line.get("id") == number]:
            await asyncio.sleep(0.01)


async def seen(client: Client, count: int) -> None:
    async with asyncio.timeout(30):
        while len(client.publications("room")) < count:
            await asyncio.sleep(0.01)


async def test_a_redis_that_lost_the_list_gets_it_back_from_the_edges(
    redis_url: str, redis_conn: redis.asyncio.Redis
) -> None:
    tokens = Cluster()
    async with LiveEdge(tokens, redis_url) as one:
        await one.revoker.revoke(RevokedKind.TOKEN, "j1", 600)
        await redis_conn.delete(keys.revocations())
        async with asyncio.timeout(30):
            while not await redis_conn.exists(keys.revocations()):
                await asyncio.sleep(0.05)
        async with LiveEdge(tokens, redis_url) as late:
            client = Client(tokens, late.node)
            await client.post(connect={"token": tokens.token("u", ttl_s=None, jti="j1")})
            assert client.closed == (3500, "invalid token")


async def test_edges_share_the_work_of_writing_a_lost_list_again(
    redis_url: str, redis_conn: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them knows all of it: otherwise Redis would get the list from each."""
    monkeypatch.setattr(revoker, "_RESTORE_S", 0.0)
    tokens, count = Cluster(), 1_500
    async with AsyncExitStack() as running:
        edges = [await running.enter_async_context(LiveEdge(tokens, redis_url)) for _ in range(3)]
        await edges[0].revoker.revoke(RevokedKind.TOKEN, "first", 600)
        for edge in edges:
            await edge.broker.revocation_log.poll()
            for number in range(count - 1):
                edge.node.revocations.add(entry(f"n{number}"))
        await redis_conn.delete(keys.revocations())
        await asyncio.gather(*(edge.broker.revocation_log.read_again() for edge in edges))
        async with asyncio.timeout(20):
            while len(await kept(redis_conn)) < count:
                await asyncio.sleep(0.05)
        assert await redis_conn.xlen(keys.revocations()) < count * 2


async def kept(redis_conn: redis.asyncio.Redis) -> set[str]:
    entries: Any = await redis_conn.xrange(keys.revocations())
    return {msgspec.json.decode(fields[b"entry"])["id"] for _, fields in entries}


async def test_a_full_list_keeps_no_connection_open(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revoker, "MAX_REVOCATIONS", 1)
    tokens = Cluster()
    async with LiveEdge(tokens, redis_url) as one, LiveEdge(tokens, redis_url) as two:
        clients = [await edge.client("u", sid="s1") for edge in (one, two)]
        await one.revoker.revoke(RevokedKind.TOKEN, "other", 600)
        with pytest.raises(ThalamusError) as refused:
            await one.revoker.revoke(RevokedKind.SESSION, "s1", 600, user="u")
        assert refused.value.code is ErrorCode.LIMIT_EXCEEDED
        assert [client.closed for client in clients] == [(3503, "force disconnect")] * 2
        assert [len(edge.node.revocations) for edge in (one, two)] == [1, 1]


async def test_a_token_is_not_good_again_when_the_time_of_its_revocation_is_over(redis_url: str) -> None:
    """It may be used for the leeway longer, and its issuer's clock may be ahead."""
    tokens, leeway_s, clocks_s = Cluster(), 30.0, 5.0
    async with LiveEdge(tokens, redis_url) as edge:
        verifier = TokenVerifier(tokens.keyring, leeway_s=leeway_s, revocations=edge.node.revocations)
        edge.node.verifier = verifier
        await edge.revoker.revoke(RevokedKind.SESSION, "s1", 600)
        expires_at = edge.node.clock.wall() + 600 + clocks_s
        token = tokens.token("u", ttl_s=None, sid="s1", exp=expires_at)
        edge.node.revocations.forget_expired(expires_at + leeway_s - 1)
        with pytest.raises(TokenInvalid):
            verifier.connection(token, expires_at + leeway_s - 1)


async def test_a_list_that_was_lost_and_begun_anew_at_once_is_written_again() -> None:
    """Its newest entry is newer than what the edges have read.

    Only the new incarnation tells that it was lost.
    """
    server = RedisServer()
    server.start()
    try:
        tokens = Cluster()
        async with LiveEdge(tokens, server.url) as one, redis.asyncio.Redis.from_url(server.url) as conn:
            writer = await one.client("writer")
            await answered(writer, publish={"channel": "room", "data": 1})
            await one.revoker.revoke(RevokedKind.TOKEN, "j1", 600)
            await one.broker.revocation_log.poll()
            async with conn.pipeline(transaction=True) as commands:
                commands.flushall()
                commands.xadd(keys.revocations(), {"entry": msgspec.json.encode(entry("j2")), "until": "9000000000"})
                await commands.execute()
            async with asyncio.timeout(30):
                while not {"j1", "j2"} <= await kept(conn):
                    await asyncio.sleep(0.05)
    finally:
        server.kill()
