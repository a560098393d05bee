"""An edge without sockets: real rules and protocol; ports and time are the test's."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import replace
from typing import Any

import jwt

from services.auth.domain.grants import UserGrants
from services.edge.domain.access.keyring import KeyRing
from services.edge.domain.access.tokens import TokenVerifier
from services.edge.domain.connections import Identity
from services.edge.domain.ends import ClientEnd
from services.edge.domain.session import presence_methods
from services.edge.domain.session.node import Clock, Node
from services.edge.domain.session.rpc import RpcMethods
from services.edge.domain.settings import Settings
from services.edge.protocols.base import Host
from services.edge.protocols.centrifugal.codec import Codec
from services.edge.protocols.centrifugal.connection import CentrifugalConnection
from services.edge.protocols.centrifugal.json_codec import CentrifugalJson
from services.edge.protocols.centrifugal.protobuf_codec import CentrifugalProtobuf
from services.shared.namespaces import Mode, Namespace, Namespaces, Permission
from tests.support import protobuf_by_hand as by_hand
from tests.support.edge_chat import MemoryChat
from tests.support.grants import AuthGrants, MemoryGrants
from tests.support.memory import MemoryBroker, MemoryBus, MemoryPresence, MemoryStore

SECRET = b"a secret of at least thirty-two bytes"
SIGNED_IN = frozenset({Permission.AUTHENTICATED})
SUBSCRIBERS = frozenset({Permission.SUBSCRIBER})
OPEN = Namespace(
    name="",
    recovery=Mode.ALLOW,
    positioning=Mode.ALLOW,
    presence=True,
    join_leave=Mode.ALLOW,
    subscribe=SIGNED_IN,
    publish=SUBSCRIBERS,
    history=SUBSCRIBERS,
    presence_read=SUBSCRIBERS,
)

JSON, PROTOBUF = "json", "protobuf"
_CODECS: dict[str, Codec] = {  # frames are bare payloads
    JSON: CentrifugalJson(frame=bytes),
    PROTOBUF: CentrifugalProtobuf(frame=bytes),
}


class ManualClock(Clock):
    """Both clocks stand still until `advance`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0
        self.unix = 1_800_000_000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.unix


class Cluster:
    """Edges that share logs, pub/sub and presence."""

    broker_type: type[MemoryBroker] = MemoryBroker

    def __init__(self, *, default: Namespace | None = OPEN, **named: Namespace) -> None:
        self.bus = MemoryBus()
        self.presence = MemoryPresence(self.bus)
        self.store = MemoryStore(self.bus)
        self.chat = MemoryChat(self.bus)
        self.clock = ManualClock()
        self.namespaces = Namespaces(default, {name: replace(one, name=name) for name, one in named.items()})
        self.keyring = KeyRing()
        self.keyring.set_secrets(SECRET)
        self.nodes: list[Node] = []
        self.rpc = RpcMethods()
        presence_methods.register(self.rpc)
        self.grants = AuthGrants(UserGrants(MemoryGrants(), self.clock.wall))

    def edge(self, **settings: Any) -> Node:
        broker = self.broker_type(self.bus)
        node = Node(
            edge_id=f"edge{len(self.nodes) + 1}",
            settings=Settings(**{"refusal_step_s": 0.0} | settings),
            namespaces=self.namespaces,
            broker=broker,
            store=self.store,
            presence=self.presence,
            verifier=TokenVerifier(self.keyring),
            chat=self.chat,
            grants=self.grants,
            rpc=self.rpc,
            clock=self.clock,
            rng=random.Random(1),
        )
        broker.listener = node.hub
        self.nodes.append(node)
        return node

    def token(self, user: str = "", *, ttl_s: float | None = 300, **claims: Any) -> str:
        if user:
            claims["sub"] = user
        if ttl_s is not None:
            claims["exp"] = self.clock.unix + ttl_s
        return jwt.encode(claims, SECRET, algorithm="HS256")

    async def advance(self, seconds: float) -> None:
        """Let time pass, in steps of a tenth of a second, with all that it causes."""
        end = self.clock.now + seconds
        while self.clock.now < end - 1e-9:
            step = min(0.1, end - self.clock.now)
            self.clock.now += step
            self.clock.unix += step
            for node in self.nodes:
                node.wheel.advance(self.clock.now)
                node.hub.close_unused(self.clock.now)
                node.hub.presence_events.tick(self.clock.now)
            await settle()


def replace_namespace(namespace: Namespace, **options: Any) -> Namespace:
    """The namespace with other options."""
    return replace(namespace, **options)


async def settle() -> None:
    """Let every task run until nothing is left to do at once."""
    for _ in range(30):
        await asyncio.sleep(0)


