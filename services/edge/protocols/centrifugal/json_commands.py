"""Decodes commands of the Centrifugal JSON protocol. Wire protocol, 3 and 5.

The structs here mirror the members of the wire and check their types; `request` converts them to the requests of the
domain. A member may be null, which is the same as absent. Members that the edge ignores are declared too, so that a
wrong type is rejected there as well.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from services.edge.domain import commands as c
from services.edge.domain.model import StreamPosition
from services.edge.protocols.centrifugal.codec import KINDS, MAX_ENTRIES, PONG, REJECT_UNRECOVERED, Pong
from services.shared.json_text import JsonText

_U32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
_U64 = Annotated[int, msgspec.Meta(ge=0)]  # Meta allows no bound above 2**63, so `_u64` checks the upper one
_I32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
_I64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_FEW = msgspec.Meta(max_length=MAX_ENTRIES)
_ABSENT: Final = msgspec.Raw()
_Any = dict[str, msgspec.Raw]


def _u64(value: int | None) -> int:
    if value is None:
        return 0
    if value >= 2**64:
        raise msgspec.ValidationError("Expected `int` < 2**64")
    return value


def _json(raw: msgspec.Raw) -> bytes:
    """Return the JSON text of an optional payload; empty if it is absent or null."""
    text = bytes(raw)
    return b"" if text == b"null" else text


class _Part(msgspec.Struct, gc=False):
    """Base of the structs that mirror the wire.

    Unknown members are ignored; of duplicate members the last one counts.
    """


class _Position(_Part):
    offset: _U64 | None = None
    epoch: str | None = None


class _Subscribe(_Part):
    channel: str | None = None
    token: str | None = None
    recover: bool | None = None
    epoch: str | None = None
    offset: _U64 | None = None
    data: msgspec.Raw = _ABSENT
    positioned: bool | None = None
    recoverable: bool | None = None
    join_leave: bool | None = None
    delta: str | None = None
    tf: msgspec.Raw = _ABSENT
    flag: _I64 | None = None
    type: _I32 | None = None
    phase: _I32 | None = None
    cursor: str | None = None
    limit: _I32 | None = None
    asc: bool | None = None

    def request(self) -> c.Subscribe:
        tags_filter = _json(self.tf)
        if tags_filter and not tags_filter.startswith(b"{"):
            raise msgspec.ValidationError("Expected `object` - at `$.subscribe.tf`")
        return c.Subscribe(
            channel=self.channel or "",
            token=self.token or "",
            recover=self.recover or False,
            epoch=self.epoch or "",
            offset=_u64(self.offset),
            positioned=self.positioned or False,
            recoverable=self.recoverable or False,
            join_leave=self.join_leave or False,
            delta=self.delta or "",
            has_tags_filter=bool(tags_filter),
            rejects_gap=bool((self.flag or 0) & REJECT_UNRECOVERED),
            kind=KINDS.get(self.type or 0, c.SubscriptionKind.OTHER),
        )


class _Connect(_Part):
    token: str | None = None
    data: msgspec.Raw = _ABSENT
    subs: Annotated[dict[str, _Subscribe | None], _FEW] | None = None
    name: str | None = None
    version: str | None = None
    headers: Annotated[dict[str, str | None], _FEW] | None = None
    flag: _I64 | None = None
    dictionary: str | None = msgspec.field(default=None, name="dict")
    profile: str | None = None

    def request(self) -> c.Connect:
        subs = {channel: sub.request() for channel, sub in (self.subs or {}).items() if sub is not None}
        return c.Connect(
            token=self.token or "",
            data=_json(self.data),
            subs=subs,
            name=self.name or "",
            version=self.version or "",
            headers={name: value for name, value in (self.headers or {}).items() if value is not None},
        )


class _Unsubscribe(_Part):
    channel: str | None = None

    def request(self) -> c.Unsubscribe:
        return c.Unsubscribe(channel=self.channel or "")


class _Publish(_Part):
    channel: str | None = None
    data: msgspec.Raw = _ABSENT
    type: _I32 | None = None
    key: str | None = None
    removed: bool | None = None
    idempotency_key: str | None = None
    exclude_self: bool | None = None

    def request(self) -> c.Publish:
        return c.Publish(
            channel=self.channel or "",
            data=JsonText(self.data) or None,  # here null counts as data
            to_map=bool(self.type),
            idempotency_key=self.idempotency_key or "",
            exclude_self=self.exclude_self or False,
        )


class _Presence(_Part):
    channel: str | None = None

    def request(self) -> c.Presence:
        return c.Presence(channel=self.channel or "")


class _PresenceStats(_Part):
    channel: str | None = None

    def request(self) -> c.PresenceStats:
        return c.PresenceStats(channel=self.channel or "")


class _History(_Part):
    channel: str | None = None
    limit: _I32 | None = None
    since: _Position | None = None
    reverse: bool | None = None

    def request(self) -> c.History:
        since = self.since
        return c.History(
            channel=self.channel or "",
            limit=self.limit or 0,
            since=None if since is None else StreamPosition(_u64(since.offset), since.epoch or ""),
            reverse=self.reverse or False,
        )


class _Ping(_Part):
    def request(self) -> c.Ping:
        return c.Ping()


class _Send(_Part):
    data: msgspec.Raw = _ABSENT

    def request(self) -> c.Send:
        return c.Send(data=_json(self.data))


class _Rpc(_Part):
    data: msgspec.Raw = _ABSENT
    method: str | None = None

    def request(self) -> c.Rpc:
        return c.Rpc(method=self.method or "", data=_json(self.data))


class _Refresh(_Part):
    token: str | None = None

    def request(self) -> c.Refresh:
        return c.Refresh(token=self.token or "")


class _SubRefresh(_Part):
    channel: str | None = None
    token: str | None = None
    type: _I32 | None = None
    track: list[_Any | None] | None = None
    untrack: list[str | None] | None = None

    def request(self) -> c.SubRefresh:
        return c.SubRefresh(channel=self.channel or "", token=self.token or "")


class _Command(_Part):
    id: _U32 | None = None
    token: str | None = None
    connect: _Connect | None = None
    subscribe: _Subscribe | None = None
    unsubscribe: _Unsubscribe | None = None
    publish: _Publish | None = None
    presence: _Presence | None = None
    presence_stats: _PresenceStats | None = None
    history: _History | None = None
    ping: _Ping | None = None
    send: _Send | None = None
    rpc: _Rpc | None = None
    refresh: _Refresh | None = None
    sub_refresh: _SubRefresh | None = None


_COMMAND = msgspec.json.Decoder(_Command)
_MEMBERS = msgspec.json.Decoder(_Any)
_KNOWN = frozenset(_Command.__struct_fields__) - {"token"}


def command(line: bytes) -> c.Command | Pong:
    """Decode the command, or the pong, of one line, which must be UTF-8.

    The caller must check nesting and numbers of the whole line before it hands the command on: `data` of a publish
    command is marked as checked.

    Raises:
        msgspec.MsgspecError: not a JSON object, a member of the wrong type or out of range, no known request, or no id
            although the request has a reply.
        RecursionError: nested too deeply for the parser.
    """
    if line == b"{}":
        return PONG
    found = _COMMAND.decode(line)
    part = (  # the first one in the order of the protocol's table; the others are ignored
        found.connect
        or found.subscribe
        or found.unsubscribe
        or found.publish
        or found.presence
        or found.presence_stats
        or found.history
        or found.ping
        or found.send
        or found.rpc
        or found.refresh
        or found.sub_refresh
    )
    command_id = found.id or 0
    if part is None:
        if command_id or not _MEMBERS.decode(line).keys() <= _KNOWN:
            raise msgspec.ValidationError("no known request")
        return PONG
    if not command_id and type(part) is not _Send:
        raise msgspec.ValidationError("no id")
    request = part.request()
    if found.token:
        request.command_token = found.token
    return c.Command(command_id, request)
