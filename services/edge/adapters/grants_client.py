"""Client of the auth service for grants of users; implements `GrantStore`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import grpc

from services.edge.adapters.account_refusals import NotOffered, refused
from services.edge.adapters.auth_client import CALL_S
from services.edge.domain.access.channel_patterns import WILDCARD
from services.edge.domain.access.grants import NEVER, Grant, Operation
from services.edge.domain.ports import AccountRefused
from services.shared.errors import ThalamusError
from services.shared.rpc.replicas import Replicas
from thalamus.auth.v1 import auth_pb2 as pb
from thalamus.auth.v1.auth_pb2_grpc import AuthServiceStub

if TYPE_CHECKING:
    from thalamus.auth.v1.auth_pb2_grpc import AuthServiceAsyncStub

Reply = TypeVar("Reply")
_KNOWN = frozenset(Operation)


class GrantsClient:
    """See `GrantStore` in domain/ports.py."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas

    async def grants_of(self, user: str) -> Sequence[Grant] | None:
        request = pb.ListGrantsRequest(user=user)
        try:
            reply = await self._call(lambda stub: stub.ListGrants(request, timeout=CALL_S))
        except NotOffered:
            return None
        return [
            Grant(row.channel, Operation(row.operation), row.expires_at or NEVER, WILDCARD in row.channel)
            for row in reply.grants
            if row.operation in _KNOWN  # a newer auth may have more
        ]

    async def give_grants(
        self, user: str, channels: Sequence[str], operations: Sequence[Operation], until: float
    ) -> None:
        request = pb.GiveGrantsRequest(
            user=user, channels=channels, operations=operations, expires_at=0.0 if until == NEVER else until
        )
        await self._call(lambda stub: stub.GiveGrants(request, timeout=CALL_S))

    async def take_grants(self, user: str, channels: Sequence[str], operations: Sequence[Operation]) -> None:
        request = pb.TakeGrantsRequest(user=user, channels=channels, operations=operations)
        await self._call(lambda stub: stub.TakeGrants(request, timeout=CALL_S))

    async def _call(self, ask: Callable[[AuthServiceAsyncStub], Awaitable[Reply]]) -> Reply:
        async def call(channel: grpc.aio.Channel) -> Reply:
            return await ask(AuthServiceStub(channel))

        try:
            return await self._replicas.call(call, CALL_S)
        except grpc.aio.AioRpcError as error:
            refusal = refused(error)
            if isinstance(refusal, AccountRefused):
                raise ThalamusError(str(refusal), refusal.code) from error
            raise refusal from error
