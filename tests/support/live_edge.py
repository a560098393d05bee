"""An edge without sockets on a real Redis; its clients are in memory."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from services.edge.adapters.redis.broker import RedisBroker
from services.edge.domain.access.revocations import Revocations
from services.edge.domain.access.tokens import TokenVerifier
from services.edge.domain.control import cluster
from services.edge.domain.control.revoker import Revoker
from services.edge.domain.session.node import Node
from services.edge.domain.settings import Settings
from services.shared.process.cancellation import end_task
from tests.support.edge import Client, Cluster


class LiveEdge:
    """`tokens` makes tokens, stands for the other services, and counts the edges.

    `polls`: whether the edge reads control log and revocations from time to time, as it does in production.
    """

    def __init__(self, tokens: Cluster, redis_url: str, *, polls: bool = True) -> None:
        self._polls = polls
        self._tokens = tokens
        self.broker = RedisBroker(redis_url, on_time=self._on_time)
        revocations = Revocations()
        self.node = Node(
            edge_id=f"live{len(tokens.nodes) + 1}",
            settings=Settings(),
            namespaces=tokens.namespaces,
            broker=self.broker,
            store=tokens.store,
            presence=tokens.presence,
            verifier=TokenVerifier(tokens.keyring, revocations=revocations),
            revocations=revocations,
        )
        tokens.nodes.append(self.node)
        self.cluster = cluster.Cluster(self.node, self.broker, self.broker.control_log)
        self.revoker = Revoker(self.node, self.cluster, self.broker.revocation_log, poll_s=0.2)
        self.broker.revocation_log.follow(self.revoker)
        self._following: list[asyncio.Task[None]] = []

    def _on_time(self, unix_s: float) -> None:
        self.node.clock.sync(unix_s)

    async def __aenter__(self) -> Self:
        await self.broker.start(self.node.hub, self.cluster.on_control, self.cluster.control_log)
        if self._polls:
            self._following = [
                asyncio.create_task(self.cluster.control_log.run()),
                asyncio.create_task(self.revoker.run()),
            ]
        async with asyncio.timeout(8):
            while not self.broker.is_ready:
                await asyncio.sleep(0.005)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._following:
            await end_task(task)
        await self.node.close(1.0)
        await self.broker.close()

    async def client(self, user: str, **claims: object) -> Client:
        """A client that has connected as this user; its token never expires."""
        made = Client(self._tokens, self.node, client_id=f"{user}-{len(self.node.sessions)}-{self.node.edge_id}")
        await made.call(connect={"token": self._tokens.token(user, ttl_s=None, **claims)})
        return made
