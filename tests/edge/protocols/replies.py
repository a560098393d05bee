"""Replies and pushes, and how a codec of the Centrifugal protocol encodes either."""

from __future__ import annotations

from typing import NamedTuple

from services.edge.domain import replies as r
from services.edge.domain.connections import Pings
from services.edge.protocols.centrifugal.codec import Codec

NO_PINGS = Pings(0, 0)


class Reply(NamedTuple):
    """The reply to a command; `pings` are told in that to connect."""

    id: int
    result: r.Result
    pings: Pings = NO_PINGS


Sent = Reply | r.Push


def encoded(codec: Codec, sent: Sent) -> bytes:
    """The frame of a reply or push."""
    if not isinstance(sent, Reply):
        frame = codec.encode(sent)
        assert frame is not None
        return frame
    if isinstance(sent.result, r.ConnectResult):
        return codec.connected(sent.id, sent.result, sent.pings)
    return codec.reply(sent.id, sent.result)
