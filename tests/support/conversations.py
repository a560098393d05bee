"""Edges, Redis and two persistence processes, with conversations."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from services.edge.adapters.chat_client import ChatClient
from services.edge.adapters.persistence_client import PersistenceClient
from services.shared.rpc.replicas import Replicas
from tests.persistence.test_replicas import Process
from tests.support.edge import Client, Cluster
from tests.support.edge_chat import CONV
from tests.support.live_edge import LiveEdge
from tests.support.redis import RedisServer
from tests.support.tcp_proxy import TcpProxy
from thalamus.chat.v1 import chat_pb2 as pb
from thalamus.chat.v1.chat_pb2_grpc import ChatServiceStub
from thalamus.common.v1 import common_pb2


@dataclass
class Edge:
    """An edge in this process; `way` leads to its Redis."""

    live: LiveEdge
    way: TcpProxy
    replicas: Replicas
    chat: ChatClient
    store: PersistenceClient


_NO_LIMITS = {"messages_per_user_per_s": 0, "reactions_per_user_per_s": 0}


class ConversationSite:
    """`async with ConversationSite(redis, path) as site`.

    Real services; edges in this process, without sockets.
    """

    def __init__(self, redis: RedisServer, path: Path, *, edges: int = 3, **settings: Any) -> None:
        self.redis = redis
        self.tokens = Cluster(conv=CONV)
        self.processes = [Process(redis.url, path / "log.sqlite3") for _ in range(2)]
        self.edges: list[Edge] = []
        self._count, self._settings = edges, settings

    async def __aenter__(self) -> Self:
        try:
            await asyncio.gather(*(process.start() for process in self.processes))
            for _ in range(self._count):
                self.edges.append(await self._edge())
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def _edge(self) -> Edge:
        way = await TcpProxy("127.0.0.1", self.redis.port).__aenter__()
        replicas = Replicas("persistence:9003", service_token=None, service="edge", resolve=self._resolve)
        chat, store = ChatClient(replicas), PersistenceClient(replicas)
        await replicas.start()
        await chat.start()
        await store.start()
        settings = {"commands_per_s": 0, "ping_interval_s": 0, **_NO_LIMITS, **self._settings}
        url = f"redis://127.0.0.1:{way.port}/0"
        live = await LiveEdge(self.tokens, url, polls=False, store=store, chat=chat, **settings).__aenter__()
        return Edge(live, way, replicas, chat, store)

    async def _resolve(self, host: str, port: int) -> set[str]:
        return {f"127.0.0.1:{process.grpc_port}" for process in self.processes}

    async def _close(self) -> None:
        for edge in self.edges:
            edge.way.flow()
            edge.way.heal()
            await edge.live.__aexit__(None, None, None)
            await edge.chat.close()
            await edge.store.close()
            await edge.replicas.close()
            await edge.way.__aexit__(None, None, None)
        for process in self.processes:
            process.close()

    async def call(self, method: str, author: str, /, **params: Any) -> dict[str, Any]:
        """Call a method on conversations as this author."""
        request = pb.CallRequest(
            method=method,
            info=common_pb2.ClientInfo(user=author),
            params=json.dumps(params).encode(),
            key_user=f"u:{author}",
            namespace="conv",
            options=self.edges[0].chat.options(CONV),
        )
        channel = self.edges[0].replicas.any()
        response = await ChatServiceStub(channel).Call(request, timeout=60)
        assert not response.HasField("refusal"), response.refusal
        result: dict[str, Any] = json.loads(response.result)
        return result

    async def group(self, *users: str, **settings: Any) -> str:
        """A new group of these users; the first one is the owner. Returns its channel."""
        made = await self.call("conversations.create", users[0], type="group", users=users[1:], settings=settings)
        channel: str = made["channel"]
        return channel

    async def connected(self, edge: Edge, user: str) -> Talker:
        """A client of this user."""
        client = Talker(self.tokens, edge.live.node, client_id=f"{user}-{len(edge.live.node.sessions)}-{id(edge)}")
        await client.ask(connect={"token": self.tokens.token(user, ttl_s=None)})
        return client


class Talker(Client):
    """A client whose replies come when they come."""

    since = 0  # offset at which its subscription began
    pause_s = 0.002  # between two looks for a reply

    async def ask(self, **request: Any) -> dict[str, Any]:
        """The whole reply to one command, within 5 s."""
        number = await self.post(**request)
        async with asyncio.timeout(30):
            while True:
                for line in self.lines:
                    if line.get("id") == number:
                        return line
                await asyncio.sleep(self.pause_s)

    async def code(self, **request: Any) -> int:
        """The code of the error that one command is answered with; 0: none."""
        code: int = (await self.ask(**request)).get("error", {}).get("code", 0)
        return code

    def offsets(self, channel: str) -> list[int]:
        return [pub["offset"] for pub in self.publications(channel)]

    def ends(self, channel: str) -> list[int]:
        """Codes of the unsubscribe pushes."""
        pushes = [push for push in self.pushes if push.get("channel") == channel]
        return [push["unsubscribe"]["code"] for push in pushes if "unsubscribe" in push]
