"""Asks the presence service who is in a channel, where a user is, who is online."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import grpc

from services.edge.adapters import publication_codec as codec
from services.edge.domain.model import ClientInfo, PresenceStats
from services.edge.domain.presence_ports import ChannelsPage, MembersPage, UserOnline
from services.shared.errors import ErrorCode, ThalamusError, Unavailable
from services.shared.rpc.replicas import Replicas
from thalamus.presence.v1 import presence_pb2 as pb
from thalamus.presence.v1.presence_pb2_grpc import PresenceServiceStub

_T = TypeVar("_T")
RESPONSE_S = 0.9  # longest wait for a response, seconds


class PresenceQueries:
    """The reads of `Presence`, see services/edge/domain/presence_ports.py."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas
        self._connected = False  # a replica answers
        self._tried = False  # whether one answers is known

    def _check(self) -> None:
        if self._tried and not self._connected:
            raise Unavailable("presence does not answer")

    async def _ask(self, call: Callable[[grpc.aio.Channel], Awaitable[_T]]) -> _T:
        try:
            return await self._replicas.call(call, RESPONSE_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise Unavailable("presence is of an earlier version") from error
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                raise ThalamusError(error.details() or "not allowed", ErrorCode.BAD_REQUEST) from error
            raise

    async def members(self, channel: str) -> Sequence[ClientInfo]:
        self._check()
        request = pb.MembersRequest(channel=channel)

        async def call(replica: grpc.aio.Channel) -> list[ClientInfo]:
            pages = PresenceServiceStub(replica).Members(request, timeout=RESPONSE_S)
            return [codec.decode_info(member) async for page in pages for member in page.members]

        return await self._ask(call)

    async def page(self, channel: str, *, limit: int, cursor: str) -> MembersPage:
        self._check()
        request = pb.ListMembersRequest(channel=channel, limit=limit, cursor=cursor)

        async def call(replica: grpc.aio.Channel) -> pb.ListMembersResponse:
            return await PresenceServiceStub(replica).ListMembers(request, timeout=RESPONSE_S)

        found = await self._ask(call)
        return MembersPage([codec.decode_info(member) for member in found.members], found.cursor)

    async def stats(self, channel: str) -> PresenceStats:
        (found,) = await self.stats_of([channel])
        return found

    async def stats_of(self, channels: Sequence[str]) -> list[PresenceStats]:
        self._check()
        request = pb.StatsRequest(channels=channels)

        async def call(replica: grpc.aio.Channel) -> pb.StatsResponse:
            return await PresenceServiceStub(replica).Stats(request, timeout=RESPONSE_S)

        found = await self._ask(call)
        return [PresenceStats(one.num_clients, one.num_users) for one in found.channels]

    async def channels_of(self, user: str, *, limit: int, cursor: str) -> ChannelsPage:
        self._check()
        request = pb.ChannelsRequest(user=user, limit=limit, cursor=cursor)

        async def call(replica: grpc.aio.Channel) -> pb.ChannelsResponse:
            return await PresenceServiceStub(replica).Channels(request, timeout=RESPONSE_S)

        found = await self._ask(call)
        return ChannelsPage(list(found.channels), found.cursor)

    async def online_of(self, users: Sequence[str]) -> list[UserOnline]:
        self._check()
        request = pb.OnlineRequest(users=users)

        async def call(replica: grpc.aio.Channel) -> pb.OnlineResponse:
            return await PresenceServiceStub(replica).Online(request, timeout=RESPONSE_S)

        found = await self._ask(call)
        return [UserOnline(one.connections, one.away, one.since_ms, one.last_seen_ms) for one in found.users]
