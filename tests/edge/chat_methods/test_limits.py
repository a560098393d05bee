"""Limits of what a user does with conversations, over edges that share a Redis."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import pytest

from services.edge.domain.conversations.limits import ChatLimits
from services.edge.domain.conversations.methods import Caller
from services.edge.domain.limits.ports import Taken
from services.edge.domain.limits.refusals import LimitRefusals
from services.edge.domain.model import ClientInfo
from services.edge.domain.settings import Settings
from services.shared.chat_methods import METHODS, Rate
from services.shared.errors import ErrorCode, ThalamusError, Unavailable
from services.shared.redis.pipeline import RedisPipeline
from tests.support.chat_methods import CONV, GROUP, ChatServer, ScriptedChat, rpc
from tests.support.edge import Cluster, connected
from tests.support.limits import START_US, US, TimedRates
from thalamus.chat.v1 import chat_pb2 as pb

HOUR_S = 3_600


class Edges:
    """The limits of some edges by one clock."""

    def __init__(self, shared: TimedRates | NoRedis, count: int = 1, **settings: Any) -> None:
        self.now_s = 0.0
        self.refusals = LimitRefusals()
        self.tasks: set[asyncio.Task[None]] = set()
        self.shared = shared
        self.limits = [
            ChatLimits(
                shared,
                Settings(**settings),
                now=lambda: self.now_s,
                spawn=self.spawn,
                refusals=self.refusals,
            )
            for _ in range(count)
        ]

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def passed(self, rate: Rate, tries: int, *, edge: int = 0, user: str = "u1", count: int = 1) -> int:
        """How many of so many tries are let through; the last error is kept."""
        passed = 0
        for _ in range(tries):
            try:
                await self.limits[edge].take(user, rate, count)
                passed += 1
            except ThalamusError as error:
                self.error = error
        await asyncio.gather(*self.tasks)
        return passed


class NoRedis:
    """`SharedRates` while Redis is away."""

    asked = 0

    async def take(self, limit: str, name: str, *, rate: float, burst: float, most: int, least: int) -> Taken:
        self.asked += 1
        raise Unavailable("Redis is away")


@pytest.fixture
def timed(redis_pipeline: RedisPipeline) -> list[Any]:
    """[rates, a function that makes edges with them]."""
    made: list[Edges] = []
    rates = TimedRates(redis_pipeline, lambda: START_US + int((made[0].now_s if made else 0) * US))

    def edges(count: int = 1, **settings: Any) -> Edges:
        made.insert(0, Edges(rates, count, **settings))
        return made[0]

    return [rates, edges]


async def test_messages_come_in_a_burst_and_then_at_their_rate(timed: list[Any]) -> None:
    edges: Edges = timed[1]()
    assert await edges.passed(Rate.MESSAGES, 50) == 30
    assert edges.error.code is ErrorCode.TOO_MANY_REQUESTS
    assert 0 < edges.error.retry_after_s <= 0.5
    assert edges.refusals.by_limit["messages"] == 20
    assert await edges.passed(Rate.MESSAGES, 5, user="u2") == 5  # of others nothing is taken
    passed = 0
    for _ in range(100):
        edges.now_s += 0.1
        passed += await edges.passed(Rate.MESSAGES, 3)
    assert 90 <= passed <= 105  # 10 s
    assert await edges.passed(Rate.REACTIONS, 30) == 20


async def test_edges_share_a_users_messages(timed: list[Any]) -> None:
    edges: Edges = timed[1](3)
    passed = sum([await edges.passed(Rate.MESSAGES, 30, edge=edge) for edge in range(3)])
    assert passed == 30
    for step in range(100):
        edges.now_s += 0.1
        passed += await edges.passed(Rate.MESSAGES, 3, edge=step % 3)
    assert passed <= 30 + 100 + 3 * 5


async def test_conversations_and_invitations_are_counted_exactly(timed: list[Any]) -> None:
    edges: Edges = timed[1](2)
    assert await edges.passed(Rate.CONVERSATIONS, 15) + await edges.passed(Rate.CONVERSATIONS, 15, edge=1) == 20
    assert edges.error.retry_after_s == pytest.approx(HOUR_S / 20)
    assert await edges.passed(Rate.INVITES, 1, count=60) == 1
    assert await edges.passed(Rate.INVITES, 1, edge=1, count=41) == 0  # all or none
    assert await edges.passed(Rate.INVITES, 50, edge=1) == 40
    assert await edges.passed(Rate.INVITES, 1, count=101) == 0
    assert edges.error.code is ErrorCode.LIMIT_EXCEEDED
    edges.now_s += HOUR_S / 20 + 0.001
    assert await edges.passed(Rate.CONVERSATIONS, 3, edge=1) == 1
    assert edges.refusals.by_limit["conversations"] == 12


async def test_a_limit_that_is_off_asks_nobody(timed: list[Any]) -> None:
    off = {
        "messages_per_user_per_s": 0,
        "reactions_per_user_per_s": 0,
        "conversations_per_user_per_h": 0,
        "invites_per_user_per_h": 0,
        "changes_per_user_per_s": 0,
        "markers_per_user_per_s": 0,
        "searches_per_user_per_s": 0,
    }
    edges: Edges = timed[1](**off)
    for rate in Rate:
        assert await edges.passed(rate, 200) == 200
    assert timed[0].asked == 0


async def test_an_edge_without_redis_keeps_the_same_limits_alone() -> None:
    edges = Edges(NoRedis())
    assert await edges.passed(Rate.MESSAGES, 50) == 30
    assert await edges.passed(Rate.REACTIONS, 50) == 20
    assert await edges.passed(Rate.CONVERSATIONS, 50) == 20
    assert await edges.passed(Rate.INVITES, 50, count=3) == 33
    assert await edges.passed(Rate.CHANGES, 80) == 50
    assert await edges.passed(Rate.MARKERS, 150) == 100
    assert await edges.passed(Rate.SEARCHES, 50) == 20


@pytest.mark.parametrize(
    ("method", "params", "most"),
    [
        ("messages.send", {"channel": GROUP, "text": "x"}, 30),
        ("messages.edit", {"channel": GROUP, "of": 1, "text": "x"}, 30),
        ("messages.delete", {"channel": GROUP, "of": 1}, 30),
        ("conversations.join", {"channel": GROUP}, 30),
        ("conversations.leave", {"channel": GROUP}, 30),
        ("conversations.decline", {"channel": GROUP}, 30),
        ("reactions.add", {"channel": GROUP, "of": 1, "name": "x"}, 20),
        ("pins.remove", {"channel": GROUP, "of": 1}, 20),
        ("conversations.create", {}, 20),
        ("conversations.create", {"users": ["u2"] * 40}, 2),
        ("conversations.create", {"type": "direct", "users": ["u2"]}, 20),
        ("members.add", {"channel": GROUP, "user": "u2"}, 100),
        ("members.invite", {"channel": GROUP, "user": "u2"}, 100),
        ("messages.list", {"channel": GROUP}, None),
        ("members.list", {"channel": GROUP}, None),
        ("members.remove", {"channel": GROUP, "user": "u2"}, 50),
        ("members.role", {"channel": GROUP, "user": "u2", "role": "admin"}, 50),
        ("members.silence", {"channel": GROUP, "user": "u2"}, 50),
        ("members.ban", {"channel": GROUP, "user": "u2"}, 50),
        ("members.unban", {"channel": GROUP, "user": "u2"}, 50),
        ("messages.purge", {"channel": GROUP, "user": "u2"}, 50),
        ("conversations.update", {"channel": GROUP, "name": "x"}, 50),
        ("conversations.close", {"channel": GROUP}, 50),
        ("conversations.reopen", {"channel": GROUP}, 50),
        ("conversations.delete", {"channel": GROUP}, 50),
        ("me.erase", {}, 50),
        ("markers.read", {"channel": GROUP, "offset": 1}, 100),
        ("markers.unread", {"channel": GROUP, "offset": 1}, 100),
        ("markers.delivered", {"channel": GROUP, "offset": 1}, 100),
        ("typing.start", {"channel": GROUP}, 100),
        ("typing.stop", {"channel": GROUP}, 100),
    ],
)
async def test_a_call_over_the_limit_is_not_passed_on(method: str, params: dict[str, Any], most: int | None) -> None:
    cluster = Cluster(conv=CONV)
    node = cluster.edge(commands_per_s=0)
    node.chat_limits = Edges(NoRedis()).limits[0]
    async with ChatServer() as server:
        chat = server.methods(node)
        alice = await connected(cluster, node)
        for _ in range(most or 110):
            assert "error" not in await rpc(alice, method, params)
        reply = await rpc(alice, method, params)
        assert len(server.script.asked) == (most or 111)
        if most is not None:
            assert reply["error"]["code"] == 111
            assert reply["error"]["retry_after_ms"] > 0
        server.script.asked.clear()
        of_a_backend = Caller(ClientInfo("alice", ""), "api:alice", is_backend=True)
        assert await chat.call(METHODS[method], b'{"channel":"%s"}' % GROUP.encode(), of_a_backend) == b"{}"


def test_every_method_that_changes_something_counts_for_a_limit() -> None:
    assert not [method.name for method in METHODS.values() if method.writes and method.rate is None]
    assert {METHODS[name].rate for name in ("conversations.preferences", "me.preferences")} == {Rate.CHANGES}


class Beginning(ScriptedChat):
    """Knows the users to whom there is a conversation; all others begin one."""

    def __init__(self) -> None:
        super().__init__()
        self.known: set[str] = set()

    async def Call(self, request, context):  # type: ignore[no-untyped-def]
        self.asked.append(request)
        to = json.loads(request.params).get("to", "")
        if to in self.known or not request.asks_to_begin:
            self.known.add(to)
            return self.answer
        return pb.CallResponse(begins=True)


async def test_a_message_that_begins_a_conversation_counts_as_one() -> None:
    cluster = Cluster(conv=CONV)
    node = cluster.edge(commands_per_s=0)
    edges = Edges(NoRedis(), messages_per_user_per_s=0)
    node.chat_limits = edges.limits[0]
    script = Beginning()
    async with ChatServer(script=script) as server:
        chat = server.methods(node)
        alice = await connected(cluster, node)

        async def send(to: str) -> int:
            reply = await rpc(alice, "messages.send", {"to": to, "text": "x"})
            return int(reply.get("error", {}).get("code", 0))

        script.known.add("old")
        assert [await send(f"u{number}") for number in range(20)] == [0] * 20
        assert len(script.asked) == 40
        reply = await rpc(alice, "messages.send", {"to": "u20", "text": "x"})
        assert reply["error"]["code"] == 111
        assert reply["error"]["retry_after_ms"] > 0
        assert "u20" not in script.known  # nothing was begun
        assert edges.refusals.by_limit["conversations"] == 1
        script.asked.clear()
        assert [await send("old"), await send("u3")] == [0, 0]  # no other one is begun
        assert len(script.asked) == 2
        assert (await rpc(alice, "conversations.create", {}))["error"]["code"] == 111  # the same limit
        of_a_backend = Caller(ClientInfo("alice", ""), "api:alice", is_backend=True)
        assert await chat.call(METHODS["messages.send"], b'{"to":"u21","text":"x"}', of_a_backend) == b"{}"


async def test_without_the_limit_a_message_begins_a_conversation_at_once() -> None:
    cluster = Cluster(conv=CONV)
    node = cluster.edge()
    node.chat_limits = Edges(NoRedis(), conversations_per_user_per_h=0).limits[0]
    async with ChatServer() as server:
        server.methods(node)
        alice = await connected(cluster, node)
        await rpc(alice, "messages.send", {"to": "u2", "text": "x"})
        assert not server.script.take().asks_to_begin
