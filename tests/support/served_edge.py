"""An edge on a real port with real transport and rules; other services in memory."""

from __future__ import annotations

import asyncio
import itertools
import json
import struct
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import jwt

from services.edge.adapters.redis.broker import RedisBroker
from services.edge.domain.access.tokens import TokenVerifier
from services.edge.domain.connections import Authenticator
from services.edge.domain.hooks.hooks import Hooks
from services.edge.domain.session.node import Node
from services.edge.domain.settings import Settings
from services.edge.protocols.base import Host, ProtocolEntry
from services.edge.protocols.registry import Registry, served_protocols
from services.edge.transport.options import TransportOptions
from services.edge.transport.server import EdgeServer
from services.edge.transport.websocket.frames import binary_frame, text_frame
from services.shared.process.cancellation import end_task
from tests.edge.transport.support import PATH, Raw, frame, head, set_send_buffer
from tests.support.edge import SECRET, Cluster
from tests.support.memory import MemoryBroker


def protocols_of(node: Node, *more: Callable[[Host], ProtocolEntry]) -> Registry:
    """Return the client protocols of an edge, and `more`; client ids are client1, …."""
    ids = itertools.count(1)
    host = Host(node, text_frame, binary_frame, lambda: f"client{next(ids)}")
    protocols = served_protocols(host, websocket_path=PATH)
    for entry in more:
        protocols.add(entry(host))
    return protocols


class ServedEdge:
    """`async with ServedEdge(cluster) as edge`; the clock is the real one.

    Logs and pub/sub are in memory, or in a Redis. `more` makes client protocols that are served besides.
    `authenticator` makes what reads credentials of handshakes; None: nothing does. `hooks` are those of this edge.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        options: TransportOptions | None = None,
        send_buffer: int = 0,
        more: Sequence[Callable[[Host], ProtocolEntry]] = (),
        redis_url: str = "",
        authenticator: Callable[[Node], Authenticator] | None = None,
        hooks: Hooks | None = None,
        **settings: Any,
    ) -> None:
        self._memory = MemoryBroker(cluster.bus)
        self._redis = RedisBroker(redis_url, on_time=self._on_time) if redis_url else None
        self.node = Node(
            edge_id=f"served{len(cluster.nodes) + 1}",
            settings=Settings(**settings),
            namespaces=cluster.namespaces if hooks is None else hooks.mark(cluster.namespaces),
            hooks=hooks,
            broker=self._redis or self._memory,
            store=cluster.store,
            chat=cluster.chat,
            presence=cluster.presence,
            verifier=TokenVerifier(cluster.keyring),
        )
        self._memory.listener = self.node.hub
        self._send_buffer = send_buffer
        self.protocols = protocols_of(self.node, *more)
        self.server = EdgeServer(
            options or TransportOptions(),
            self.protocols,
            authenticator=None if authenticator is None else authenticator(self.node),
        )
        self._running: asyncio.Task[None] | None = None

    def _on_time(self, unix_s: float) -> None:
        self.node.clock.sync(unix_s)

    def hear_joins(self, channel: str) -> None:
        """Subscribe the edge to joins and leaves.

        Needed with a Redis, because presence is in memory.
        """
        self._memory.subscribed.add(channel)

    @property
    def port(self) -> int:
        return self.server.port

    async def __aenter__(self) -> Self:
        if self._redis is not None:
            await self._redis.start(self.node.hub, lambda payload: None)
            async with asyncio.timeout(30):
                while not self._redis.is_ready:
                    await asyncio.sleep(0.005)
        await self.server.start("127.0.0.1", 0)
        if self._send_buffer:
            set_send_buffer(self.server, self._send_buffer)
        self._running = asyncio.create_task(self.node.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._running is not None
        await end_task(self._running)
        await self.server.close()
        await self.node.close(1.0)
        await self.node.hooks.close()
        if self._redis is not None:
            await self._redis.close()

    async def raw(self, *, receive_buffer: int = 0) -> Raw:
        """A client past its handshake."""
        client = await Raw(self.port, receive_buffer=receive_buffer).__aenter__()
        client.write(head())
        assert (await client.head()).startswith(b"HTTP/1.1 101 ")
        return client


def commands(*requests: dict[str, Any], first_id: int = 1) -> bytes:
    """One frame with all of them, as a client sends it."""
    lines = [json.dumps({"id": number, **request}) for number, request in enumerate(requests, first_id)]
    return frame(1, "\n".join(lines).encode())


def connect_command(user: str = "alice") -> dict[str, Any]:
    """A connect command with a token that never expires."""
    return {"connect": {"token": jwt.encode({"sub": user}, SECRET, algorithm="HS256")}}


class SlowReader:
    """Reads frames of a `Raw` client slowly, replies to pings, and keeps the lines."""

    def __init__(self, client: Raw, bytes_per_s: int) -> None:
        self._client = client
        self._bytes_per_s = bytes_per_s
        self._buffer = bytearray()
        self.lines: list[dict[str, Any]] = []
        self.closed: tuple[int, str] | None = None
        self.read_bytes = 0

    async def until(self, found: int, kind: str, deadline_s: float) -> list[dict[str, Any]]:
        """Read until so many lines have this member, or the connection ends."""
        step_s = 0.05
        async with asyncio.timeout(deadline_s):
            while self.closed is None:
                those = [line for line in self.lines if kind in line]
                if len(those) >= found:
                    return those
                try:
                    data = await self._client.reader.read(int(self._bytes_per_s * step_s))
                except ConnectionError:
                    data = b""
                self.read_bytes += len(data)
                self._buffer += data
                self._handle()
                if not data:
                    self.closed = self.closed or (1006, "")
                await asyncio.sleep(step_s)
        raise AssertionError(f"closed {self.closed} after {self.read_bytes} bytes")

    def _handle(self) -> None:
        buffer = self._buffer
        while len(buffer) >= 2:
            size, at = buffer[1], 2
            if size == 126:
                size, at = int.from_bytes(buffer[2:4], "big"), 4
            elif size == 127:
                size, at = int.from_bytes(buffer[2:10], "big"), 10
            if len(buffer) < at + size:
                return
            opcode, payload = buffer[0] & 15, bytes(buffer[at : at + size])
            del buffer[: at + size]
            if opcode == 8:
                self.closed = (struct.unpack("!H", payload[:2])[0], payload[2:].decode())
                return
            for text in payload.split(b"\n"):
                line = json.loads(text)
                self.lines.append(line)
                if not line:
                    self._client.write(frame(1, b"{}"))
