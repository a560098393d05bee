"""Asks persistence in which conversations users are members."""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from services.shared.errors import Unavailable
from services.shared.rpc.replicas import Replicas
from thalamus.chat.v1 import chat_pb2 as pb
from thalamus.chat.v1.chat_pb2_grpc import ChatServiceStub

_DEADLINE_S = 2.5  # of a call, seconds


class MembershipsClient:
    """Implements `Memberships`, see services/edge/domain/profiles/announcer.py."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas

    async def channels_of(self, users: Sequence[str]) -> dict[str, Sequence[str]]:
        request = pb.MembershipsRequest(users=users)

        async def call(replica: grpc.aio.Channel) -> pb.MembershipsResponse:
            return await ChatServiceStub(replica).Memberships(request, timeout=_DEADLINE_S)

        try:
            found = await self._replicas.call(call, _DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            raise Unavailable(f"persistence does not tell of memberships: {error.code().name}") from error
        return {user: one.channels for user, one in zip(users, found.users, strict=False)}
