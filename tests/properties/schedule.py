"""Edges and clients in random steps, and what must hold of them at the end."""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
from collections.abc import Sequence
from typing import Any

from services.edge.domain.ends import ClientEnd
from services.edge.domain.model import Publication
from services.shared.namespaces import Delta, Mode
from tests.properties.follower import Follower
from tests.properties.lagging_edge import Edge
from tests.properties.manual_loop import ManualLoop, ticks
from tests.support.edge import OPEN, SIGNED_IN, Client, Cluster, replace_namespace

CHANNEL = "a"
WITH_DELTA = "delta "  # before the kind of a client: it asks for deltas
LEFT_A_GAP = "a gap was heard of, and left until the tick"
NOT_COMPARED = "pub/sub was made anew, and a view is behind until the tick"
NAMESPACE = replace_namespace(OPEN, recovery=Mode.ALLOW, positioning=Mode.ALLOW, history=SIGNED_IN)
_FORCED = {"force_recovery": {"value": True}, "force_positioning": {"value": True}}
_QUIET_S = 10.0  # longer than every pause of the code


class Schedule:
    """Two edges, one channel, some clients.

    Random steps, and what must hold of them at the end.
    """

    def __init__(self, kinds: Sequence[str], options: dict[str, Any], lags: Sequence[int]) -> None:
        self.kinds = [kind.removeprefix(WITH_DELTA) for kind in kinds]
        edge_options = dict(options)
        self.delta = any(kind.startswith(WITH_DELTA) for kind in kinds)
        namespace = replace_namespace(
            NAMESPACE,
            history_size=edge_options.pop("history_size"),
            delta=Delta.FOSSIL if self.delta else Delta.OFF,
        )
        self.history_size: int = namespace.history_size
        self.most_recovered: int = max(options["recovery_limit"], options["recovery_total"])
        self.cluster = Cluster(default=namespace)
        self.bus = self.cluster.bus
        turns = itertools.cycle(lags)
        self.edges = [Edge(self.cluster, turns, edge_options) for _ in range(2)]

        async def late(channel: str, client: str) -> bool:
            await ticks(next(turns))
            return True

        self.cluster.presence.written = late  # type: ignore[method-assign]
        self.truth: dict[str, list[int]] = {self.bus.log(CHANNEL).epoch: []}
        self.seen: dict[str, int] = {}
        self.followers = [
            Follower(
                self.truth,
                plain=kind.removeprefix(WITH_DELTA) == "plain",
                seen=self.seen,
                wants_delta=kind.startswith(WITH_DELTA),
            )
            for kind in kinds
        ]
        self.connections: list[Client | None] = [None for _ in self.kinds]
        self._read = [0 for _ in self.kinds]  # frames that each has read of its connection
        self._clients = itertools.count(1)
        self._commands = itertools.count(10)
        self._numbers = itertools.count(1)

    # Steps.

    async def publish(self, count: int) -> None:
        for _ in range(0 if self.bus.down else count):
            self._append()

    async def miss(self, edge: int, lost: int, then: int, pause: int) -> None:
        """Some are lost on the way to one edge, and others come behind them."""
        broker = self.edges[edge].broker
        was_stalled, broker.stalled = broker.stalled, True
        await self.publish(lost)
        broker.stalled = was_stalled
        await ticks(pause)
        await self.publish(then)

    async def shuffle(self, edge: int, count: int, picks: Sequence[int], lose: bool) -> None:
        """Some come to one edge in another order."""
        self.edges[edge].wire.stopped = True
        await self.publish(count)
        self.edges[edge].wire.let_go(picks, lose=lose)

    async def all_come(self, from_start: bool) -> None:
        for client in range(len(self.kinds)):
            await self.come(client, client % 2, from_start)
        await ticks(30)

    async def stall_pubsub(self, edge: int) -> None:
        self.edges[edge].broker.stalled = True

    async def resume_pubsub(self, edge: int, reconnected: bool) -> None:
        self.edges[edge].broker.stalled = False
        if reconnected:
            self.edges[edge].wire.reconnected()

    async def stop(self, edge: int) -> None:
        self.edges[edge].wire.stopped = True

    async def let_go(self, edge: int, picks: Sequence[int], lose: bool) -> None:
        self.edges[edge].wire.let_go(picks, lose=lose)

    async def echo(self, edge: int, epoch: int, offset: int) -> None:
        """Something of this or a former epoch is announced again."""
        epochs = list(self.truth)
        name = epochs[-1 - epoch % min(2, len(epochs))]
        if self.truth[name]:
            at = len(self.truth[name]) - offset % len(self.truth[name])
            again = Publication(data=self._payload(self.truth[name][at - 1]), offset=at)
            self.edges[edge].wire.publication(CHANNEL, name, again)

    async def come(self, client: int, edge: int, from_start: bool) -> None:
        """Subscribe, on the connection there is or on a new one.

        Recover if there is a position.
        """
        follower = self.followers[client]
        self._read_on(client)
        if follower.subscribed or follower.asking:
            return
        request: dict[str, Any] = {"recoverable": not follower.plain, "positioned": not follower.plain}
        if not follower.plain and (follower.known or from_start):
            follower.asked = (follower.offset, follower.epoch)
            follower.top = self.bus.log(CHANNEL).top
            request |= {"recover": True, "offset": follower.offset, "epoch": follower.epoch}
        if follower.wants_delta:
            request["delta"] = "fossil"
        if self.kinds[client] == "rejecting":
            request["flag"] = 2
        follower.asking = True
        if self.kinds[client] == "server":
            assert self.connections[client] is None
            self._connect(client, edge, {CHANNEL: request})
            return
        if self.connections[client] is None:
            self._connect(client, edge, {})
        self._say(client, subscribe={"channel": CHANNEL, **request})

    async def come_amid(self, client: int, edge: int, from_start: bool, pauses: Sequence[int]) -> None:
        """Subscribe while it goes on."""
        await self.come(client, edge, from_start)
        for pause in pauses:
            await ticks(pause)
            await self.publish(1)

    async def go(self, client: int, unread: int) -> None:
        """The connection breaks, and the last so many frames are lost.

        They must have been right all the same.
        """
        connection, follower = self.connections[client], self.followers[client]
        if connection is None:
            return
        self._read_on(client, unread)
        if self.connections[client] is None:
            return  # the edge had ended it
        copy.copy(follower).read(connection.connection.frames[self._read[client] :])
        follower.ended(None)
        self.connections[client] = None
        connection.protocol.closed(ClientEnd.LOST)

    async def stall(self, client: int) -> None:
        """It takes no more of what it asked for: pages wait, and its commands."""
        connection = self.connections[client]
        if connection is not None:
            connection.connection.replies_wait = True

    async def read_again(self, client: int) -> None:
        connection = self.connections[client]
        if connection is not None and connection.connection.replies_wait:
            connection.connection.replies_wait = False
            connection.session.replies_taken()

    async def unsubscribe(self, client: int) -> None:
        self._read_on(client)
        if self.followers[client].subscribed and self.kinds[client] != "server":
            self._say(client, unsubscribe={"channel": CHANNEL})

    async def trim(self, keep: int, forget: bool) -> None:
        log = self.bus.log(CHANNEL)
        log.entries = log.entries[len(log.entries) - min(keep, len(log.entries)) :]
        if forget:
            for edge in self.edges:
                view = edge.node.hub.channels.get(CHANNEL)
                if view is not None and view.log is not None:
                    view.log.forget()

    async def down(self) -> None:
        self.bus.down = True

    async def up(self) -> None:
        self.bus.down = False

    async def reset(self) -> None:
        self.bus.reset(CHANNEL, self.bus.log(CHANNEL).epoch)
        self.truth[self.bus.log(CHANNEL).epoch] = []

    async def tick(self, edge: int) -> None:
        self.edges[edge].node.hub.check_tops()

    async def wait(self, tenths: int) -> None:
        """Time goes on, while whatever runs at once goes on, too."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, ManualLoop)
        loop.skip(tenths / 10)
        self.cluster.clock.now += tenths / 10
        self.cluster.clock.unix += tenths / 10
        for edge in self.edges:
            edge.node.wheel.advance(self.cluster.clock.now)
            edge.node.hub.close_unused(self.cluster.clock.now)

    # The end.

    async def finish(self, settle_first: bool, edge: int) -> None:
        """All parts work again: everybody comes back and is at the top.

        And it goes on.
        """
        self.bus.down = False
        for one in self.edges:
            one.broker.stalled = False
            one.wire.let_go((), lose=False)
        for client in range(len(self.kinds)):
            await self.read_again(client)
        if settle_first:
            await self._quiet()
            self._gaps_are_repaired()
        for one in self.edges:
            one.wire.reconnected()
        await self._quiet()
        self._gaps_are_repaired()
        self._views_are_at_the_top()
        for _ in range(2):  # a channel that was active is compared by the next
            for one in self.edges:
                one.node.hub.check_tops()
            await self._quiet()
        self._all_are_at_the_top()
        for _ in range(3):  # 112 asks for one more
            for client in range(len(self.kinds)):
                gap = self._gap(client)
                before = self.seen.get("not recovered", 0) + self.seen.get("error 112", 0)
                await self.come(client, edge, from_start=False)
                await self._quiet()
                self._read_on(client)
                after = self.seen.get("not recovered", 0) + self.seen.get("error 112", 0)
                assert gap is None or gap > self._kept() or before == after, "recovery was possible"
        assert all(follower.subscribed for follower in self.followers), "somebody can't come back"
        self._append()
        self._append()
        await self._quiet()
        self._all_are_at_the_top()
        newest = self.truth[self.bus.log(CHANNEL).epoch][-1]
        assert all(follower.last == newest for follower in self.followers if follower.plain), "one got nothing"
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left, f"never ends: {left}"

    def _kept(self) -> int:
        return min(len(self.bus.log(CHANNEL).entries), self.most_recovered)

    def _gap(self, client: int) -> int | None:
        """How much a client without a subscription has missed of this epoch."""
        self._read_on(client)
        follower, log = self.followers[client], self.bus.log(CHANNEL)
        if follower.subscribed or not follower.known or follower.epoch != log.epoch:
            return None
        return log.top - follower.offset

    def _gaps_are_repaired(self) -> None:
        """Counted, for only the tick must end every gap."""
        for edge in self.edges:
            view = edge.node.hub.channels.get(CHANNEL)
            if view is not None and view.log is not None and view.log.delivered < edge.wire.received.get(view, 0):
                self._count(LEFT_A_GAP)

    def _views_are_at_the_top(self) -> None:
        """Counted, as above."""
        log = self.bus.log(CHANNEL)
        for edge in self.edges:
            view = edge.node.hub.channels.get(CHANNEL)
            if view is not None and view.log is not None and view.log.position != (log.top, log.epoch):
                self._count(NOT_COMPARED)

    def _all_are_at_the_top(self) -> None:
        log = self.bus.log(CHANNEL)
        for client, follower in enumerate(self.followers):
            self._read_on(client)
            assert not follower.asking, "no answer"
            if follower.subscribed and not follower.plain:
                assert (follower.offset, follower.epoch) == (log.top, log.epoch), "behind, and not told"

    # Means.

    def _count(self, what: str) -> None:
        self.seen[what] = self.seen.get(what, 0) + 1

    def _payload(self, number: int) -> bytes:
        if not self.delta:
            return str(number).encode()
        value = {"number": number, "text": "größe 漢字 😀 " * 4 + "漠é"[number % 2], "more": [number] * (number % 3)}
        return json.dumps(value, ensure_ascii=False).encode()

    def _append(self) -> None:
        number = next(self._numbers)
        publication = Publication(data=self._payload(number))
        epoch = self.bus.log(CHANNEL).epoch
        self.truth[epoch].append(number)
        self.bus.append(CHANNEL, publication, "", str(number), self.history_size)

    def _connect(self, client: int, edge: int, subs: dict[str, Any]) -> None:
        user = f"user{client}"
        made = self.connections[client] = Client(
            self.cluster, self.edges[edge].node, client_id=f"client{next(self._clients)}"
        )
        self._read[client] = 0
        claims: dict[str, Any] = {"subs": {CHANNEL: {"override": _FORCED}}} if subs else {}
        token = self.cluster.token(user, ttl_s=None, **claims)
        made.protocol.message(json.dumps({"id": 1, "connect": {"token": token, "subs": subs}}).encode(), binary=False)

    def _say(self, client: int, **request: Any) -> None:
        connection = self.connections[client]
        assert connection is not None
        connection.protocol.message(json.dumps({"id": next(self._commands), **request}).encode(), binary=False)

    def _read_on(self, client: int, unread: int = 0) -> None:
        """What has come since the last time, but for the last so many."""
        connection, follower = self.connections[client], self.followers[client]
        if connection is None:
            return
        frames = connection.connection.frames
        upto = max(self._read[client], len(frames) - unread)
        follower.read(frames[self._read[client] : upto])
        self._read[client] = upto
        if connection.closed is not None or connection.connection.dropped_after is not None:
            follower.read(frames[upto:])
            follower.ended(connection.closed[0] if connection.closed else None)
            self.connections[client] = None
            connection.protocol.closed(ClientEnd.LOST)

    async def _quiet(self) -> None:
        """Until nothing is left to do, however long it waits."""
        await asyncio.sleep(_QUIET_S)
