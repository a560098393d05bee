"""Tokens and devices of ended sessions are gone, whatever fails for one."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from services.edge.api import requests as r
from services.edge.api.accounts import end_surplus
from services.edge.api.context import ApiContext
from services.edge.api.methods import revoke
from services.edge.api.users import end_sessions
from services.edge.domain.access.revocations import Revocation
from services.edge.domain.control.operations import Operation, execute
from services.edge.domain.control.revoker import Revoker
from services.edge.domain.conversations.methods import ChatMethods
from services.edge.domain.ports import TokenPair
from services.edge.domain.session.node import Node
from services.edge.domain.user_ports import EndedSessions
from services.shared.errors import ErrorCode, ThalamusError, Unavailable
from tests.support.chat_methods import CONV, ChatServer, chat_methods_of
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


def context_of(revoker: Revoker, chat: ChatMethods) -> ApiContext:
    return cast(ApiContext, SimpleNamespace(revoker=revoker, chat=chat))


def forgotten(server: ChatServer) -> list[tuple[str, list[str]]]:
    """Whose devices persistence was asked to forget, and of which sign-ins."""
    asked = [one for one in server.script.asked if one.method == "devices.forget_sessions"]
    return [(one["user"], one["sessions"]) for one in (msgspec.json.decode(one.params) for one in asked)]


@pytest.mark.parametrize("failing", [{"s0"}, {"s20"}, {"s0", "s7"}])
async def test_a_session_that_can_not_be_revoked_keeps_no_other_one(failing: set[str]) -> None:
    cluster = Cluster(conv=CONV)
    node = cluster.edge(ping_interval_s=0.0)
    names = [f"s{number}" for number in range(40)]
    clients = {name: await connected(cluster, node, "alice", claims={"sid": name}) for name in names}
    revoker = Revoker(node, cast(Any, Here(node)), cast(Any, FailingLog(failing)))
    async with ChatServer() as server:
        with pytest.raises(Unavailable):
            await end_sessions(context_of(revoker, server.methods(node)), "alice", EndedSessions(names, 600))
        assert forgotten(server) == [("alice", names)]
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
    async with asyncio.timeout(30):
        await end_surplus(context_of(revoker, chat_methods_of(node, cast(Any, None))), pair)
    assert all(client.closed is not None for client in clients)


async def test_devices_that_can_not_be_forgotten_keep_no_session() -> None:
    """Who asks hears of it, and may ask again; a login goes on."""
    cluster = Cluster(conv=CONV)
    node = cluster.edge(ping_interval_s=0.0)
    alice = await connected(cluster, node, "alice", claims={"sid": "s1"})
    revoker = Revoker(node, cast(Any, Here(node)), cast(Any, FailingLog(set())))
    async with ChatServer() as server:
        context = context_of(revoker, server.methods(node))
        server.script.refuse(100)
        with pytest.raises(ThalamusError) as refused:
            await end_sessions(context, "alice", EndedSessions(["s1"], 600))
        assert refused.value.code is ErrorCode.INTERNAL
        assert alice.closed is not None
        await end_surplus(context, TokenPair("access", 600, "refresh", "alice", "Alice", ("s2",)))
        assert forgotten(server) == [("alice", ["s1"]), ("alice", ["s2"])]
        server.script.refuse(104)  # a persistence of before, which has no devices
        await end_sessions(context, "alice", EndedSessions(["s1"], 600))


@pytest.mark.parametrize("fails", [False, True])
async def test_what_a_backend_revokes_has_no_devices_left(fails: bool) -> None:
    cluster = Cluster(conv=CONV)
    node = cluster.edge(ping_interval_s=0.0)
    revoker = Revoker(node, cast(Any, Here(node)), cast(Any, FailingLog({"s1", "alice", "t1"} if fails else set())))
    async with ChatServer() as server:
        context = context_of(revoker, server.methods(node))
        for request in (r.Revoke(session="s1"), r.Revoke(user="alice"), r.Revoke(token="t1")):
            with pytest.raises(Unavailable) if fails else contextlib.nullcontext():
                await revoke(context, request)
        asked = [(one.method, msgspec.json.decode(one.params)) for one in server.script.asked]
    assert asked == [
        ("devices.forget_sessions", {"user": "", "sessions": ["s1"]}),
        ("devices.forget", {"user": "alice"}),
    ]
