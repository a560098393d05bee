"""A client protocol is one folder.

A toy one beside that of Centrifugal, on an edge with sockets and a real Redis.
"""

from __future__ import annotations

import ast
import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from services.edge.domain.connections import Connection, Identity, Pings
from services.edge.domain.control.operations import Disconnect, execute
from services.edge.domain.ends import End
from services.edge.domain.handshake import HandshakeAuthenticator
from services.edge.domain.session.drain import drain
from services.edge.domain.session.node import Node
from services.edge.metrics import NodeCollector
from services.edge.protocols.base import Host
from services.edge.transport.options import TransportOptions
from tests.edge.protocols.toy import lines
from tests.edge.protocols.toy.lines import Toy, ToyConnection
from tests.edge.transport.support import CLOSE, LIMIT_S, PATH, TEXT, Raw, close_payload, frame, head
from tests.support.edge import Cluster
from tests.support.memory import MemoryTickets
from tests.support.served_edge import ServedEdge
from tests.support.waiting import until
from tests.support.wire_client import WireClient

ROUNDS = 50
PINGS = Pings(0.6, 0.5)
NEWS = (f"news{number}" for number in itertools.count(1))  # the Redis is shared by all tests


class ToyClient:
    """Sends and receives lines."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def call(self, line: str) -> str:
        await self.socket.send(line)
        return await self.line()

    async def line(self) -> str:
        line = await asyncio.wait_for(self.socket.recv(), LIMIT_S)
        assert isinstance(line, str)
        return line

    async def end(self) -> tuple[list[str], int, str]:
        """The lines until the close frame, its code and its text."""
        found: list[str] = []
        try:
            while True:
                found.append(await self.line())
        except ConnectionClosed as closed:
            frame = closed.rcvd
        assert frame is not None
        return found, frame.code, frame.reason


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
async def edge(cluster: Cluster, redis_url: str) -> AsyncIterator[ServedEdge]:
    async with ServedEdge(
        cluster, redis_url=redis_url, more=[partial(Toy, pings=PINGS)], ping_interval_s=10.0, connect_timeout_s=1.0
    ) as edge:
        yield edge


def toy(edge: ServedEdge, **options: Any) -> connect:
    return connect(f"ws://127.0.0.1:{edge.port}/toy", **options)


def json_client(edge: ServedEdge) -> WireClient:
    return WireClient(f"ws://127.0.0.1:{edge.port}{PATH}")


async def test_both_protocols_share_a_channel_in_one_order(cluster: Cluster, edge: ServedEdge) -> None:
    channel = next(NEWS)
    edge.hear_joins(channel)
    async with json_client(edge) as other, toy(edge) as socket:
        client = ToyClient(socket)
        await other.connect(cluster.token("alice", ttl_s=None))
        await other.subscribe(channel, join_leave=True)
        assert await client.call(f"CONNECT {cluster.token('bob', ttl_s=None)}") == "OK"
        assert await client.call(f"SUB {channel}") == "OK"
        while (await other.push(channel, "join"))["join"]["info"]["user"] != "bob":
            pass  # its own may come first

        async def from_json() -> None:
            for number in range(ROUNDS):
                await other.publish(channel, f"j{number}")

        async def from_toy() -> None:
            for number in range(ROUNDS):
                await socket.send(f"PUB {channel} t{number}")

        received: list[str] = []

        async def listen() -> None:
            while len(received) < 2 * ROUNDS:
                line = await client.line()
                if line not in ("OK", "PING"):
                    received.append(line)
                elif line == "PING":
                    await socket.send("PONG")

        await asyncio.gather(from_json(), from_toy(), listen())
        seen = await other.publications(channel, 2 * ROUNDS)
        assert received == [f"MSG {channel} {one['offset']} {one['data']}" for one in seen]
        assert [one["offset"] for one in seen] == list(range(1, 2 * ROUNDS + 1))
        for first in "jt":
            assert [one["data"] for one in seen if one["data"][0] == first] == [f"{first}{n}" for n in range(ROUNDS)]


async def test_what_the_protocol_has_no_words_for_is_not_sent(cluster: Cluster, edge: ServedEdge) -> None:
    channel = next(NEWS)
    edge.hear_joins(channel)
    async with toy(edge) as socket:
        client = ToyClient(socket)
        await client.call(f"CONNECT {cluster.token('bob', ttl_s=None)}")
        await client.call(f"SUB {channel}")
        (subscription,) = edge.node.hub.channels[channel].subscriptions
        assert subscription.wants_joins  # it would get them
        before = edge.node.hub.deliveries
        async with json_client(edge) as other:
            await other.connect(cluster.token("alice", ttl_s=None))
            await other.subscribe(channel, join_leave=True)
            await other.push(channel, "join")  # its own, so joins are published
        await until(lambda: len(edge.node.hub.channels[channel]) == 1)
        assert edge.node.hub.deliveries == before  # the other client got its own join behind its reply, and no leave
        assert await client.call(f"PUB {channel} hello") in ("OK", f"MSG {channel} 1 hello")  # nothing in between


async def test_errors_limits_and_misuse_have_the_words_of_the_protocol(cluster: Cluster, edge: ServedEdge) -> None:
    channel = next(NEWS)
    token = cluster.token("bob", ttl_s=None)
    async with toy(edge) as socket:
        client = ToyClient(socket)
        assert await client.call(f"CONNECT {token}") == "OK"
        assert await client.call(f"PUB {channel} hello") == "ERR 103 permission denied"
        await socket.send("NONSENSE")
        assert await client.end() == (["BYE bad request"], 4000, "bad request")
    async with toy(edge) as socket:
        await socket.send("x" * 1_001)  # less than the edge allows
        assert (await ToyClient(socket).end())[1] == 1009
    async with toy(edge) as socket:  # says nothing
        assert await ToyClient(socket).end() == (["BYE stale"], 4000, "stale")


async def test_the_token_of_the_handshake_counts_if_connect_has_none(cluster: Cluster, redis_url: str) -> None:
    channel = next(NEWS)

    def authenticator(node: Node) -> HandshakeAuthenticator:
        return HandshakeAuthenticator(
            node.verifier,
            MemoryTickets(),
            node.resume,
            node.clock.wall,
            takes_query_tokens=False,
            is_own_page=lambda origin, host: False,
        )

    async with ServedEdge(cluster, redis_url=redis_url, more=[Toy], authenticator=authenticator) as edge:
        edge.hear_joins(channel)
        bearer = {"Authorization": f"Bearer {cluster.token('bob', ttl_s=None)}"}
        async with toy(edge, additional_headers=bearer) as socket:
            client = ToyClient(socket)
            assert await client.call("CONNECT") == "OK"
            assert await client.call(f"SUB {channel}") == "OK"
            (subscription,) = edge.node.hub.channels[channel].subscriptions
            assert subscription.info.user == "bob"
        async with toy(edge) as socket:  # no token at all
            await socket.send("CONNECT")
            assert (await ToyClient(socket).end())[1] == 4000
        with pytest.raises(InvalidStatus) as refused:
            async with toy(edge, additional_headers={"Authorization": "Bearer x.y.z"}):
                pass
        assert refused.value.response.status_code == 401


async def test_its_pings_are_its_own(cluster: Cluster, edge: ServedEdge) -> None:
    async with toy(edge) as socket, json_client(edge) as other:
        client = ToyClient(socket)
        reply = await other.connect(cluster.token("alice", ttl_s=None))
        assert reply["ping"] == 10
        await client.call(f"CONNECT {cluster.token('bob', ttl_s=None)}")
        assert await client.line() == "PING"
        await socket.send("PONG")
        assert await client.line() == "PING"  # so the pong was taken; this one stays unanswered
        assert await client.end() == (["BYE no pong"], 4003, "no pong")
        await other.expect_silence(0)  # the other client, with its own interval, is still there


async def test_a_slow_consumer_is_closed_in_its_own_words(cluster: Cluster, redis_url: str) -> None:
    channel = next(NEWS)
    options = TransportOptions(max_outbox_bytes=20_000)
    served = ServedEdge(cluster, redis_url=redis_url, more=[Toy], options=options, send_buffer=4_096)
    async with served as edge, json_client(edge) as other:
        await other.connect(cluster.token("alice", ttl_s=None))
        await other.subscribe(channel)
        slow = await Raw(edge.port, receive_buffer=4_096).__aenter__()
        slow.write(head(line="GET /toy HTTP/1.1"))
        assert (await slow.head()).startswith(b"HTTP/1.1 101 ")
        slow.write(frame(TEXT, f"CONNECT {cluster.token('bob', ttl_s=None)}\nSUB {channel}".encode()))
        assert [await slow.frame(), await slow.frame()] == [(TEXT, b"OK")] * 2
        for _ in range(100):  # bob reads nothing
            await other.publish(channel, "x" * 5_000)
            if edge.server.counters.closes:
                break
        assert edge.server.counters.closes == {("4001", "server"): 1}
        received = [await slow.frame()]
        while received[-1][0] == TEXT:
            received.append(await slow.frame())
        assert received[-1] == (CLOSE, close_payload(4001, b"slow"))
        slow.writer.close()
        await other.publish(channel, "go on")  # nobody else is hit


async def test_the_end_has_the_codes_of_the_protocol(cluster: Cluster, edge: ServedEdge) -> None:
    token = cluster.token("bob", ttl_s=None)
    async with toy(edge) as one, toy(edge) as two, toy(edge) as three, json_client(edge) as other:
        clients = [ToyClient(socket) for socket in (one, two, three)]
        for client in clients:
            assert await client.call(f"CONNECT {token}") == "OK"
        await other.connect(cluster.token("alice", ttl_s=None))
        first, second, _ = edge.node.users["bob"]
        await execute(edge.node, Disconnect(user="bob", client=first))  # as the server API asks for it
        await execute(edge.node, Disconnect(user="bob", client=second, code=4321, reason="by a backend"))
        await drain(edge.node, 0.5)
        ends = sorted([await client.end() for client in clients], key=lambda end: end[1])
        assert ends == [
            (["BYE disconnected"], 4000, "disconnected"),
            (["BYE shutdown"], 4002, "shutdown"),
            (["BYE by a backend"], 4321, "by a backend"),
        ]
        assert (await other.expect_close())[0] == 3001
    codes = edge.server.counters.closes
    assert {code: count for (code, by), count in codes.items() if by == "server"} == {
        "4000": 1,
        "4002": 1,
        "other": 1,
        "3001": 1,
    }
    collector = NodeCollector(edge.node, edge.protocols.close_codes)
    (closes,) = [family for family in collector.collect() if family.name == "thalamus_edge_closes"]
    assert {sample.labels["code"]: sample.value for sample in closes.samples} == {
        "4000": 1,
        "4002": 1,
        "other": 1,
        "3001": 1,
    }


class NeverMade(ToyConnection):
    """Fails once its session is there."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        raise ValueError("no luck")


