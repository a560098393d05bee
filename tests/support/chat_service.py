"""A persistence on a real gRPC server that has conversations, or is one of before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from services.shared.rpc.server import GrpcServer, start_grpc_server
from tests.support.grpc import ScriptedLog
from thalamus.chat.v1 import chat_pb2 as pb
from thalamus.chat.v1.chat_pb2_grpc import ChatServiceServicer, add_ChatServiceServicer_to_server
from thalamus.common.v1.common_pb2 import Position
from thalamus.persistence.v1.persistence_pb2_grpc import add_PersistenceServiceServicer_to_server


class ScriptedConversations(ChatServiceServicer):
    """Answers are scripted: by the key of an event, by the user of a question."""

    def __init__(self) -> None:
        self.events: list[pb.EventItem] = []
        self.checks: list[tuple[str, str]] = []
        self.outcomes: dict[str, pb.EventResult] = {}
        self.access: dict[str, pb.CheckResult] = {}
        self.open = {"Append": 0, "Check": 0}
        self.opened = 0

    async def Append(self, requests: AsyncIterator[pb.EventBatch], context: Any) -> AsyncIterator[pb.EventResults]:
        self.open["Append"] += 1
        self.opened += 1
        number = 0
        try:
            async for batch in requests:
                results = []
                for item in batch.items:
                    self.events.append(item)
                    result = pb.EventResult(position=Position(offset=len(self.events), epoch="e"))
                    result.MergeFrom(self.outcomes.get(item.key, pb.EventResult()))
                    if result.HasField("refusal"):
                        result.ClearField("position")
                    result.item = number
                    results.append(result)
                    number += 1
                yield pb.EventResults(results=results, taken=number)
        finally:
            self.open["Append"] -= 1

    async def Call(self, request: pb.CallRequest, context: Any) -> pb.CallResponse:
        raise NotImplementedError

    async def Memberships(self, request: pb.MembershipsRequest, context: Any) -> pb.MembershipsResponse:
        raise NotImplementedError

    async def Check(self, requests: AsyncIterator[pb.CheckBatch], context: Any) -> AsyncIterator[pb.CheckResults]:
        self.open["Check"] += 1
        self.opened += 1
        number = 0
        try:
            async for batch in requests:
                results = []
                for item in batch.items:
                    self.checks.append((item.channel, item.user))
                    result = pb.CheckResult()
                    result.CopyFrom(self.access.get(item.user, pb.CheckResult()))
                    result.item = number
                    results.append(result)
                    number += 1
                yield pb.CheckResults(results=results, taken=number)
        finally:
            self.open["Check"] -= 1


class Replica:
    """One persistence, at an address that it keeps when it is updated or taken back."""

    def __init__(self, *, has_conversations: bool = True) -> None:
        self.log = ScriptedLog()
        self.chat = ScriptedConversations()
        self.has_conversations = has_conversations
        self._server: GrpcServer | None = None
        self.port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        def add(server: Any) -> None:
            add_PersistenceServiceServicer_to_server(self.log, server)
            if self.has_conversations:
                add_ChatServiceServicer_to_server(self.chat, server)

        self._server = await start_grpc_server(
            add, host="127.0.0.1", port=self.port, service_token=None, service="persistence"
        )
        self.port = self._server.port

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0.0)
            self._server = None

    async def becomes(self, *, has_conversations: bool) -> None:
        """Another version is started at the same address."""
        await self.stop()
        self.has_conversations = has_conversations
        await asyncio.sleep(0.05)
        await self.start()
