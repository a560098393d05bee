"""Decodes commands of the Centrifugal protocol in Protobuf.

A message is a sequence of commands, each preceded by its length as an unsigned varint. An empty command is a pong. The
messages are those of `proto/thalamus/client/v1/client.proto`; docs/protocol.md says what they mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.message import DecodeError

from services.edge.domain import commands as c
from services.edge.domain.model import StreamPosition
from services.edge.protocols.centrifugal.codec import KINDS, MAX_ENTRIES, PONG, REJECT_UNRECOVERED, Pong
from thalamus.client.v1 import client_pb2 as pb

_EMPTY = pb.Command()
_LONGEST_VARINT = 5  # bytes of a length: far above the limit of a message


def parts(payload: bytes) -> Iterator[bytes]:
    """Return the commands of a message, without their lengths.

    Raises:
        ValueError: a length is malformed, or the message ends inside a command.
    """
    at, end = 0, len(payload)
    while at < end:
        length = payload[at]
        at += 1
        if length >= 0x80:
            length, at = _long_varint(payload, at - 1)
        if length > end - at:
            raise ValueError("the message ends inside a command")
        yield payload[at : at + length]
        at += length


def _long_varint(payload: bytes, start: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(payload[start : start + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, start + index + 1
    raise ValueError("a length is not a varint")


def command(part: bytes) -> c.Command | Pong:
    """Decode one command.

    Raises:
        ValueError: not a command, no known request, no id although the request has a reply, or too many entries.
    """
    if not part:
        return PONG
    try:
        found: Any = pb.Command.FromString(part)
    except DecodeError as error:
        raise ValueError("not a command") from error
    for name, request in _REQUESTS.items():
        if found.HasField(name):  # the first one in the order of the protocol's table; the others are ignored
            if not found.id and name != "send":
                raise ValueError("no id")
            made = request(getattr(found, name))
            if found.token:
                made.command_token = found.token
            return c.Command(found.id, made)
    if found == _EMPTY:  # it may have an id, which is 0
        return PONG
    raise ValueError("no known request")


def _subscribe(part: pb.SubscribeRequest) -> c.Subscribe:
    return c.Subscribe(
        channel=part.channel,
        token=part.token,
        recover=part.recover,
        epoch=part.epoch,
        offset=part.offset,
        positioned=part.positioned,
        recoverable=part.recoverable,
        join_leave=part.join_leave,
        delta=part.delta,
        has_tags_filter=part.HasField("tf"),
        rejects_gap=bool(part.flag & REJECT_UNRECOVERED),
        kind=KINDS.get(part.type, c.SubscriptionKind.OTHER),
    )


def _connect(part: pb.ConnectRequest) -> c.Connect:
    if len(part.subs) > MAX_ENTRIES or len(part.headers) > MAX_ENTRIES:
        raise ValueError("too many entries")
    subs = {channel: _subscribe(sub) for channel, sub in part.subs.items()}
    return c.Connect(
        token=part.token,
        data=part.data,
        subs=subs,
        name=part.name,
        version=part.version,
        headers=dict(part.headers),
    )


def _publish(part: pb.PublishRequest) -> c.Publish:
    return c.Publish(
        channel=part.channel,
        data=part.data or None,
        to_map=bool(part.type),
        idempotency_key=part.idempotency_key,
        exclude_self=part.exclude_self,
    )


def _history(part: pb.HistoryRequest) -> c.History:
    since = StreamPosition(part.since.offset, part.since.epoch) if part.HasField("since") else None
    return c.History(channel=part.channel, limit=part.limit, since=since, reverse=part.reverse)


_REQUESTS: dict[str, Callable[[Any], c.Request]] = {
    "connect": _connect,
    "subscribe": _subscribe,
    "unsubscribe": lambda part: c.Unsubscribe(channel=part.channel),
    "publish": _publish,
    "presence": lambda part: c.Presence(channel=part.channel),
    "presence_stats": lambda part: c.PresenceStats(channel=part.channel),
    "history": _history,
    "ping": lambda part: c.Ping(),
    "send": lambda part: c.Send(data=part.data),
    "rpc": lambda part: c.Rpc(method=part.method, data=part.data),
    "refresh": lambda part: c.Refresh(token=part.token),
    "sub_refresh": lambda part: c.SubRefresh(channel=part.channel, token=part.token),
}
