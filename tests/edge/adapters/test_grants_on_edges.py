"""Stored grants on two edges with a real Redis.

Every edge knows of a change, also one that was cut off.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.auth.domain.grants import UserGrants
from services.edge.domain.access.grants import NEVER, Operation
from services.edge.domain.control import granter
from services.shared.errors import ThalamusError, Unavailable
from services.shared.namespaces import Mode, Namespace, Permission
from tests.support.edge import Client, Cluster
from tests.support.grants import AuthGrants, MemoryGrants
from tests.support.live_edge import LiveEdge
from tests.support.redis import RedisServer
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import until

GRANT = frozenset({Permission.GRANT})
PRIVATE = Namespace(
    name="private",
    presence=True,
    join_leave=Mode.ALLOW,
    subscribe=GRANT,
    publish=GRANT,
    history=GRANT,
    presence_read=GRANT,
)
OPERATIONS: dict[Operation, dict[str, Any]] = {
    Operation.SUBSCRIBE: {"subscribe": {"channel": "private:a"}},
    Operation.PUBLISH: {"publish": {"channel": "private:a", "data": 1}},
    Operation.HISTORY: {"history": {"channel": "private:a", "limit": 1}},
    Operation.PRESENCE: {"presence_stats": {"channel": "private:a"}},
}
ALL = list(OPERATIONS)


@asynccontextmanager
async def two_edges(redis_url: str) -> AsyncIterator[tuple[LiveEdge, LiveEdge, AuthGrants]]:
    tokens = Cluster(private=PRIVATE)
    async with LiveEdge(tokens, redis_url) as one, LiveEdge(tokens, redis_url) as two:
        yield one, two, granted_at(tokens, one)


def granted_at(tokens: Cluster, edge: LiveEdge) -> AuthGrants:
    """What both edges see of auth, by the clock of the edge."""
    tokens.grants.rules = UserGrants(MemoryGrants(), edge.node.clock.wall)
    return tokens.grants


async def outcome(client: Client, request: dict[str, Any]) -> int:
    """The error of a command; 0: it was done."""
    number = await client.post(**request)
    line = await until(lambda: next((one for one in client.lines if one.get("id") == number), None))
    return int(line.get("error", {}).get("code", 0))


def unsubscribed(client: Client) -> list[int]:
    return [push["unsubscribe"]["code"] for push in client.pushes if "unsubscribe" in push]


async def test_a_grant_permits_its_operation_on_every_edge_and_no_longer_once_it_is_taken(redis_url: str) -> None:
    async with two_edges(redis_url) as (one, two, _):
        clients = [await edge.client("ann") for edge in (one, two)]
        other = await two.client("bob")
        for operation in ALL:
            await one.granter.give("ann", ["private:*"], [operation], NEVER)
            for client in clients:
                outcomes = {each: await outcome(client, OPERATIONS[each]) for each in ALL if each is not ALL[0]}
                assert [each for each, code in outcomes.items() if not code] == [
                    each for each in ALL[1:] if ALL.index(each) <= ALL.index(operation)
                ]
        for client in clients:
            assert await outcome(client, OPERATIONS[Operation.SUBSCRIBE]) == 0
        assert {await outcome(other, request) for request in OPERATIONS.values()} == {103}
        for operation in reversed(ALL):
            await two.granter.take("ann", [], [operation])
            for client in clients:
                assert await outcome(client, OPERATIONS[operation]) == 103
        assert [unsubscribed(client) for client in clients] == [[2103]] * 2  # before the call has returned


async def test_nothing_is_asked_of_auth_where_no_grant_is_needed(redis_url: str) -> None:
    async with two_edges(redis_url) as (one, _, auth):
        client = await one.client("ann", caps=[{"channels": ["private:a"], "allow": ["pub"]}])
        assert await outcome(client, {"subscribe": {"channel": "room"}}) == 0
        assert await outcome(client, {"publish": {"channel": "room", "data": 1}}) == 0
        assert await outcome(client, OPERATIONS[Operation.PUBLISH]) == 0  # its token permits it
        assert auth.asked == []
        assert await outcome(client, OPERATIONS[Operation.HISTORY]) == 103
        assert await outcome(client, OPERATIONS[Operation.PRESENCE]) == 103
        assert auth.asked == ["ann"]


async def test_many_publications_wait_for_one_reading_and_stay_in_order(redis_url: str) -> None:
    async with two_edges(redis_url) as (one, _, auth):
        await auth.give_grants("ann", ["private:a"], [Operation.PUBLISH, Operation.HISTORY], NEVER)
        client = await one.client("ann")
        await asyncio.gather(*(client.post(publish={"channel": "private:a", "data": number}) for number in range(50)))
        await until(lambda: len([line for line in client.lines if "publish" in line]) == 50)
        number = await client.post(history={"channel": "private:a", "limit": 100})
        line = await until(lambda: next((line for line in client.lines if line.get("id") == number), None))
        assert [one["data"] for one in line["history"]["publications"]] == list(range(50))
        assert auth.asked == ["ann"]


async def test_a_grant_that_expires_ends_what_it_permitted(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(granter, "_SETTLED_S", 0.3)  # it is the expiry that is seen, and not the second look
    async with two_edges(redis_url) as (one, two, _):
        await one.granter.give("ann", ["private:a"], ALL, one.node.clock.wall() + 1.5)
        client = await two.client("ann")
        assert [await outcome(client, request) for request in OPERATIONS.values()] == [0] * 4
        await until(lambda: unsubscribed(client) == [2103], 4)
        assert [await outcome(client, request) for request in OPERATIONS.values()] == [103] * 4


async def test_a_change_that_was_only_announced_is_seen_once_it_is_made(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The edge that changes grants dies before it tells the others.

    They have read the entry before the change.
    """
    monkeypatch.setattr(granter, "_SETTLED_S", 1.0)
    async with two_edges(redis_url) as (one, two, auth):
        await one.granter.give("ann", ["private:a"], ALL, NEVER)
        client = await two.client("ann")
        assert await outcome(client, OPERATIONS[Operation.SUBSCRIBE]) == 0
        asked = len(auth.asked)
        await one.granter._announce("ann")  # noqa: SLF001
        await until(lambda: len(auth.asked) > asked, 3)  # the other edge has looked again
        assert unsubscribed(client) == []
        await auth.take_grants("ann", [], [])
        await until(lambda: unsubscribed(client) == [2103], 3)


