"""An edge without sockets on a real Redis; its clients are in memory."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

from services.edge.adapters.redis.broker import RedisBroker
from services.edge.domain.access.revocations import Revocations
from services.edge.domain.access.tokens import TokenVerifier
from services.edge.domain.chat.ports import Chat
from services.edge.domain.control import cluster
from services.edge.domain.control.granter import Granter
from services.edge.domain.control.profile_news import ProfileNews
from services.edge.domain.control.revoker import Revoker
from services.edge.domain.ports import Store
from services.edge.domain.profiles.reader import ProfileSource
from services.edge.domain.session.node import Clock, Node
from services.edge.domain.settings import Settings
from services.shared.process.cancellation import end_task
from tests.support.edge import Client, Cluster
from tests.support.grants import AuthGrants


class LiveEdge:
    """`tokens` makes tokens, stands for the other services, and counts the edges.

    `grants`: stored grants as this edge reads them; None: those of `tokens`. `polls`: whether the edge reads control
    log and revocations from time to time, as it does in production, and renews its lease. `clock` is that of its rules;
    None: that of Redis. `store`, `chat`: persistence as this edge calls it; None: that of `tokens`. Without a cap on
    connections, which is the default here, the reply to connect is there at once.
    """

    def __init__(
        self,
        tokens: Cluster,
        redis_url: str,
        *,
        polls: bool = True,
        clock: Clock | None = None,
        grants: AuthGrants | None = None,
        profiles: ProfileSource | None = None,
        store: Store | None = None,
        chat: Chat | None = None,
        **settings: Any,
    ) -> None:
        self._polls = polls
        self._tokens = tokens
        edge_id = f"live{len(tokens.nodes) + 1}"
        self.broker = RedisBroker(
            redis_url, edge_id=edge_id, on_time=self._on_time, on_incarnation=lambda: self.node.resume.list_again()
        )
        revocations = Revocations()
        self.node = Node(
            edge_id=edge_id,
            settings=Settings(**{"connections_per_user": 0} | settings),
            namespaces=tokens.namespaces,
            broker=self.broker,
            store=store or tokens.store,
            chat=chat or tokens.chat,
            presence=tokens.presence,
            verifier=TokenVerifier(tokens.keyring, revocations=revocations),
            revocations=revocations,
            session_table=self.broker.session_table,
            clock=clock,
            grants=grants or tokens.grants,
            profiles=profiles,
            rates=self.broker.rates,
            counts=self.broker.counts,
        )
        tokens.nodes.append(self.node)
        self.cluster = cluster.Cluster(self.node, self.broker, self.broker.control_log)
        self.profile_news = ProfileNews(self.node, self.cluster.tell)
        self.granter = Granter(self.node, self.cluster, self.broker.revocation_log, grants or tokens.grants)
        self.revoker = Revoker(self.node, self.cluster, self.broker.revocation_log, granter=self.granter, poll_s=0.2)
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
                asyncio.create_task(self.broker.leases.run()),
                asyncio.create_task(self.granter.run()),
                asyncio.create_task(self.node.connection_caps.run()),
            ]
        async with asyncio.timeout(30):
            while not (self.broker.is_ready and (self.broker.leases.is_held or not self._polls)):
                await asyncio.sleep(0.005)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop_following()
        await self.node.close(1.0)
        await self.broker.close()

    async def stop_following(self) -> None:
        """End the work that the edge does from time to time; its lease runs out."""
        for task in self._following:
            await end_task(task)
        self._following = []

    async def client(self, user: str, **claims: object) -> Client:
        """A client that has connected as this user; its token never expires."""
        made = Client(self._tokens, self.node, client_id=f"{user}-{len(self.node.sessions)}-{self.node.edge_id}")
        await made.call(connect={"token": self._tokens.token(user, ttl_s=None, **claims)})
        return made
