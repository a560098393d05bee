"""Replies and pushes of the Centrifugal JSON protocol that the command line reads.

Names and numbers are those of the protocol. A member that is left out is zero, empty or false. Payloads keep their
text.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from cli.output import printable

_NULL = msgspec.Raw(b"null")
_ABSENT = msgspec.Raw(b"")  # stands for an absent member: a union of Raw and None would decode null only


@dataclass(frozen=True, slots=True)
class Position:
    """A position in a channel's log. An empty epoch matches any epoch."""

    offset: int = 0
    epoch: str = ""

    def __str__(self) -> str:
        return f"{self.offset}:{self.epoch}"


class ClientInfo(msgspec.Struct, frozen=True):
    """A client as other clients see it."""

    user: str = ""
    client: str = ""
    conn_info: msgspec.Raw = _ABSENT
    chan_info: msgspec.Raw = _ABSENT

    def __str__(self) -> str:
        return printable(self.user) or "(anonymous)"


class Publication(msgspec.Struct, frozen=True):
    """One publication. `data` is the publisher's text unchanged.

    `offset` is 0 if the channel has no log. `time` is Unix time in milliseconds.
    """

    data: msgspec.Raw = _NULL
    info: ClientInfo | None = None
    offset: int = 0
    epoch: str = ""
    tags: dict[str, str] = {}
    time: int = 0

    def __str__(self) -> str:
        number = f"#{self.offset} " if self.offset else ""
        who = f"{self.info}: " if self.info else ""
        return f"{_clock(self.time)}{number}{who}{printable(bytes(self.data).decode('utf-8', 'replace'))}"


def _clock(time_ms: int) -> str:
    """Return the time of a publication for a line, in UTC.

    Empty if it has none, or one that no calendar has.
    """
    try:
        return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3] + "Z " if time_ms else ""
    except (OverflowError, ValueError, OSError):
        return ""


def client_fields(info: ClientInfo) -> dict[str, object]:
    """Return a client as fields of a JSON line; absent ones are left out."""
    fields: dict[str, object] = {"user": info.user, "client": info.client}
    for name in ("conn_info", "chan_info"):
        if bytes(value := getattr(info, name)):
            fields[name] = value
    return fields


def publication_fields(publication: Publication) -> dict[str, object]:
    """Return a publication as fields of a JSON line; absent ones are left out."""
    fields: dict[str, object] = {"offset": publication.offset} if publication.offset else {}
    fields["data"] = publication.data
    if publication.info is not None:
        fields["info"] = client_fields(publication.info)
    if publication.tags:
        fields["tags"] = publication.tags
    if publication.time:
        fields["time"] = publication.time
    return fields


class Error(msgspec.Struct, frozen=True):
    """An error reply of the server. Source: wire protocol, 8.1."""

    code: int = 0
    message: str = ""
    temporary: bool = False

    def __str__(self) -> str:
        return f"{printable(self.message)} ({self.code})"


class ConnectResult(msgspec.Struct, frozen=True):
    """Result of `connect`. Times are seconds."""

    client: str = ""
    version: str = ""
    expires: bool = False
    ttl: int = 0
    ping: int = 0
    pong: bool = False


class SubscribeResult(msgspec.Struct, frozen=True):
    """Result of `subscribe`."""

    recoverable: bool = False
    epoch: str = ""
    offset: int = 0
    recovered: bool = False
    was_recovering: bool = False
    publications: list[Publication] = []


class RefreshResult(msgspec.Struct, frozen=True):
    """Result of `refresh`. `ttl` is in seconds."""

    expires: bool = False
    ttl: int = 0


class UnsubscribePush(msgspec.Struct, frozen=True):
    """The server ended a subscription."""

    code: int = 0
    reason: str = ""


class PresencePush(msgspec.Struct, frozen=True):
    """A client joined or left."""

    info: ClientInfo


class MessagePush(msgspec.Struct, frozen=True):
    """A message for this client that belongs to no channel."""

    data: msgspec.Raw = _NULL


class Push(msgspec.Struct, frozen=True):
    """A message that the server sends unasked. One member besides the channel is set."""

    channel: str = ""
    pub: Publication | None = None
    join: PresencePush | None = None
    leave: PresencePush | None = None
    unsubscribe: UnsubscribePush | None = None
    message: MessagePush | None = None


class Reply(msgspec.Struct, frozen=True):
    """One line of a frame: a reply (has `id`), a push, or a ping (has neither)."""

    id: int = 0
    error: Error | None = None
    push: Push | None = None
    connect: ConnectResult | None = None
    subscribe: SubscribeResult | None = None
    refresh: RefreshResult | None = None
