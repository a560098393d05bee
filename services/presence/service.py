"""gRPC face: protobuf in and out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from services.presence.domain.ports import Change, Enter, Lease, Leave, Roster
from services.presence.metrics import BATCH_ITEMS, LEASES_LOST
from services.shared.errors import ErrorCode, ThalamusError, Unavailable
from thalamus.common.v1 import common_pb2
from thalamus.presence.v1 import presence_pb2 as pb
from thalamus.presence.v1 import presence_pb2_grpc as rpc

_MAX_CHANGES = 256
_MAX_CHANNELS = 1_000
_PAGE = 1_000


class PresenceServicer(rpc.PresenceServiceServicer):
    """Holds nothing: the roster is in Redis."""

    def __init__(self, roster: Roster, lease_ttl_s: float) -> None:
        self._roster = roster
        self._lease_ttl_s = lease_ttl_s

    async def Change(
        self, request_iterator: AsyncIterator[pb.ChangeBatch], context: Any
    ) -> AsyncIterator[pb.ChangeResults]:
        """One answer per batch, in order."""
        async for batch in request_iterator:
            yield await self._change(batch)

    async def _change(self, batch: pb.ChangeBatch) -> pb.ChangeResults:
        if len(batch.changes) > _MAX_CHANGES or not batch.lease.edge:
            raise ThalamusError("a batch without lease, or too long", ErrorCode.BAD_REQUEST)
        lease = Lease(batch.lease.edge, batch.lease.generation)
        try:
            if not await self._roster.renew(lease, self._lease_ttl_s, held=batch.lease.held):
                LEASES_LOST.inc()
                return pb.ChangeResults(lease_lost=True)
            if batch.changes:
                BATCH_ITEMS.observe(len(batch.changes))
                await self._roster.change(lease, [_change(change) for change in batch.changes])
        except Unavailable:
            return pb.ChangeResults(statuses=[common_pb2.ITEM_STATUS_UNAVAILABLE] * len(batch.changes))
        return pb.ChangeResults(statuses=[common_pb2.ITEM_STATUS_OK] * len(batch.changes))

    async def Members(self, request: pb.MembersRequest, context: Any) -> AsyncIterator[pb.MembersPage]:
        """Pages of at most 1,000."""
        async for page in self._roster.members(request.channel):
            for start in range(0, len(page), _PAGE):
                members = [common_pb2.ClientInfo.FromString(info) for info in page[start : start + _PAGE]]
                yield pb.MembersPage(members=members)

    async def Stats(self, request: pb.StatsRequest, context: Any) -> pb.StatsResponse:
        """Counts in order of the channels."""
        if len(request.channels) > _MAX_CHANNELS:
            raise ThalamusError("too many channels", ErrorCode.BAD_REQUEST)
        counts = await self._roster.stats(list(request.channels))
        return pb.StatsResponse(
            channels=[pb.ChannelStats(num_clients=clients, num_users=users) for clients, users in counts]
        )


def _change(change: pb.Change) -> Change:
    if not change.channel or not change.info.client:
        raise ThalamusError("a change without channel or client", ErrorCode.BAD_REQUEST)
    if change.WhichOneof("what") == "leave":
        return Leave(change.channel, change.info.client, change.leave.clean)
    return Enter(
        change.channel,
        change.info.client,
        change.info.user,
        change.info.SerializeToString(),
        change.enter.announce,
        change.enter.grace_s,
    )
