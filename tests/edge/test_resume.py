"""Resuming with a token that has just expired, on edges with a real Redis.

Their rules have a clock of the test's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis.asyncio

from services.edge.domain.access.claims import ConnectionClaims
from services.edge.domain.access.revocations import RevokedKind
from services.edge.domain.connections import HandshakeInfo, HandshakeRejected, Identity
from services.edge.domain.control.operations import Disconnect, Refresh, execute
from services.edge.domain.ends import ClientEnd
from services.edge.domain.handshake import COOKIE, HandshakeAuthenticator
from services.edge.domain.model import ControlCommand
from services.shared.hotlog import keys
from services.shared.namespaces import CommandToken
from tests.edge.adapters.brokers import sessions_written
from tests.support.edge import OPEN, Client, Cluster, replace_namespace
from tests.support.lateness import Lateness
from tests.support.live_edge import LiveEdge
from tests.support.memory import MemoryTickets
from tests.support.redis import RedisServer

RESUME_S = 120.0
LATE = {"code": 109, "message": "token expired"}


@asynccontextmanager
async def edges(redis_url: str, count: int = 2, cluster: Cluster | None = None, **settings: Any) -> AsyncIterator[Any]:
    """Edges and tokens of one clock, which begins with the present time."""
    tokens = cluster or Cluster()
    tokens.clock.unix = time.time()
    made = [
        LiveEdge(tokens, redis_url, clock=tokens.clock, **{"ping_interval_s": 0.0, **settings}) for _ in range(count)
    ]
    for edge in made:
        await edge.__aenter__()
    try:
        yield (tokens, *made)
    finally:
        for edge in made:
            await edge.__aexit__(None, None, None)


def jump(tokens: Cluster, seconds: float) -> None:
    tokens.clock.now += seconds
    tokens.clock.unix += seconds


async def settled(client: Client, **request: Any) -> dict[str, Any]:
    """The reply to a command that may ask Redis; empty if the connection ended."""
    number = await client.post(**request)
    async with asyncio.timeout(30):
        while client.closed is None:
            found: list[dict[str, Any]] = [line for line in client.lines if line.get("id") == number]
            if found:
                return found[0]
            await asyncio.sleep(0.002)
    return {}


async def come(tokens: Cluster, edge: LiveEdge, token: str) -> tuple[Client, dict[str, Any]]:
    client = Client(tokens, edge.node)
    return client, await settled(client, connect={"token": token})


async def been_there(tokens: Cluster, edge: LiveEdge, token: str, *, lost: bool = True) -> Client:
    """A client with this token that was connected and lost; the table has it."""
    client, reply = await come(tokens, edge, token)
    assert "connect" in reply, (reply, client.closed)
    if lost:
        await client.hang_up(ClientEnd.LOST)
    await sessions_written(edge.broker)
    return client


@pytest.mark.parametrize(
    ("expires_in_s", "away_s", "may"),
    [
        (20, 100, True),  # expired 80 s ago
        (1, 119.9, True),
        (1, 120.9, False),  # lost too long ago
        (119, 119.9, True),  # expired just now
        (0.05, 120.1, False),
        (0.5, 5, True),
    ],
)
async def test_who_lost_the_connection_goes_on_on_any_edge_for_120_s(
    expires_in_s: float, away_s: float, may: bool, redis_url: str
) -> None:
    async with edges(redis_url) as (tokens, one, two):
        token = tokens.token("alice", ttl_s=expires_in_s)
        await been_there(tokens, one, token)
        jump(tokens, away_s)
        for edge in (one, two):
            client, reply = await come(tokens, edge, token)
            if may:
                assert reply["connect"]["expires"] is True
                assert 1 <= reply["connect"]["ttl"] <= 10
                assert client.session.user == "alice"
            else:
                assert reply["error"] == LATE
                assert client.connection.dropped_after is not None


async def test_what_expired_too_long_ago_is_late_although_it_was_just_open(redis_url: str) -> None:
    """After `exp` the connection is open for 25 s, or longer once it resumed."""
    async with edges(redis_url) as (tokens, one, two):
        token = tokens.token("alice", ttl_s=1)
        client = await been_there(tokens, one, token, lost=False)
        for passed_s, may in ((100, True), (20, True), (2, False)):
            await client.hang_up(ClientEnd.LOST)
            await sessions_written(one.broker)
            await sessions_written(two.broker)
            jump(tokens, passed_s)
            client, reply = await come(tokens, two, token)
            assert ("connect" in reply) is may, (passed_s, reply)


async def test_a_stranger_with_an_expired_token_is_late(redis_url: str) -> None:
    async with edges(redis_url) as (tokens, one, two):
        await been_there(tokens, one, tokens.token("alice", ttl_s=5))
        jump(tokens, 30)
        for user in ("bob", "alice"):  # the second has another token than the one that was there
            _, reply = await come(tokens, two, tokens.token(user, ttl_s=-20))
            assert reply["error"] == LATE


async def test_a_sign_in_session_counts_as_a_whole_and_for_its_user_only(redis_url: str) -> None:
    async with edges(redis_url) as (tokens, one, two):
        await been_there(tokens, one, tokens.token("alice", ttl_s=5, sid="s1"))
        jump(tokens, 30)
        for user, sid, may in (("alice", "s1", True), ("alice", "s2", False), ("bob", "s1", False)):
            _, reply = await come(tokens, two, tokens.token(user, ttl_s=-20, sid=sid))
            assert ("connect" in reply) is may, (user, sid)


async def test_who_is_back_before_the_edge_has_noticed_goes_on(redis_url: str) -> None:
    async with edges(redis_url) as (tokens, one, two):
        token = tokens.token("alice", ttl_s=5)
        await been_there(tokens, one, token, lost=False)
        jump(tokens, 10)
        for edge in (one, two):
            _, reply = await come(tokens, edge, token)
            assert "connect" in reply


async def test_connections_of_a_killed_edge_count_until_it_last_renewed_its_lease(redis_url: str) -> None:
    """The edge is not there any more, so nobody has written an end."""
    async with edges(redis_url, 3) as (tokens, one, two, three):
        token = tokens.token("alice", ttl_s=50)
        await been_there(tokens, one, token, lost=False)
        await one.stop_following()  # its lease is as old as the time that passes now
        renewed_at = (await two.broker.leases.read([one.broker.leases.edge]))[one.broker.leases.edge].renewed_at
        tokens.clock.unix = renewed_at + 119.9
        key = one.node.resume.key(ConnectionClaims("alice", token_expires_at=1.0), token)
        for edge in (two, three):
            client, reply = await come(tokens, edge, token)
            assert "connect" in reply
            await client.hang_up(ClientEnd.LOST)
            edge.node.resume.began(key)
            edge.node.resume.ended(key, may_resume=False)  # so it leaves no trace
            await sessions_written(edge.broker)
        tokens.clock.unix = renewed_at + 120.1
        _, reply = await come(tokens, two, token)
        assert reply["error"] == LATE


async def test_a_resumed_connection_ends_after_120_s_unless_a_fresh_token_came(redis_url: str) -> None:
    async with edges(redis_url) as (tokens, one, two):
        token = tokens.token("alice", ttl_s=5)
        await been_there(tokens, one, token)
        jump(tokens, 50)
        refreshed, _ = await come(tokens, one, token)
        plain, _ = await come(tokens, two, token)
        for client in (refreshed, plain):
            assert "subscribe" in await settled(client, subscribe={"channel": "room"})
        await tokens.advance(100)
        for client in (refreshed, plain):  # good for everything meanwhile
            assert "publish" in await settled(client, publish={"channel": "room", "data": 1})
        assert "refresh" in await settled(refreshed, refresh={"token": tokens.token("alice", ttl_s=600)})
        await tokens.advance(19)
        assert plain.closed is None
        await tokens.advance(2)
        assert plain.closed == (3005, "connection expired")
        await tokens.advance(400)
        assert refreshed.closed is None


async def test_an_expired_token_can_not_refresh_what_has_resumed(redis_url: str) -> None:
    async with edges(redis_url) as (tokens, one, two):
        token = tokens.token("alice", ttl_s=5)
        await been_there(tokens, one, token)
        jump(tokens, 50)
        client, _ = await come(tokens, two, token)
        await settled(client, refresh={"token": token})
        assert client.closed == (3005, "connection expired")


async def commands_of_redis(conn: redis.asyncio.Redis) -> dict[str, int]:
    stats: Any = await conn.info("commandstats")
    return {name: stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("get", "evalsha")}


@pytest.mark.parametrize(
    ("kind", "name"), [(RevokedKind.USER, "alice"), (RevokedKind.SESSION, "s1"), (RevokedKind.TOKEN, "j1")]
)
@pytest.mark.parametrize("is_open", [False, True])
async def test_who_was_revoked_meanwhile_is_answered_like_a_stranger(
    kind: RevokedKind, name: str, is_open: bool, redis_url: str, redis_conn: redis.asyncio.Redis
) -> None:
    """Byte for byte, and after the same look at Redis."""
    async with edges(redis_url) as (tokens, one, two):
        token = tokens.token("alice", ttl_s=5, sid="s1", jti="j1", iat=tokens.clock.unix - 10)
        await been_there(tokens, one, token)
        jump(tokens, 30)
        _, reply = await come(tokens, two, token)
        assert "connect" in reply
        await one.revoker.revoke(kind, name, 600)
        await sessions_written(two.broker)
        if is_open:  # as on an edge that has died: nobody has closed it
            one.node.resume.began(
                one.node.resume.key(ConnectionClaims("alice", session="s1", token_expires_at=1.0), "")
            )
            await sessions_written(one.broker)
        asked = {}
        for who, shown in (("revoked", token), ("stranger", tokens.token("eve", ttl_s=-25, sid="s9", jti="j9"))):
            await asyncio.gather(*(edge.stop_following() for edge in (one, two)))  # nobody else asks Redis
            before = await commands_of_redis(redis_conn)
            client, _ = await come(tokens, two, shown)
            after = await commands_of_redis(redis_conn)
            asked[who] = (client.texts, client.closed, client.connection.dropped_after, after["get"] - before["get"])
        assert asked["revoked"] == asked["stranger"]
        assert asked["revoked"][3] == 2


async def test_a_revocation_outlasts_the_time_in_which_its_tokens_could_resume(redis_url: str) -> None:
    async with edges(redis_url) as (tokens, one, two):
        token = tokens.token("alice", ttl_s=10, jti="j1")
        await been_there(tokens, one, token)
        await one.revoker.revoke(RevokedKind.TOKEN, "j1", 10)
        jump(tokens, 119)
        for edge in (one, two):
            edge.node.revocations.forget_expired(tokens.clock.unix)
            _, reply = await come(tokens, edge, token)
            assert reply["error"] == LATE


async def test_a_revoked_user_may_sign_in_again_and_resume(redis_url: str) -> None:
    async with edges(redis_url) as (tokens, one, two):
        await one.revoker.revoke(RevokedKind.USER, "alice", 600)
        jump(tokens, 1)
        token = tokens.token("alice", ttl_s=5, iat=tokens.clock.unix)
        await been_there(tokens, one, token)
        jump(tokens, 30)
        _, reply = await come(tokens, two, token)
        assert "connect" in reply


async def test_whom_a_backend_disconnects_has_nothing_to_resume(redis_url: str) -> None:
    async with edges(redis_url) as (tokens, one, two):
        token = tokens.token("alice", ttl_s=5)
        client = await been_there(tokens, one, token, lost=False)
        await execute(one.node, Disconnect(user="alice"))
        assert client.closed == (3503, "force disconnect")
        await client.hang_up()
        await sessions_written(one.broker)
        jump(tokens, 30)
        _, reply = await come(tokens, two, token)
        assert reply["error"] == LATE


BY_BACKEND = (Disconnect(user="alice"), Refresh(user="alice", expired=True))


@pytest.mark.parametrize("operation", BY_BACKEND)
@pytest.mark.parametrize("sid", ["", "s1"])
async def test_what_a_backend_closed_can_not_be_resumed_by_what_another_edge_saw(
    operation: Disconnect | Refresh, sid: str, redis_url: str
) -> None:
    """It was lost there before, and is closed here."""
    async with edges(redis_url) as (tokens, one, two):
        token = tokens.token("alice", ttl_s=30, sid=sid)
        await been_there(tokens, one, token)
        jump(tokens, 1)
        client = await been_there(tokens, two, token, lost=False)
        jump(tokens, 34)  # the token has expired
        for edge in (one, two):
            await execute(edge.node, operation)
        assert client.closed is not None
        await client.hang_up()
        await sessions_written(two.broker)
        for edge in (one, two):
            _, reply = await come(tokens, edge, token)
            assert reply["error"] == LATE


async def test_other_tabs_that_a_backend_left_open_can_be_resumed_and_lost_ones_can_not(redis_url: str) -> None:
    async with edges(redis_url, 3) as (tokens, one, two, three):
        token = tokens.token("alice", ttl_s=30, sid="s1")
        await been_there(tokens, one, token)  # lost before
        jump(tokens, 1)
        closed = await been_there(tokens, two, token, lost=False)
        stays = await been_there(tokens, three, token, lost=False)
        jump(tokens, 34)
        for edge in (one, two, three):
            await execute(edge.node, Disconnect(user="alice", client=closed.session.client))
        await closed.hang_up()
        await sessions_written(two.broker)
        assert stays.closed is None
        came, reply = await come(tokens, one, token)  # one is open
        assert "connect" in reply
        await execute(one.node, Disconnect(user="alice", client=came.session.client))
        await sessions_written(one.broker)
        jump(tokens, 1)
        await stays.hang_up(ClientEnd.LOST)
        await sessions_written(three.broker)
        came, reply = await come(tokens, two, token)  # it was lost after the others were closed
        assert "connect" in reply
        await execute(two.node, Disconnect(user="alice"))
        await sessions_written(two.broker)
        _, reply = await come(tokens, one, token)
        assert reply["error"] == LATE


async def test_the_token_of_before_a_refresh_can_not_resume_what_a_backend_closed(redis_url: str) -> None:
    """The connection is on no list any more: its token is fresh."""
    async with edges(redis_url) as (tokens, one, two):
        for sid in ("", "s1"):
            token = tokens.token("alice", ttl_s=30, sid=sid)
            client = await been_there(tokens, one, token, lost=False)
            assert "refresh" in await settled(client, refresh={"token": tokens.token("alice", ttl_s=600, sid=sid)})
            await execute(one.node, Disconnect(user="alice"))
            await client.hang_up()
            await sessions_written(one.broker)
            jump(tokens, 35)
            _, reply = await come(tokens, two, token)
            assert reply["error"] == LATE


async def test_what_ends_at_an_expiry_that_a_backend_set_can_not_be_resumed(redis_url: str) -> None:
    async with edges(redis_url) as (tokens, one, two):
        for by_backend in (True, False):
            token = tokens.token("alice", ttl_s=5)
            client = await been_there(tokens, one, token, lost=False)
            if by_backend:
                await execute(one.node, Refresh(user="alice", expire_at=tokens.clock.unix + 2))
            await tokens.advance(32)
            assert client.closed == (3005, "connection expired")
            await client.hang_up()
            await sessions_written(one.broker)
            _, reply = await come(tokens, two, token)
            assert ("connect" in reply) is not by_backend


async def test_what_is_closed_since_a_command_of_a_backend_was_missed_can_not_be_resumed(redis_url: str) -> None:
    """It may have been a disconnect of this user."""
    async with edges(redis_url) as (tokens, one, two):
        token = tokens.token("alice", ttl_s=30)
        client = await been_there(tokens, one, token, lost=False)
        jump(tokens, 1)
        missed = (int(tokens.clock.unix * 1000), 0)
        one.cluster._on_missed(ControlCommand((missed[0] + 1, 0), missed, b""))  # noqa: SLF001
        assert client.closed is not None
        await client.hang_up()
        await sessions_written(one.broker)
        jump(tokens, 35)
        _, reply = await come(tokens, two, token)
        assert reply["error"] == LATE


@pytest.mark.parametrize(
    ("expire_at_s", "exp_s", "away_s", "may"),
    [
        (5, 1, 100, True),
        (5, 40, 126, False),  # it expired 121 s ago, `exp` is not so long ago
        (60, 5, 50, True),  # 10 s are left: it ends then
        (140, 5, 50, True),
    ],
)
async def test_the_time_of_expire_at_bounds_who_may_resume_and_for_how_long(
    expire_at_s: float, exp_s: float, away_s: float, may: bool, redis_url: str
) -> None:
    async with edges(redis_url) as (tokens, one, two):
        began = tokens.clock.unix
        token = tokens.token("alice", ttl_s=exp_s, expire_at=began + expire_at_s)
        client = await been_there(tokens, one, token, lost=False)
        jump(tokens, min(away_s, 10))
        await client.hang_up(ClientEnd.LOST)
        await sessions_written(one.broker)
        jump(tokens, away_s - min(away_s, 10))
        client, reply = await come(tokens, two, token)
        if not may:
            assert reply["error"] == LATE
            return
        ends_s = RESUME_S if expire_at_s < away_s else min(RESUME_S, expire_at_s - away_s)
        assert client.session.deadlines.expires_at == pytest.approx(tokens.clock.unix + ends_s, abs=1e-3)
        await tokens.advance(ends_s - 1)
        assert client.closed is None
        await tokens.advance(2)
        assert client.closed == (3005, "connection expired")


async def test_most_connects_and_ends_write_nothing(redis_url: str, redis_conn: redis.asyncio.Redis) -> None:
    """A connection is listed 150 s before its token expires.

    A fresh token takes it off the list: nobody needs the old one any more.
    """
    async with edges(redis_url, 1) as (tokens, one):
        keeps = [tokens.token("alice", ttl_s=None), tokens.token("alice", ttl_s=400)]
        clients = [(await come(tokens, one, token))[0] for token in keeps]
        gone, _ = await come(tokens, one, keeps[1])
        await gone.hang_up(ClientEnd.LOST)
        await tokens.advance(249)
        assert await listed(redis_conn) == []
        await tokens.advance(2)
        await sessions_written(one.broker)
        (key,) = await listed(redis_conn)
        assert await redis_conn.get(key) == b"live1 0"
        assert 295 <= await redis_conn.ttl(key) <= 300
        assert "refresh" in await settled(clients[1], refresh={"token": tokens.token("alice", ttl_s=3_600)})
        await sessions_written(one.broker)
        assert await listed(redis_conn) == []


async def listed(conn: redis.asyncio.Redis) -> list[bytes]:
    return [key async for key in conn.scan_iter("*:session")]


async def test_the_table_holds_no_token_and_no_claim(redis_url: str, redis_conn: redis.asyncio.Redis) -> None:
    async with edges(redis_url, 1) as (tokens, one):
        token = tokens.token("alice-the-user", ttl_s=5, sid="the-session")
        await been_there(tokens, one, token)
        await been_there(tokens, one, plain := tokens.token("alice-the-user", ttl_s=5))
        found = await listed(redis_conn)
        assert len(found) == 2
        kept = str([(key, await redis_conn.get(key)) for key in found])
        for secret in (*token.split("."), *plain.split("."), "alice-the-user", "the-session"):
            assert secret not in kept


async def test_off_it_writes_nothing_and_nobody_resumes(redis_url: str, redis_conn: redis.asyncio.Redis) -> None:
    async with edges(redis_url, 1, resume_s=0.0) as (tokens, one):
        token = tokens.token("alice", ttl_s=5)
        await been_there(tokens, one, token)
        jump(tokens, 6)
        _, reply = await come(tokens, one, token)
        assert reply["error"] == LATE
        assert await listed(redis_conn) == []


async def test_a_table_that_redis_lost_is_written_again(own_redis: RedisServer) -> None:
    async with edges(own_redis.url) as (tokens, one, two), redis.asyncio.Redis.from_url(own_redis.url) as conn:
        token = tokens.token("alice", ttl_s=5)
        await been_there(tokens, one, token, lost=False)
        own_redis.kill()
        own_redis.wipe()
        own_redis.start()
        async with asyncio.timeout(30):
            while not (await listed(conn) and await conn.exists(keys.lease("live1"))):
                await asyncio.sleep(0.05)
        jump(tokens, 10)
        _, reply = await come(tokens, two, token)
        assert "connect" in reply


async def test_without_redis_it_is_late_soon_and_then_at_once(own_redis: RedisServer) -> None:
    async with edges(own_redis.url) as (tokens, one, two):
        token = tokens.token("alice", ttl_s=5)
        await been_there(tokens, one, token)
        jump(tokens, 30)
        own_redis.pause()
        try:
            for most_s in (1.8, 0.4):
                async with Lateness() as late:
                    _, reply = await come(tokens, two, token)
                assert reply["error"] == LATE
                assert late.took_s < most_s
        finally:
            own_redis.resume()
        await asyncio.sleep(1.1)  # for as long lookups fail at once
        _, reply = await come(tokens, two, token)
        assert "connect" in reply


async def test_a_client_that_goes_while_the_table_is_asked_leaves_nothing(own_redis: RedisServer) -> None:
    async with edges(own_redis.url) as (tokens, one, two):
        token = tokens.token("alice", ttl_s=5)
        await been_there(tokens, one, token)
        jump(tokens, 30)
        own_redis.pause()
        client = Client(tokens, two.node)
        await client.post(connect={"token": token})
        await client.hang_up(ClientEnd.LOST)
        own_redis.resume()
        async with asyncio.timeout(30):
            while not two.node.resume.outcomes:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert (two.node.clients, two.node.users, len(two.node.resume)) == ({}, {}, 0)


async def test_it_grants_nothing(redis_url: str) -> None:
    """Tokens of subscriptions and of commands have their own expiry; limits hold."""
    cluster = Cluster(
        paid=replace_namespace(OPEN, subscribe=frozenset()),
        strict=replace_namespace(OPEN, command_token=CommandToken.REQUIRED),
    )
    async with edges(redis_url, cluster=cluster, connections_per_user=1) as (tokens, one, two):
        token = tokens.token("alice", ttl_s=5)
        paid = tokens.token("alice", ttl_s=5, channel="paid:a")
        await been_there(tokens, one, token)
        jump(tokens, 30)
        client, _ = await come(tokens, two, token)
        reply = await settled(client, subscribe={"channel": "paid:a", "token": paid})
        assert reply["error"]["code"] == 109
        reply = await settled(client, subscribe={"channel": "paid:a"})
        assert reply["error"]["code"] == 103
        assert "subscribe" in await settled(client, subscribe={"channel": "strict:a"})
        reply = await settled(client, publish={"channel": "strict:a", "data": 1}, token=token)
        assert reply["error"]["code"] == 109
        second, _ = await come(tokens, two, token)
        assert second.closed is not None
        assert second.closed[0] == 3504


# Credentials of the handshake.


def handshake(**parts: Any) -> HandshakeInfo:
    return HandshakeInfo(peer="192.0.2.1", path="/", query={}, host="rt.example.com", **parts)


def authenticator(tokens: Cluster, edge: LiveEdge) -> HandshakeAuthenticator:
    return HandshakeAuthenticator(
        edge.node.verifier,
        MemoryTickets(),
        edge.node.resume,
        tokens.clock.wall,
        takes_query_tokens=True,
        is_own_page=lambda origin, host: True,
    )


async def identify(checked: HandshakeAuthenticator, info: HandshakeInfo) -> Identity | None:
    found = checked.identify(info)
    return found if found is None or isinstance(found, Identity) else await found


async def test_a_bearer_token_resumes_and_ends_after_120_s_without_a_word_of_it(redis_url: str) -> None:
    """Its client was not told when it expires: it can't refresh."""
    async with edges(redis_url) as (tokens, one, two):
        token = tokens.token("alice", ttl_s=5)
        checked = authenticator(tokens, two)
        bearer = handshake(authorization=[f"Bearer {token}"])
        await been_there(tokens, one, token)
        jump(tokens, 30)
        identity = await identify(checked, bearer)
        client = Client(tokens, two.node, identity=identity)
        reply = await settled(client, connect={})
        assert "expires" not in reply["connect"]
        assert client.session.user == "alice"
        await tokens.advance(119)
        assert client.closed is None
        await tokens.advance(2)
        assert client.closed == (3005, "connection expired")
        with pytest.raises(HandshakeRejected, match="the token has expired"):
            await identify(checked, bearer)


async def test_a_bearer_token_of_a_stranger_and_a_revoked_one_are_refused_alike(redis_url: str) -> None:
    async with edges(redis_url) as (tokens, one, two):
        token = tokens.token("alice", ttl_s=5, jti="j1")
        checked = authenticator(tokens, two)
        await been_there(tokens, one, token)
        await one.revoker.revoke(RevokedKind.TOKEN, "j1", 600)
        jump(tokens, 30)
        said = []
        for shown in (token, tokens.token("eve", ttl_s=-25)):
            with pytest.raises(HandshakeRejected) as refused:
                await identify(checked, handshake(authorization=[f"Bearer {shown}"]))
            said.append((str(refused.value), refused.value.conflict))
        assert said == [("the token has expired", False)] * 2


async def test_an_expired_cookie_counts_as_none_also_where_a_token_would_resume(redis_url: str) -> None:
    async with edges(redis_url) as (tokens, one, two):
        token = tokens.token("alice", ttl_s=5)
        await been_there(tokens, one, token)
        jump(tokens, 30)
        cookie = handshake(origin="https://rt.example.com", cookies=[f"{COOKIE}={token}"])
        assert await identify(authenticator(tokens, two), cookie) is None