class NeverEnds(ToyConnection):
    """Fails when its connection is to end."""

    def end(self, end: End) -> int:
        raise ValueError("no words")

    def connect_refused(self, delay_s: float) -> None:
        raise ValueError("no words")


def faulty(kind: type[ToyConnection]) -> Callable[[Host], Toy]:
    class Faulty(Toy):
        def _open(self, connection: Connection, identity: Identity | None) -> ToyConnection:
            return kind(self._host, connection, self._pushes, self._pings, identity)

    return Faulty


async def test_a_connection_that_can_not_be_made_leaves_no_session(cluster: Cluster, redis_url: str) -> None:
    async with ServedEdge(cluster, redis_url=redis_url, more=[faulty(NeverMade)]) as edge, json_client(edge) as other:
        await other.connect(cluster.token("alice", ttl_s=None))
        for _ in range(3):
            with pytest.raises(InvalidStatus, match="500"):
                await toy(edge)
        assert len(edge.node.sessions) == 1
        await other.subscribe(next(NEWS))


async def test_a_protocol_that_fails_to_end_its_connection_holds_up_nobody(cluster: Cluster, redis_url: str) -> None:
    token = cluster.token("bob", ttl_s=None)
    async with (
        ServedEdge(cluster, redis_url=redis_url, more=[faulty(NeverEnds)], error_drop_delay_s=0.2) as edge,
        json_client(edge) as other,
        toy(edge) as refused,
        toy(edge) as one,
        toy(edge) as two,
    ):
        expired = cluster.token("bob", ttl_s=None, exp=1)
        assert (await ToyClient(refused).call(f"CONNECT {expired}")).startswith("ERR 109")
        with pytest.raises(ConnectionClosed):
            await ToyClient(refused).line()
        for socket in (one, two):
            assert await ToyClient(socket).call(f"CONNECT {token}") == "OK"
        await other.connect(cluster.token("alice", ttl_s=None))
        await drain(edge.node, 0.5)
        assert (await other.expect_close())[0] == 3001
        for socket in (one, two):
            with pytest.raises(ConnectionClosed) as closed:
                await ToyClient(socket).line()
            assert closed.value.rcvd is None, "TCP ended without a close frame"
        await until(lambda: not edge.node.sessions)


def test_it_imports_only_the_public_seam() -> None:
    folder = Path(lines.__file__).parent
    imported = set()
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ("services", "tests"):
                imported |= {f"{node.module}.{one.name}" for one in node.names}
            elif isinstance(node, ast.Import):
                imported |= {one.name for one in node.names if one.name.split(".")[0] in ("services", "tests")}
    modules = {"protocols.base", "domain.connections", "domain.commands", "domain.replies", "domain.ends"}
    allowed = {f"services.edge.{module}" for module in modules}
    assert {name for name in imported if name not in allowed and name.rpartition(".")[0] not in allowed} == set()