async def test_without_redis_nothing_is_changed(redis_url: str) -> None:
    server = RedisServer()
    server.start()
    tokens = Cluster(private=PRIVATE)
    try:
        async with LiveEdge(tokens, server.url) as one:
            auth = granted_at(tokens, one)
            await one.granter.give("ann", ["private:a"], [Operation.PUBLISH], NEVER)
            server.kill()
            with pytest.raises(Unavailable):
                await one.granter.take("ann", [], [])
            assert [grant.channel for grant in await auth.grants_of("ann") or ()] == ["private:a"]
    finally:
        server.kill()


async def test_while_auth_is_away_who_is_known_goes_on_and_others_are_told_to_repeat(redis_url: str) -> None:
    async with two_edges(redis_url) as (one, two, auth):
        await one.granter.give("ann", ["private:a"], ALL, NEVER)
        await one.granter.give("bob", ["private:a"], ALL, NEVER)
        known, unknown = await one.client("ann"), await two.client("bob")
        assert await outcome(known, OPERATIONS[Operation.SUBSCRIBE]) == 0
        auth.away = True
        assert await outcome(known, OPERATIONS[Operation.PUBLISH]) == 0
        for operation in ALL:
            number = await unknown.post(**OPERATIONS[operation])
            line = await until(lambda: next((one for one in unknown.lines if one.get("id") == number), None))  # noqa: B023
            assert line["error"] == {
                "code": 100,
                "message": "internal server error",
                "temporary": True,
                "retry_after_ms": 1000,
            }
        with pytest.raises(ThalamusError):
            await one.granter.take("ann", [], [])
        # The change was announced, so what is known is in doubt: subscribers come back once auth can be asked.
        await until(lambda: unsubscribed(known) == [2500], 5)
        assert await outcome(known, OPERATIONS[Operation.PUBLISH]) == 100
        auth.away = False
        assert await outcome(known, OPERATIONS[Operation.SUBSCRIBE]) == 0


async def test_an_edge_that_was_cut_off_delivers_nothing_more_to_who_lost_the_grant() -> None:
    """The edge does not poll here: it is the new connections that bring the list."""
    server = RedisServer()
    server.start()
    try:
        tokens = Cluster(private=PRIVATE)
        async with (
            TcpProxy("127.0.0.1", server.port) as proxy,
            LiveEdge(tokens, server.url) as whole,
            LiveEdge(tokens, f"redis://127.0.0.1:{proxy.port}/0", polls=False) as cut,
        ):
            granted_at(tokens, whole)
            for user in ("bad", "good", "writer"):
                await whole.granter.give(user, ["private:a"], ALL, NEVER)
            bad, good, writer = await cut.client("bad"), await cut.client("good"), await whole.client("writer")
            for client in (bad, good, writer):
                assert await outcome(client, OPERATIONS[Operation.SUBSCRIBE]) == 0
            assert await outcome(writer, {"publish": {"channel": "private:a", "data": "before"}}) == 0
            await until(lambda: bad.publications("private:a") and good.publications("private:a"))
            await cut.broker.revocation_log.poll()
            await asyncio.sleep(0.1)  # what the entries of before asked for is done
            proxy.cut()
            await whole.granter.take("bad", [], [])
            for number in range(3):
                assert await outcome(writer, {"publish": {"channel": "private:a", "data": number}}) == 0
            tokens.grants.hold = asyncio.Event()  # auth takes its time
            proxy.heal()
            await until(lambda: unsubscribed(bad) == [2500])
            await until(lambda: len(good.publications("private:a")) == 4)
            assert [one["data"] for one in bad.publications("private:a")] == ["before"]
            tokens.grants.hold.set()
            assert [await outcome(bad, request) for request in OPERATIONS.values()] == [103] * 4
    finally:
        server.kill()
