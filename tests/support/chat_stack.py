"""A whole stack for conversations: three edges, two replicas of persistence.

The second edge reaches Redis through a proxy that can cut it off.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from cli.stack.ports import edge_names
from tests.support.chat_client import ChatClient
from tests.support.dynamodb import CREDENTIALS, dynamodb_server
from tests.support.faults import free_port, kill_pubsub
from tests.support.replicas import TwoReplicas
from tests.support.tcp_proxy import BackgroundProxy, TcpProxy

EDGES = 3
CUT_EDGE = 1  # whose Redis can be cut off
_NO_LIMITS = {  # of edges of this version: those of before refuse settings that they do not know
    "EDGE_PUBLISHES_PER_USER_PER_S": "0",
    "EDGE_MESSAGES_PER_USER_PER_S": "0",
    "EDGE_REACTIONS_PER_USER_PER_S": "0",
    "EDGE_CHANGES_PER_USER_PER_S": "0",
    "EDGE_MARKERS_PER_USER_PER_S": "0",
    "EDGE_SEARCHES_PER_USER_PER_S": "0",
    "EDGE_CONVERSATIONS_PER_USER_PER_H": "0",
    "EDGE_INVITES_PER_USER_PER_H": "0",
}


class ChatStack:
    """Context manager; `store` is sqlite or dynamodb (moto).

    `of_edges`: variables of single edges by name. `of_second`: those of the second replica of persistence.
    """

    def __init__(
        self,
        folder: Path,
        *,
        store: str = "sqlite",
        of_edges: Mapping[str, Mapping[str, str]] | None = None,
        of_second: Mapping[str, str] | None = None,
        **environment: str,
    ) -> None:
        self._folder, self._store, self._environment = folder, store, environment
        self._of_edges = {name: dict(variables) for name, variables in (of_edges or {}).items()}
        self._of_second = of_second
        self._exits = ExitStack()
        self.replicas: TwoReplicas

    def __enter__(self) -> Self:
        with ExitStack() as exits:
            port = free_port()
            self._proxy = exits.enter_context(BackgroundProxy("127.0.0.1", port))
            environment = {"REDIS_PORT": str(port), "PERSISTENCE_STORE": self._store, "EDGE_COMMANDS_PER_S": "0"}
            if self._store == "dynamodb":
                environment |= {"DYNAMODB_ENDPOINT": exits.enter_context(dynamodb_server()), **CREDENTIALS}
                environment |= {"DYNAMODB_TABLE_PREFIX": f"{uuid.uuid4().hex}-", "DYNAMODB_CREATE_TABLES": "true"}
            cut, through = f"edge-{CUT_EDGE + 1}", {"REDIS_URL": f"redis://127.0.0.1:{self._proxy.port}/0"}
            of_edges = {name: {**_NO_LIMITS} for name in edge_names(EDGES)} | self._of_edges
            of_edges[cut] = {**of_edges[cut], **through}
            self.replicas = exits.enter_context(
                TwoReplicas(
                    self._folder,
                    service="persistence",
                    edges=EDGES,
                    environment=environment | self._environment,
                    environment_of=of_edges,
                    environment_of_second=self._of_second,
                )
            )
            self.stack = self.replicas.stack
            self._exits = exits.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.close()

    def cut_redis(self) -> None:
        """Cut one edge off from Redis, until `heal_redis`."""
        self._proxy.do(TcpProxy.cut)

    def heal_redis(self) -> None:
        self._proxy.do(TcpProxy.heal)

    def kill_pubsub(self) -> int:
        """End the pub/sub connections of all edges; how many."""
        return kill_pubsub(int(self.stack.redis_url.rpartition(":")[2].partition("/")[0]))

    async def join(self, exits: AsyncExitStack, user: str, edge: int) -> ChatClient:
        """A connected client of a user, that ends with `exits`."""
        client = await exits.enter_async_context(ChatClient(self.stack.ws_urls[edge], deadline_s=20))
        await client.connect(self.stack.token(user))
        return client
