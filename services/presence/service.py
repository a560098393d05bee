"""gRPC face: protobuf in and out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from services.presence.domain.ports import Change, Enter, Lease, Leave, Roster
from services.presence.metrics import BATCH_ITEMS, LEASES_LOST
from services.shared.checks import MAX_CLIENT_BYTES, MAX_USER_BYTES, check_channel, check_id, check_number, check_text
from services.shared.errors import ErrorCode, ThalamusError, Unavailable
from services.shared.json_text import well_formed_json
from services.shared.namespaces import MAX_PRESENCE_GRACE_S
from thalamus.common.v1 import common_pb2
from thalamus.presence.v1 import presence_pb2 as pb
from thalamus.presence.v1 import presence_pb2_grpc as rpc

_MAX_CHANGES = 256
_MAX_CHANNELS = 1_000
_PAGE = 1_000
_PAGE_BYTES = 1_048_576
_MAX_EDGE_BYTES = 64
_MAX_GENERATION = 2**53  # Redis compares it as a number of Lua
_HEARTBEATS = 3  # in a lease: one may be lost, and the next be late


class PresenceServicer(rpc.PresenceServiceServicer):
    """Holds nothing: the roster is in Redis."""

    def __init__(self, roster: Roster, lease_ttl_s: float) -> None:
        self._roster = roster
        self._lease_ttl_s = lease_ttl_s
        self._heartbeat_s = lease_ttl_s / _HEARTBEATS

    async def Change(
        self, request_iterator: AsyncIterator[pb.ChangeBatch], context: Any
    ) -> AsyncIterator[pb.ChangeResults]:
        """One answer per batch, in order."""
        async for batch in request_iterator:
            yield await self._change(batch)

    async def _change(self, batch: pb.ChangeBatch) -> pb.ChangeResults:
        if len(batch.changes) > _MAX_CHANGES:
            raise ThalamusError("too many changes in a batch", ErrorCode.BAD_REQUEST)
        check_id("edge of the lease", batch.lease.edge, _MAX_EDGE_BYTES)
        if " " in batch.lease.edge:  # entries of the roster begin with it and a blank
            raise ThalamusError("edge of the lease not allowed", ErrorCode.BAD_REQUEST)
        check_number("generation", batch.lease.generation, 0, _MAX_GENERATION)
        check_text("roster", batch.lease.roster, _MAX_EDGE_BYTES)
        lease = Lease(batch.lease.edge, batch.lease.generation)
        changes = [_change(change) for change in batch.changes]
        try:
            renewal = await self._roster.renew(
                lease, self._lease_ttl_s, held=batch.lease.held, roster=batch.lease.roster
            )
            if not renewal.granted:
                LEASES_LOST.inc()
                return pb.ChangeResults(lease_lost=True, heartbeat_s=self._heartbeat_s, roster=renewal.roster)
            if changes:
                BATCH_ITEMS.observe(len(changes))
                await self._roster.change(lease, changes)
        except Unavailable:
            count = max(1, len(batch.changes))  # for a heartbeat, too
            return pb.ChangeResults(statuses=[common_pb2.ITEM_STATUS_UNAVAILABLE] * count)
        statuses = [common_pb2.ITEM_STATUS_OK] * len(batch.changes)
        return pb.ChangeResults(statuses=statuses, heartbeat_s=self._heartbeat_s, roster=renewal.roster)

    async def Members(self, request: pb.MembersRequest, context: Any) -> AsyncIterator[pb.MembersPage]:
        """Pages of at most 1,000, and of at most 1 MiB unless one alone has more."""
        check_channel(request.channel)
        async for found in self._roster.members(request.channel):
            page, size = pb.MembersPage(), 0
            for info in found:
                size += len(info)
                if page.members and (len(page.members) == _PAGE or size > _PAGE_BYTES):
                    yield page
                    page, size = pb.MembersPage(), len(info)
                page.members.append(common_pb2.ClientInfo.FromString(info))
            yield page

    async def Stats(self, request: pb.StatsRequest, context: Any) -> pb.StatsResponse:
        """Counts in order of the channels."""
        if len(request.channels) > _MAX_CHANNELS:
            raise ThalamusError("too many channels", ErrorCode.BAD_REQUEST)
        for channel in request.channels:
            check_channel(channel)
        counts = await self._roster.stats(list(request.channels))
        return pb.StatsResponse(
            channels=[pb.ChannelStats(num_clients=clients, num_users=users) for clients, users in counts]
        )


def _change(change: pb.Change) -> Change:
    """The change as the roster takes it; what is in it reaches other clients, so it must be sound.

    Raises:
        ThalamusError: a member of it is not allowed.
    """
    info = change.info
    check_channel(change.channel)
    check_id("client", info.client, MAX_CLIENT_BYTES)
    check_text("user", info.user, MAX_USER_BYTES)
    for text in filter(None, (info.conn_info, info.chan_info)):
        well_formed_json(text)
    match change.WhichOneof("what"):
        case "leave":
            lost_info = info.SerializeToString() if change.leave.known else b""
            return Leave(change.channel, info.client, change.leave.clean, lost_info)
        case "enter":
            check_number("grace_s", change.enter.grace_s, 0, MAX_PRESENCE_GRACE_S)
            enter, announced = change.enter, info.SerializeToString()
            return Enter(change.channel, info.client, info.user, announced, enter.announce, enter.grace_s, enter.known)
        case _:
            raise ThalamusError("a change that is neither enter nor leave", ErrorCode.BAD_REQUEST)
