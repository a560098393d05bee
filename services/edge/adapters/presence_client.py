"""Client of the presence service: reconciles the roster with what this edge wants.

**Purpose.** The roster of a channel says which clients are in it. Each edge reports its own clients. If it sent one
event per join and leave, somebody would have to find out after every outage which events were lost. So the edge keeps
the roster that it wants, and sends what presence has not confirmed yet, for as long as that takes.

**State.** `_wanted` holds the members that should be on rosters, `_leaving` the leaves that are not confirmed, `_dirty`
the keys (channel, client) that are to be sent. `enter` and `leave` only change these, so they never fail. One task
sends batches of dirty keys over a stream; an empty batch is the heartbeat of the edge's lease.

**Rules.**

1. One batch is in flight at a time, so no change of a member is overtaken by an older one.
2. An entry belongs to its `owner`, a subscription. The late leave of an older owner does not remove the entry of a
   newer one.
3. Members live under a generation of the lease. A lease that ran out is never renewed: the next generation begins, and
   all members and leaves are sent again. What only the old generation has is removed by presence.
4. A batch with an unknown outcome (the stream broke, no response came in time, presence could not reach Redis) may
   still be executed later. So it ends the generation, too: a late change under an old generation has no effect.
5. Redis names the roster that it holds. If the name has changed, Redis lost the roster. Entries that were on the old
   one are then sent as `known`, so that no second join is published.
6. More than 100,000 unconfirmed leaves are dropped, and a new generation begins: presence removes them with the lease.
7. A presence of an earlier version refuses batches with connections of users. So a stream's first batch has none: its
   answer says the version. They wait while presence is older, and are sent under a new generation when it is newer
   again, with all others: the older one did not write all that the newer one writes of a member.
8. Nobody waits for connections of users. So a batch of nothing else waits for more of them, 0.2 s at most: when many
   clients come, one batch has many.

**Example.** While presence is down, a client joins, leaves and joins again. When presence is back, one entry is sent.

**Trade-offs.** Each edge keeps all its members in memory, and sends all of them again when a generation begins.
Not a `Batcher` (`services/shared/batching`): only the last state of a member counts, and it has no deadline.
See docs/decisions/0003.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection

import grpc
from prometheus_client import Counter, Gauge

from services.edge.adapters.presence_entries import Entry, enter_of, leave_of
from services.edge.adapters.presence_queries import RESPONSE_S, PresenceQueries
from services.edge.domain.model import ClientInfo
from services.shared.errors import Unavailable
from services.shared.namespaces import ChannelEvent
from services.shared.process.backoff import Backoff
from services.shared.process.cancellation import end_task, is_being_cancelled
from services.shared.rpc.replicas import Replicas
from thalamus.common.v1 import common_pb2
from thalamus.presence.v1 import presence_pb2 as pb
from thalamus.presence.v1.presence_pb2_grpc import PresenceServiceStub

logger = logging.getLogger(__name__)

BATCH_S = 2.5  # deadline of a batch, seconds
HEARTBEAT_S = 4.0  # longest pause between batches, seconds, unless presence says another
MAX_LEAVES = 100_000  # unconfirmed leaves; beyond, they are dropped and a new generation begins
_MAX_BATCH = 256  # changes per batch, as the service allows
_MAX_BATCH_BYTES = 262_144  # of the members in a batch, unless one alone is larger: joins reach clients in such frames
_LINGER_S = 0.2  # how long a batch that has only connections of users waits for more, seconds
_PAUSE_S = (0.05, 1.0)  # first and longest pause before the stream is opened again, seconds
_EVENTS = {  # see Enter in presence.proto
    ChannelEvent.JOIN: 1,
    ChannelEvent.LEAVE: 2,
    ChannelEvent.UPDATE: 4,
    ChannelEvent.OCCUPIED: 8,
    ChannelEvent.VACATED: 16,
}
_ACTIVE, _AWAY = (b'{"state":"%s"}' % state for state in (b"active", b"away"))  # lifecycle events tell it
_CONNECTIONS = "/"  # before a user, in place of a channel, which has no such character: the connections of the user
_Key = tuple[str, str]  # channel, client
_MEMBERS = Gauge("thalamus_edge_presence_members", "Members that this edge has, or wants to have, on rosters.")
_PENDING = Gauge("thalamus_edge_presence_pending", "Changes not yet sent to presence.")
_CONNECTED = Gauge("thalamus_edge_presence_connected", "Whether presence answers this edge: 1 or 0.")
_LOST = Counter("thalamus_edge_presence_leases_lost", "Leases that ran out; all members were entered again.")


_DONE = {common_pb2.ITEM_STATUS_OK, common_pb2.ITEM_STATUS_INVALID}  # of changes that need not be sent again
_BROKEN = (Unavailable, TimeoutError, grpc.aio.AioRpcError, asyncio.InvalidStateError)


class PresenceClient(PresenceQueries):
    """The members of this edge; keeps presence up to date in the background."""

    def __init__(self, replicas: Replicas, edge_id: str) -> None:
        super().__init__(replicas)
        self._edge_id = edge_id
        self._heartbeat_s = HEARTBEAT_S
        self._roster = ""  # name of the roster that Redis holds
        self._generation = 1
        self._held = False  # presence has granted the lease of this generation
        self._wanted: dict[_Key, Entry] = {}
        self._leaving: dict[_Key, Entry] = {}
        self._dirty: dict[_Key, None] = {}
        self._held_back: dict[_Key, None] = {}  # dirty, and not for the presence at this stream's end
        self._in_flight: frozenset[_Key] = frozenset()
        self._waiting: dict[_Key, list[asyncio.Future[None]]] = {}
        self._wake_up = asyncio.Event()
        self._hurry = asyncio.Event()  # some of what is dirty is not to wait
        self._task: asyncio.Task[None] | None = None
        self._version = -1  # of the presence that the last stream led to; -1: it has not answered
        self._takes_connections = False  # the presence at this stream's end takes connections of users

    async def start(self) -> None:
        """Open the stream and keep the lease, in the background."""
        _PENDING.set_function(lambda: len(self._dirty))
        _CONNECTED.set_function(lambda: self._connected)
        self._replicas.on_change(self._wake_up.set)
        self._task = asyncio.create_task(self._keep())

    async def close(self, timeout_s: float = 1.0) -> None:
        """Send unconfirmed changes for at most `timeout_s`, then stop.

        The lease of this edge runs out by itself.
        """
        self._hurry.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while (self._dirty or self._in_flight) and self._connected:
                    await asyncio.sleep(0.01)
        if self._task is not None:
            await end_task(self._task)

    def heartbeat_now(self) -> None:
        """Send a heartbeat now: Redis may have lost the roster."""
        self._wake_up.set()

    # `Presence`, see domain/ports.py.

    def enter(
        self,
        channel: str,
        info: ClientInfo,
        *,
        owner: object,
        announce: bool,
        grace_s: float,
        by_user: bool = False,
        events: Collection[ChannelEvent] = (),
        updated: bool = False,
    ) -> None:
        written = sum(bit for event, bit in _EVENTS.items() if event in events)
        entry = Entry(info, owner, announce, grace_s, "", by_user=by_user, events=written, updated=updated)
        self._want((channel, info.client), entry)

    def leave(self, channel: str, client: str, *, owner: object, stays_s: float) -> None:
        self._take_off((channel, client), owner, stays_s)

    def online(
        self, user: str, client: str, *, since_ms: int, away: bool = False, grace_s: float = 0.0, events: bool = False
    ) -> None:
        if user:
            written = sum(_EVENTS.values()) if events else 0
            info = ClientInfo(user, client, chan_info=_AWAY if away else _ACTIVE)
            entry = Entry(info, None, False, grace_s, "", events=written, away=away, since_ms=since_ms, updated=events)
            self._want((_CONNECTIONS + user, client), entry)

    def offline(self, user: str, client: str, *, stays_s: float) -> None:
        self._take_off((_CONNECTIONS + user, client), None, stays_s)

    def _want(self, key: _Key, entry: Entry) -> None:
        left = self._leaving.pop(key, None)
        before = left or self._wanted.get(key)
        if before is not None:
            entry.roster = before.roster
            # Who comes back before its leave was sent has never left: what is new is an update.
            entry.updated = entry.updated or before.updated or left is not None
            entry.announce = entry.announce or before.announce  # whose join was told, its leave is
        self._wanted[key] = entry
        _MEMBERS.set(len(self._wanted))
        self._change(key)

    def _take_off(self, key: _Key, owner: object, stays_s: float) -> None:
        entry = self._wanted.get(key)
        if entry is None or entry.owner is not owner:
            return
        del self._wanted[key]
        _MEMBERS.set(len(self._wanted))
        entry.stays_s = stays_s
        self._leaving[key] = entry
        if len(self._leaving) > MAX_LEAVES:
            self._forget_leaves()
            self._begin_generation()
        else:
            self._change(key)

    async def written(self, channel: str, client: str) -> bool:
        key = (channel, client)
        if key not in self._dirty and key not in self._in_flight:
            return True
        if self._tried and not self._connected:
            return False
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(future)
        answered, _ = await asyncio.wait([future], timeout=RESPONSE_S)  # cheaper than a timeout scope for each caller
        return bool(answered)

    # Reconciliation.

    def _change(self, key: _Key) -> None:
        self._dirty[key] = None
        self._wake_up.set()
        if not key[0].startswith(_CONNECTIONS):
            self._hurry.set()

    def _settle(self, key: _Key) -> None:
        for future in self._waiting.pop(key, ()):
            if not future.done():
                future.set_result(None)

    def _begin_generation(self) -> None:
        """Send all members and leaves again, under the next generation of the lease.

        What was sent under the old one can't change them any more.
        """
        self._generation += 1
        self._held = False
        # Whether a leave of a lost roster is told depends on who is there: the others come first.
        lost = {key: None for key, entry in self._leaving.items() if self._is_lost(entry)}
        others = [key for key in self._leaving if key not in lost]
        self._dirty = dict.fromkeys((*others, *self._wanted, *lost))
        self._held_back.clear()
        self._wake_up.set()
        self._hurry.set()

    def _forget_leaves(self) -> None:
        """Drop unconfirmed leaves: presence removes these members when their lease ends."""
        for key in list(self._leaving):
            self._settle(key)
        self._leaving.clear()

    async def _keep(self) -> None:
        backoff = Backoff(*_PAUSE_S)
        while True:
            try:
                await self._run()
                continue
            except (*_BROKEN, asyncio.CancelledError) as error:
                if is_being_cancelled():
                    raise
                if self._connected or not self._tried:
                    logger.warning("presence does not answer", extra={"error": repr(error)[:200]})
                if self._connected:
                    backoff.reset()
                self._connected = False
                self._tried = True
            await asyncio.sleep(backoff.next_s())

    async def _run(self) -> None:
        """Send batches over one stream until it breaks: changes, or a heartbeat.

        Returns between two batches when the replica is gone, or when its connection is made anew.
        """
        channel = self._replicas.any()
        self._takes_connections = False
        call = PresenceServiceStub(channel).Change()
        try:
            while channel in self._replicas.channels.values():
                batch = self._next_batch()
                self._in_flight = frozenset(batch)
                try:
                    await self._send(call, batch)
                except BaseException as error:
                    if isinstance(error, TimeoutError):
                        channel.breaker.failed()
                    if batch:
                        self._begin_generation()  # the batch may still be executed, after those of the next stream
                    raise
                finally:
                    self._in_flight = frozenset()
                self._connected = self._tried = True
                if not self._dirty and channel in self._replicas.channels.values():
                    self._wake_up.clear()
                    await _until(self._wake_up, self._heartbeat_s)
                if self._dirty and not self._hurry.is_set():
                    await _until(self._hurry, _LINGER_S)
        finally:
            call.cancel()

    def _next_batch(self) -> list[_Key]:
        """Take the oldest dirty keys, as many as fit into one batch."""
        batch: list[_Key] = []
        size = 0
        if not self._takes_connections:
            for key in [key for key in self._dirty if key[0].startswith(_CONNECTIONS)]:
                del self._dirty[key]
                self._held_back[key] = None
        for key in self._dirty:
            entry = self._wanted.get(key) or self._leaving.get(key)
            if entry is not None:
                info = entry.info
                size += len(info.user) + len(info.conn_info) + len(info.chan_info)
            if batch and (len(batch) == _MAX_BATCH or size > _MAX_BATCH_BYTES):
                break
            batch.append(key)
        for key in batch:
            del self._dirty[key]
        if not self._dirty:
            self._hurry.clear()
        return batch

    async def _send(self, call: grpc.aio.StreamStreamCall[pb.ChangeBatch, pb.ChangeResults], batch: list[_Key]) -> None:
        sent = {key: (self._wanted.get(key), self._leaving.get(key)) for key in batch}
        changes = [change for key in batch if (change := self._message(key)) is not None]
        generation = self._generation
        lease = pb.Lease(edge=self._edge_id, generation=generation, held=self._held, roster=self._roster)
        async with asyncio.timeout(BATCH_S):
            await call.write(pb.ChangeBatch(lease=lease, changes=changes))
            response = await call.read()
        if not isinstance(response, pb.ChangeResults):
            raise Unavailable("presence ended the stream")
        self._heartbeat_s = response.heartbeat_s or HEARTBEAT_S
        self._roster = response.roster or self._roster
        newer = 0 <= self._version < response.version
        if response.lease_lost:
            logger.warning("the lease ran out; all members are entered again", extra={"members": len(self._wanted)})
            _LOST.inc()
            self._note(response.version)
            self._begin_generation()
            return
        if not _DONE.issuperset(response.statuses):
            raise Unavailable("presence could not reach Redis")
        self._note(response.version)
        if generation != self._generation:  # a new generation has begun: everything is sent again
            return
        self._held = True
        if newer:
            self._begin_generation()
            return
        for key in batch:
            wanted, leaving = sent[key]
            if self._leaving.get(key) is leaving and leaving is not None:
                del self._leaving[key]
            if wanted is not None:
                wanted.roster, wanted.updated = response.roster, False
            if self._wanted.get(key) is wanted:
                self._settle(key)  # otherwise it has changed since, and is dirty again

    def _note(self, version: int) -> None:
        """Note the version of the presence at this stream's end, and send what it takes."""
        self._version = version
        if version >= 1:
            self._takes_connections = True
            self._dirty.update(self._held_back)
            self._held_back.clear()

    def _is_lost(self, entry: Entry) -> bool:
        """Return whether Redis lost the roster that had the entry, and told no leave."""
        return entry.roster not in ("", self._roster)

    def _message(self, key: _Key) -> pb.Change | None:
        channel, _ = key
        entry = self._wanted.get(key) or self._leaving.get(key)
        if entry is None:
            return None
        lost = self._is_lost(entry)
        channel = "" if channel.startswith(_CONNECTIONS) else channel
        return enter_of(channel, entry, lost=lost) if key in self._wanted else leave_of(channel, entry, lost=lost)


async def _until(event: asyncio.Event, at_most_s: float) -> None:
    """Wait until the event is set, or for `at_most_s`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(at_most_s):
            await event.wait()
