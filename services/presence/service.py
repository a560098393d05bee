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
* The connections of a user are a roster, too. A service of an earlier version takes none; `version` of an answer says
  what this one takes.
* Times are those of presence's own clock in Redis, which never goes back.

**Example.** edge-1 holds generation 7 with three members and is cut off for 20 s; a lease takes 12 s. The sweeper
removes the three members and publishes three leaves. When edge-1 is back, its batch under generation 7 is refused. It
takes generation 8 and enters its three members again.

**Trade-offs.** Members of a crashed edge are shown until its lease has run out. Time in which nobody sweeps does not
count, so after an outage of presence this takes up to one more lease.

Decisions: docs/decisions/0003 (reconciliation), docs/decisions/0026 (the clock of presence), docs/decisions/0045
(connections of users, pages, lifecycle events).
"""

from __future__ import annotations

import base64
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

from services.presence.domain.ports import ALL_EVENTS, Change, Enter, Lease, Leave, Lost, Roster, connections_of
from services.presence.metrics import BATCH_ITEMS, LEASES_LOST
from services.shared.checks import MAX_CLIENT_BYTES, MAX_USER_BYTES, check_channel, check_id, check_number, check_text
from services.shared.errors import ErrorCode, ThalamusError, Unavailable
from services.shared.json_text import well_formed_json
from services.shared.namespaces import MAX_PRESENCE_GRACE_S
from services.shared.process.log_limit import RateLimitedLog
from thalamus.common.v1 import common_pb2
from thalamus.presence.v1 import presence_pb2 as pb
from thalamus.presence.v1 import presence_pb2_grpc as rpc

_MAX_CHANGES = 256  # in one batch
_MAX_CHANNELS = 1_000  # in one Stats request
_MAX_USERS = 1_000  # in one Online request
_PAGE = 1_000  # members, or channels, in one page
_PAGE_BYTES = 1_048_576
_MAX_EDGE_BYTES = 64
_MAX_GENERATION = 2**53  # Redis scripts compare it as a Lua number, which is exact up to here
_MEMBERS_TAG = b"\x0a"  # of MembersPage and ListMembersResponse: field 1, with a length
_VERSION = 1  # of what this service understands; see ChangeResults in presence.proto
_HEARTBEATS = 3  # per lease: one may be lost, and the next may be late
_log_refused = RateLimitedLog(logging.getLogger(__name__), logging.WARNING)


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
        A change that is not allowed is refused alone (`INVALID`).
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
        changes, statuses = [], []
        for change in batch.changes:
            try:
                changes.append(_checked(change))
                statuses.append(common_pb2.ITEM_STATUS_OK)
            except ThalamusError as error:  # the edge would send it again for ever, and no other change
                _log_refused("a change was refused", edge=lease.edge, error=str(error))
                statuses.append(common_pb2.ITEM_STATUS_INVALID)
        answer = pb.ChangeResults(heartbeat_s=self._heartbeat_s, version=_VERSION)
        try:
            renewal = await self._roster.renew(
                lease, self._lease_ttl_s, held=batch.lease.held, roster=batch.lease.roster
            )
            answer.roster = renewal.roster
            granted = renewal.granted
            if granted and changes:
                BATCH_ITEMS.observe(len(changes))
                granted = await self._roster.change(lease, changes)
        except Unavailable:
            count = max(1, len(batch.changes))  # a heartbeat gets one status too
            return pb.ChangeResults(statuses=[common_pb2.ITEM_STATUS_UNAVAILABLE] * count, version=_VERSION)
        if granted:
            answer.statuses.extend(statuses)
        else:
            LEASES_LOST.inc()
            answer.lease_lost = True
        return answer

    async def Members(self, request: pb.MembersRequest, context: Any) -> AsyncIterator[pb.MembersPage]:
        """Send the members of a channel in pages of at most 1,000 members and 1 MiB.

        A single member may be larger than 1 MiB; its page has no other.
        """
        check_channel(request.channel)
        async for found in self._roster.members(request.channel):
            page, size = list[bytes](), 0
            for info in found:
                size += len(info)
                if page and (len(page) == _PAGE or size > _PAGE_BYTES):
                    yield pb.MembersPage.FromString(_members(page))
                    page, size = [], len(info)
                page.append(info)
            yield pb.MembersPage.FromString(_members(page))

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

    async def ListMembers(self, request: pb.ListMembersRequest, context: Any) -> pb.ListMembersResponse:
        """Return one page of the members of a channel: at most 1,000, and 1 MiB."""
        check_channel(request.channel)
        found = await self._roster.page(request.channel, _after(request.cursor), _limit(request.limit))
        response = pb.ListMembersResponse.FromString(_members(found.members))
        response.cursor = _cursor(found.after)
        return response

    async def Channels(self, request: pb.ChannelsRequest, context: Any) -> pb.ChannelsResponse:
        """Return one page of the channels that a user is in."""
        check_text("user", request.user, MAX_USER_BYTES, least=1)
        found = await self._roster.channels(request.user, _after(request.cursor), _limit(request.limit))
        return pb.ChannelsResponse(channels=found.channels, cursor=_cursor(found.after))

    async def Online(self, request: pb.OnlineRequest, context: Any) -> pb.OnlineResponse:
        """Return what is known of the connections of users, in their order."""
        if len(request.users) > _MAX_USERS:
            raise ThalamusError("too many users", ErrorCode.BAD_REQUEST)
        for user in request.users:
            check_text("user", user, MAX_USER_BYTES, least=1)
        return pb.OnlineResponse(
            users=[pb.UserOnline(**one._asdict()) for one in await self._roster.online(request.users)]
        )


def _members(infos: Sequence[bytes]) -> bytes:
    """Return the bytes of a message whose field 1, `members`, has these ClientInfos.

    They are put one after another as protobuf does it, for none has to be read to be passed on: a page of 1,000 takes
    60 µs instead of 700.
    """
    parts = list[bytes]()
    for info in infos:
        parts += (_MEMBERS_TAG, _varint(len(info)), info)
    return b"".join(parts)


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


def _limit(limit: int) -> int:
    check_number("limit", limit, 0, _PAGE)
    return limit or _PAGE


def _cursor(after: str) -> str:
    return base64.urlsafe_b64encode(after.encode()).decode()


def _after(cursor: str) -> str:
    """Return the id or name that a cursor stands for.

    Raises:
        ThalamusError: no page had this cursor.
    """
    try:
        return base64.b64decode(cursor, altchars=b"-_", validate=True).decode()
    except ValueError as error:
        raise ThalamusError("no page has this cursor", ErrorCode.BAD_REQUEST) from error


def _checked(change: pb.Change) -> Change:
    """Check a change and return it for the roster; its texts reach other clients.

    Raises:
        ThalamusError: a part of it is not allowed.
    """
    info = change.info
    check_id("client", info.client, MAX_CLIENT_BYTES)
    check_text("user", info.user, MAX_USER_BYTES, least=int(change.online))
    if change.online and change.channel:
        raise ThalamusError("a user's connection is in no channel", ErrorCode.BAD_REQUEST)
    if not change.online:
        check_channel(change.channel)
    for text in filter(None, (info.conn_info, info.chan_info)):
        well_formed_json(text)
    roster = connections_of(info.user) if change.online else change.channel
    match change.WhichOneof("what"):
        case "leave":
            return _leave(roster, info, change.leave)
        case "enter":
            return _enter(roster, info, change.enter)
        case _:
            raise ThalamusError("a change that is neither enter nor leave", ErrorCode.BAD_REQUEST)


def _enter(roster: str, info: common_pb2.ClientInfo, enter: pb.Enter) -> Enter:
    check_number("grace_s", enter.grace_s, 0, MAX_PRESENCE_GRACE_S)
    check_number("since_ms", enter.since_ms, 0, _MAX_GENERATION)
    return Enter(
        roster,
        info.client,
        info.user,
        info.SerializeToString(),
        enter.announce,
        enter.grace_s,
        known=enter.known,
        by_user=enter.by_user,
        events=enter.events & ALL_EVENTS,
        updated=enter.updated,
        away=enter.away,
        since_ms=enter.since_ms,
    )


def _leave(roster: str, info: common_pb2.ClientInfo, leave: pb.Leave) -> Leave:
    check_number("at_most_s", leave.at_most_s, 0, MAX_PRESENCE_GRACE_S)
    lost = None
    if leave.known or leave.events:
        lost = Lost(info.SerializeToString(), info.user, leave.known, leave.events & ALL_EVENTS, leave.by_user)
    return Leave(roster, info.client, leave.clean, lost, leave.at_most_s)
