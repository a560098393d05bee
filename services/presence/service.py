"""gRPC service of presence: checks requests, and keeps the rosters of channels.

**Purpose.** A roster says which clients are in a channel, for all edges. An edge can crash, or lose its connection to
presence or Redis, at any moment. The roster must become right again without anybody knowing what was missed.

**Rules.**

* Edges hold leases, not clients. Every batch of changes renews the edge's lease; an empty batch is a heartbeat. An edge
  sends one at least every third of a lease, so that one may be lost and the next may be late.
* A lease has a generation. A generation whose lease ran out or was lost is never renewed: its batches are refused as a
  whole (`lease_lost`). The edge takes the next generation and enters all its members again (reconciliation).
* An entry belongs to one edge and one generation. A change that arrives late under an older generation replaces and
  removes nothing.
* The sweeper removes the members of generations that ended, and publishes one leave each (domain/sweeper.py).
* A member that leaves without a clean end stays for its grace, or for a shorter one that the edge names. If the same
  user enters meanwhile, the new client takes the member's place, and neither a leave nor a join is published.
* Redis names the roster that it holds. A new name means that Redis lost its data: edges enter their members as known,
  so that no second join is published.
* Times are those of presence's own clock in Redis, which never goes back.

**Example.** edge-1 holds generation 7 with three members and is cut off for 20 s; a lease takes 12 s. The sweeper
removes the three members and publishes three leaves. When edge-1 is back, its batch under generation 7 is refused. It
takes generation 8 and enters its three members again.

**Trade-offs.** Members of a crashed edge are shown until its lease has run out. Time in which nobody sweeps does not
count, so after an outage of presence this takes up to one more lease.

Decisions: docs/decisions/0003 (reconciliation), docs/decisions/0026 (the clock of presence).
"""

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

_MAX_CHANGES = 256  # in one batch
_MAX_CHANNELS = 1_000  # in one Stats request
_PAGE = 1_000  # members in one page
_PAGE_BYTES = 1_048_576
_MAX_EDGE_BYTES = 64
_MAX_GENERATION = 2**53  # Redis scripts compare it as a Lua number, which is exact up to here
_HEARTBEATS = 3  # per lease: one may be lost, and the next may be late


class PresenceServicer(rpc.PresenceServiceServicer):
    """gRPC servicer of presence. It holds no state: the rosters are in Redis."""

    def __init__(self, roster: Roster, lease_ttl_s: float) -> None:
        self._roster = roster
        self._lease_ttl_s = lease_ttl_s
        self._heartbeat_s = lease_ttl_s / _HEARTBEATS

    async def Change(
        self, request_iterator: AsyncIterator[pb.ChangeBatch], context: Any
    ) -> AsyncIterator[pb.ChangeResults]:
        """Renew the lease of the edge with each batch, and apply its changes.

        Yields one answer per batch, in order. A batch whose lease is lost is refused as a whole (`lease_lost`).
        """
        async for batch in request_iterator:
            yield await self._apply(batch)

    async def _apply(self, batch: pb.ChangeBatch) -> pb.ChangeResults:
        if len(batch.changes) > _MAX_CHANGES:
            raise ThalamusError("too many changes in a batch", ErrorCode.BAD_REQUEST)
        check_id("edge of the lease", batch.lease.edge, _MAX_EDGE_BYTES)
        if " " in batch.lease.edge:  # roster entries begin with the edge and a space
            raise ThalamusError("edge of the lease not allowed", ErrorCode.BAD_REQUEST)
        check_number("generation", batch.lease.generation, 0, _MAX_GENERATION)
        check_text("roster", batch.lease.roster, _MAX_EDGE_BYTES)
        lease = Lease(batch.lease.edge, batch.lease.generation)
        changes = [_checked(change) for change in batch.changes]
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
            count = max(1, len(batch.changes))  # a heartbeat gets one status too
            return pb.ChangeResults(statuses=[common_pb2.ITEM_STATUS_UNAVAILABLE] * count)
        statuses = [common_pb2.ITEM_STATUS_OK] * len(batch.changes)
        return pb.ChangeResults(statuses=statuses, heartbeat_s=self._heartbeat_s, roster=renewal.roster)

    async def Members(self, request: pb.MembersRequest, context: Any) -> AsyncIterator[pb.MembersPage]:
        """Send the members of a channel in pages of at most 1,000 members and 1 MiB.

        A single member may be larger than 1 MiB; its page has no other.
        """
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
        """Return the counts of clients and users, in the order of the channels."""
        if len(request.channels) > _MAX_CHANNELS:
            raise ThalamusError("too many channels", ErrorCode.BAD_REQUEST)
        for channel in request.channels:
            check_channel(channel)
        counts = await self._roster.stats(list(request.channels))
        return pb.StatsResponse(
            channels=[pb.ChannelStats(num_clients=clients, num_users=users) for clients, users in counts]
        )


def _checked(change: pb.Change) -> Change:
    """Check a change and return it for the roster; its texts reach other clients.

    Raises:
        ThalamusError: a part of it is not allowed.
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
            check_number("at_most_s", change.leave.at_most_s, 0, MAX_PRESENCE_GRACE_S)
            return Leave(change.channel, info.client, change.leave.clean, lost_info, change.leave.at_most_s)
        case "enter":
            check_number("grace_s", change.enter.grace_s, 0, MAX_PRESENCE_GRACE_S)
            enter, announced = change.enter, info.SerializeToString()
            return Enter(change.channel, info.client, info.user, announced, enter.announce, enter.grace_s, enter.known)
        case _:
            raise ThalamusError("a change that is neither enter nor leave", ErrorCode.BAD_REQUEST)
