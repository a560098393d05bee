"""Requests of the server API; names are those of the field's server API and of the wire protocol."""

from __future__ import annotations

from typing import Annotated

import msgspec


class StreamPosition(msgspec.Struct):
    offset: Annotated[int, msgspec.Meta(ge=0)] = 0
    epoch: str = ""


class Publish(msgspec.Struct, kw_only=True):
    channel: str
    data: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    tags: dict[str, str] = {}
    idempotency_key: str = ""


class Broadcast(msgspec.Struct, kw_only=True):
    channels: list[str]
    data: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    tags: dict[str, str] = {}
    idempotency_key: str = ""


class BoolValue(msgspec.Struct):
    value: bool


class Subscribe(msgspec.Struct, kw_only=True):
    user: str
    channel: str
    client: str = ""
    info: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    data: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    recover_since: StreamPosition | None = None
    expire_at: float = 0.0
    override: dict[str, BoolValue] = {}


class Unsubscribe(msgspec.Struct, kw_only=True):
    user: str
    channel: str
    client: str = ""


class DisconnectReason(msgspec.Struct, kw_only=True):
    code: int = 3503
    reason: str = ""


class Disconnect(msgspec.Struct, kw_only=True):
    user: str
    client: str = ""
    whitelist: list[str] = []
    disconnect: DisconnectReason | None = None


class Refresh(msgspec.Struct, kw_only=True):
    user: str
    client: str = ""
    expired: bool = False
    expire_at: float = 0.0


class History(msgspec.Struct, kw_only=True):
    channel: str
    limit: int = 0
    since: StreamPosition | None = None
    reverse: bool = False


class ChannelOnly(msgspec.Struct, kw_only=True):
    channel: str


class Channels(msgspec.Struct):
    pattern: str = ""


class Info(msgspec.Struct):
    """Nothing is asked."""


class Batch(msgspec.Struct, kw_only=True):
    """Each command is an object with one member: the name of a method and its request."""

    commands: list[dict[str, msgspec.Raw]]
    parallel: bool = False
