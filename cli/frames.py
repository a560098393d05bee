"""What replies and pushes of the Centrifugal JSON protocol hold, as far as the command line reads it.

Names and numbers are those of the protocol; what it leaves out is zero, empty or false. Payloads keep their text.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from cli.output import printable

_NULL = msgspec.Raw(b"null")
_ABSENT = msgspec.Raw(b"")  # a union of Raw with None would decode null only


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a channel's log; an empty epoch matches any."""

    offset: int = 0
    epoch: str = ""

    def __str__(self) -> str:
        return f"{self.offset}:{self.epoch}"


class ClientInfo(msgspec.Struct, frozen=True):
    """One client as others see it."""

    user: str = ""
    client: str = ""
    conn_info: msgspec.Raw = _ABSENT
    chan_info: msgspec.Raw = _ABSENT

    def __str__(self) -> str:
        return printable(self.user) or "(anonymous)"


class Publication(msgspec.Struct, frozen=True):
    """One message; `data` is the publisher's text. `offset` 0: the channel does not count; `time` in Unix ms."""

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
    """The time of a publication for a line, as UTC; nothing where it has none, or one that no calendar has."""
    try:
        return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3] + "Z " if time_ms else ""
    except (OverflowError, ValueError, OSError):
        return ""


def client_fields(info: ClientInfo) -> dict[str, object]:
    """A client for a JSON line; what is absent is left out."""
    fields: dict[str, object] = {"user": info.user, "client": info.client}
    for name in ("conn_info", "chan_info"):
        if bytes(value := getattr(info, name)):
            fields[name] = value
    return fields


def publication_fields(publication: Publication) -> dict[str, object]:
    """A publication for a JSON line; what is absent is left out."""
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
    """A refusal by the server. Source: wire protocol, 8.1."""

    code: int = 0
    message: str = ""
    temporary: bool = False

    def __str__(self) -> str:
        return f"{printable(self.message)} ({self.code})"


class ConnectResult(msgspec.Struct, frozen=True):
    """Answer to `connect`; times in seconds."""

    client: str = ""
    version: str = ""
    expires: bool = False
    ttl: int = 0
    ping: int = 0
    pong: bool = False


class SubscribeResult(msgspec.Struct, frozen=True):
    """Answer to `subscribe`."""

    recoverable: bool = False
    epoch: str = ""
    offset: int = 0
    recovered: bool = False
    was_recovering: bool = False
    publications: list[Publication] = []


class RefreshResult(msgspec.Struct, frozen=True):
    """Answer to `refresh`; `ttl` in seconds."""

    expires: bool = False
    ttl: int = 0


class UnsubscribePush(msgspec.Struct, frozen=True):
    """The server ended a subscription."""

    code: int = 0
    reason: str = ""


class PresencePush(msgspec.Struct, frozen=True):
    """Who joined or left."""

    info: ClientInfo


class MessagePush(msgspec.Struct, frozen=True):
    """Something for this client, of no channel."""

    data: msgspec.Raw = _NULL


class Push(msgspec.Struct, frozen=True):
    """What comes unasked; exactly one member besides the channel."""

    channel: str = ""
    pub: Publication | None = None
    join: PresencePush | None = None
    leave: PresencePush | None = None
    unsubscribe: UnsubscribePush | None = None
    message: MessagePush | None = None


class Reply(msgspec.Struct, frozen=True):
    """One line of a frame: an answer (`id`), a push, or a ping (neither)."""

    id: int = 0
    error: Error | None = None
    push: Push | None = None
    connect: ConnectResult | None = None
    subscribe: SubscribeResult | None = None
    refresh: RefreshResult | None = None
