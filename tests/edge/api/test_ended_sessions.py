"""Tokens of ended sessions are refused, also if Redis or an edge fails for one."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from services.edge.api.accounts import end_surplus
from services.edge.api.users import end_sessions
from services.edge.domain.access.revocations import Revocation
from services.edge.domain.control.operations import Operation, execute
from services.edge.domain.control.revoker import Revoker
from services.edge.domain.ports import TokenPair
from services.edge.domain.session.node import Node
from services.edge.domain.user_ports import EndedSessions
from services.shared.errors import Unavailable
from tests.support.edge import Cluster, connected


class Here:
    """All edges, where there is one."""

    def __init__(self, node: Node) -> None:
        self.node = node

    async def everywhere(self, operation: Operation) -> list[dict[str, Any]]:
        return [await execute(self.node, operation)]


class FailingLog:
    """Redis, which does not answer about some sessions."""

    def __init__(self, failing: set[str]) -> None:
        self.failing = failing

    async def append(self, entry: Revocation) -> None:
        if entry.id in self.failing:
            raise Unavailable("Redis does not answer")


@pytest.mark.parametrize("failing", [{"s0"}, {"s20"}, {"s0", "s7"}])
async def test_a_session_that_can_not_be_revoked_keeps_no_other_one(failing: set[str]) -> None:
    cluster = Cluster()
    node = cluster.edge(ping_interval_s=0.0)
    names = [f"s{number}" for number in range(40)]
    clients = {name: await connected(cluster, node, "alice", claims={"sid": name}) for name in names}
    revoker = Revoker(node, cast(Any, Here(node)), cast(Any, FailingLog(failing)))
    context = cast(Any, SimpleNamespace(revoker=revoker))
    with pytest.raises(Unavailable):
        await end_sessions(context, "alice", EndedSessions(names, 600))
    assert {name for name, client in clients.items() if client.closed is None} == failing
    for name in names:
        is_refused = node.revocations.covers(user="alice", session=name, token="", issued_at=None)
        assert is_refused is (name not in failing)


class OneDoesNotAnswer(Here):
    """All edges, of which one does not answer: each command waits, then fails."""

    def __init__(self, node: Node, commands: int) -> None:
        super().__init__(node)
        self.all_there = asyncio.Barrier(commands)

    async def everywhere(self, operation: Operation) -> list[dict[str, Any]]:
        await super().everywhere(operation)
        await self.all_there.wait()
        raise Unavailable("1 of 2 edges did not answer")


async def test_a_login_waits_once_for_an_edge_that_does_not_answer_however_many_sessions_it_ends() -> None:
    cluster = Cluster()
    node = cluster.edge(ping_interval_s=0.0)
    names = tuple(f"s{number}" for number in range(10))
    clients = [await connected(cluster, node, "alice", claims={"sid": name}) for name in names]
    revoker = Revoker(node, cast(Any, OneDoesNotAnswer(node, len(names))), cast(Any, FailingLog(set())))
    pair = TokenPair("access", 600, "refresh", "alice", "Alice", names)
    async with asyncio.timeout(5):
        await end_surplus(cast(Any, SimpleNamespace(revoker=revoker)), pair)
    assert all(client.closed is not None for client in clients)