class TestConnection:
    """`Connection` that keeps what it was given."""

    __test__ = False
    peer = "192.0.2.1"

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.closed: tuple[int, str] | None = None
        self.dropped_after: float | None = None
        self.websocket_pings = 0
        self.paused = False
        self.has_room = True  # for ephemeral events
        self.replies_wait = False  # set by the test; then `session.replies_taken()`
        self.taken_and_under_way = (0, 0)

    def send(self, frame: bytes) -> None:
        if self.closed is None:
            self.frames.append(frame)

    def send_ephemeral(self, frame: bytes) -> None:
        if self.has_room:
            self.send(frame)

    def send_reply(self, frame: bytes) -> None:
        self.send(frame)

    def delivery(self) -> tuple[int, int]:
        return self.taken_and_under_way

    def close(self, code: int, reason: str) -> None:
        if self.closed is None:
            self.closed = (code, reason)

    def drop_after(self, delay_s: float) -> None:
        self.dropped_after = delay_s

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def send_websocket_ping(self) -> None:
        self.websocket_pings += 1


class Client:
    """One client of an edge: frames in as text, replies and pushes out as JSON values.

    A client that speaks Protobuf says and hears the same: what it sends and gets is converted by hand.
    """

    default_encoding = JSON

    def __init__(
        self,
        cluster: Cluster,
        node: Node,
        *,
        client_id: str = "",
        websocket_ping: bool = False,
        encoding: str = "",
        identity: Identity | None = None,
    ) -> None:
        self.cluster = cluster
        self.encoding = encoding or self.default_encoding
        self.connection = TestConnection()
        self.protocol = CentrifugalConnection(
            Host(node, bytes, bytes, lambda: client_id or f"client-{len(node.sessions) + 1}-{node.edge_id}"),
            self.connection,
            _CODECS[self.encoding],
            websocket_ping=websocket_ping,
            identity=identity,
        )
        session = self.protocol.session
        assert session is not None
        self.session = session  # the protocol forgets it at the end
        self.protocol.opened()
        self._next_id = 0
        self._texts: list[bytes] = []
        self._lines: list[dict[str, Any]] = []
        self._read = 0  # frames that are in `_texts`

    @property
    def texts(self) -> list[bytes]:
        """Everything received, in order, each as one JSON text."""
        for frame in self.connection.frames[self._read :]:
            if self.encoding == JSON:
                self._texts += frame.split(b"\n")
            else:
                self._texts += map(by_hand.line_of, by_hand.parts(frame))
        self._read = len(self.connection.frames)
        return self._texts

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Everything received, in order; pings are {}."""
        self._lines += map(json.loads, self.texts[len(self._lines) :])
        return list(self._lines)

    @property
    def pushes(self) -> list[dict[str, Any]]:
        return [line["push"] for line in self.lines if "push" in line]

    @property
    def closed(self) -> tuple[int, str] | None:
        return self.connection.closed

    def publications(self, channel: str) -> list[Any]:
        return [push["pub"] for push in self.pushes if push.get("channel") == channel and "pub" in push]

    def send(self, frame: str | bytes, *, binary: bool = False) -> None:
        """Send a frame without waiting for what comes of it.

        Bytes are sent as they are. Text has JSON commands, one per line; a Protobuf client sends the same in Protobuf.
        """
        if isinstance(frame, bytes):
            payload = frame
        elif self.encoding == JSON:
            payload = frame.encode()
        else:
            payload = b"".join(map(by_hand.command_of, frame.split("\n")))
        self.protocol.message(payload, binary=binary or self.encoding == PROTOBUF)

    async def raw(self, *frames: str | bytes, binary: bool = False) -> None:
        """Send frames, and wait for what comes of them."""
        for frame in frames:
            self.send(frame, binary=binary)
        await settle()

    async def post(self, **request: Any) -> int:
        self._next_id += 1
        await self.raw(json.dumps({"id": self._next_id, **request}))
        return self._next_id

    async def reply(self, **request: Any) -> dict[str, Any]:
        """The whole reply to one command."""
        command_id = await self.post(**request)
        found = [line for line in self.lines if line.get("id") == command_id]
        assert len(found) == 1, (request, self.lines[-3:], self.closed)
        return found[0]

    async def call(self, **request: Any) -> Any:
        """The result of one command; `token` beside it is no part of the request."""
        (name,) = request.keys() - {"token"}
        reply = await self.reply(**request)
        assert set(reply) == {"id", name}, reply
        return reply[name]

    async def error(self, **request: Any) -> int:
        """The code of the error that one command is answered with."""
        reply = await self.reply(**request)
        assert set(reply) == {"id", "error"}, reply
        code: int = reply["error"]["code"]
        return code

    async def hang_up(self, how: ClientEnd = ClientEnd.CLOSED) -> None:
        """The client goes away."""
        self.protocol.closed(how)
        await settle()


async def connected(cluster: Cluster, node: Node, user: str = "alice", **members: Any) -> Client:
    """A client that has connected as this user."""
    client = Client(cluster, node)
    claims = members.pop("claims", {})
    await client.call(connect={"token": cluster.token(user, **claims), **members})
    return client
