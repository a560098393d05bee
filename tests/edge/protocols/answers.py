"""Replies and pushes, and how a codec of the Centrifugal protocol encodes either."""

from __future__ import annotations

from typing import NamedTuple

from services.edge.domain import replies as r
from services.edge.domain.connections import Pings
from services.edge.protocols.centrifugal.codec import Codec

NO_PINGS = Pings(0, 0)


class Answer(NamedTuple):
    """The reply to a command; `pings` are told in that to connect."""

    id: int
    result: r.Result
    pings: Pings = NO_PINGS


Reply = Answer | r.Push


def encoded(codec: Codec, reply: Reply) -> bytes:
    """The frame of a reply or push."""
    if not isinstance(reply, Answer):
        frame = codec.encode(reply)
        assert frame is not None
        return frame
    if isinstance(reply.result, r.ConnectResult):
        return codec.connected(reply.id, reply.result, reply.pings)
    return codec.reply(reply.id, reply.result)
