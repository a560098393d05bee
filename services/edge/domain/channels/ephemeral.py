"""Ephemeral events: what those are told who follow a channel at this moment.

**Purpose.** That somebody types or has read, or has another name, concerns those who look at the channel now. It comes
on the channel's own subscription, so clients need no second one. It must never cost a message, a position or a patch.

**Rules.**

1. An event has no offset and is in no log: no history, no ring, no recovery, no feed. It is published on the pub/sub of
   its channel, as a publication of a kind of its own (`keys.EPHEMERAL`), or by an edge for its own subscribers alone.
2. Live subscriptions get it as a publication without offset. Those that join or catch up do not get it. In Protobuf,
   where SDKs may take no offset for 0 and go there, it has the offset of the last publication: all of them got that
   one, so their position stays.
3. It is dropped first: it is not queued for a client whose outbox is filled to a quarter (`Connection.send_ephemeral`).
4. It has no order with the publications of the log. But while a channel is being repaired its events are dropped: what
   is missing may be that somebody was removed, and who was removed gets nothing more.
5. Who gets deltas gets it in full, and the next publication, too (`delta_channel`, rule 6).
6. Nothing is published while an edge is connected that can't read it (`adapters/redis/ephemeral_readers.py`).

**Example.** Ann types: her client calls `typing.start`, persistence finds that she may write, and returns an event. The
edge publishes it; every edge with subscribers hands it to them. Bob's phone, which is in a tunnel with 300 KiB waiting,
does not get it. Once it has read on it gets all messages, and later events.

**Trade-offs.** An event may be lost anywhere, so each must be one that a later one replaces, or that ends by itself.
With deltas a publication behind an event is sent in full. While pub/sub has lost a publication and nobody knows it yet,
events still come: at most until the channel is next compared with its log.

Decision: docs/decisions/0058-ephemeral-events.md.
"""

from __future__ import annotations

from collections.abc import Iterable

from services.edge.domain.channels.encoding import encoded
from services.edge.domain.connections import Connection, Encoder
from services.edge.domain.model import Publication
from services.edge.domain.replies import PublicationPush


def send_to(
    groups: Iterable[tuple[Encoder, Iterable[Connection]]], channel: str, event: Publication, position: int
) -> None:
    """Send an event to the connections that have room for it.

    It is encoded once for each group. `position`: offset of the last publication; 0: the channel has no log.
    """
    for encoder, connections in groups:
        event.offset = 0 if encoder.keeps_position else position
        if (frame := encoded(encoder, PublicationPush(channel, event))) is not None:
            for connection in connections:
                connection.send_ephemeral(frame)
