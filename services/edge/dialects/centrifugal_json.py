"""Centrifugal JSON, protocol version 2: one JSON object per line. Wire protocol, 2, 3, 5 and 6."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from services.edge.domain import commands as c
from services.edge.domain import replies as r
from services.edge.domain.model import ClientInfo, Publication

_U32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
_U64 = Annotated[int, msgspec.Meta(ge=0)]  # msgspec itself takes no bound beyond 2**63
_I32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
_I64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_NO_RAW = msgspec.Raw()


def _check_u64(value: int | None) -> None:
    if value is not None and value >= 2**64:
        raise ValueError("out of range")


class _Position(msgspec.Struct):
    offset: _U64 | None = None
    epoch: str | None = None

    def __post_init__(self) -> None:
        _check_u64(self.offset)


class _Subscribe(msgspec.Struct):
    channel: str | None = None
    token: str | None = None
    recover: bool | None = None
    epoch: str | None = None
    offset: _U64 | None = None
    positioned: bool | None = None
    recoverable: bool | None = None
    join_leave: bool | None = None
    delta: str | None = None
    tf: msgspec.Raw = _NO_RAW
    flag: _I64 | None = None
    type: _I32 | None = None
    data: msgspec.Raw = _NO_RAW

    def __post_init__(self) -> None:
        _check_u64(self.offset)

    def request(self) -> c.Subscribe:
        filter_text = bytes(self.tf)
        return c.Subscribe(
            channel=self.channel or "",
            token=self.token or "",
            recover=bool(self.recover),
            epoch=self.epoch or "",
            offset=self.offset or 0,
            positioned=bool(self.positioned),
            recoverable=bool(self.recoverable),
            join_leave=bool(self.join_leave),
            delta=self.delta or "",
            tags_filter=b"" if filter_text == b"null" else filter_text,
            flag=self.flag or 0,
            type=self.type or 0,
        )


class _Connect(msgspec.Struct):
    token: str | None = None
    data: msgspec.Raw = _NO_RAW
    subs: dict[str, _Subscribe] | None = None
    name: str | None = None
    version: str | None = None

    def request(self) -> c.Connect:
        subs = {name: sub.request() for name, sub in (self.subs or {}).items()}
        return c.Connect(
            token=self.token or "", data=bytes(self.data), subs=subs, name=self.name or "", version=self.version or ""
        )


class _Channel(msgspec.Struct):
    channel: str | None = None


class _Publish(msgspec.Struct):
    channel: str | None = None
    data: msgspec.Raw = _NO_RAW
    type: _I32 | None = None
    idempotency_key: str | None = None
    exclude_self: bool | None = None

    def request(self) -> c.Publish:
        return c.Publish(
            channel=self.channel or "",
            data=bytes(self.data) or None,
            type=self.type or 0,
            idempotency_key=self.idempotency_key or "",
            exclude_self=bool(self.exclude_self),
        )


class _History(msgspec.Struct):
    channel: str | None = None
    limit: _I32 | None = None
    since: _Position | None = None
    reverse: bool | None = None

    def request(self) -> c.History:
        since = c.StreamPosition(self.since.offset or 0, self.since.epoch or "") if self.since else None
        return c.History(channel=self.channel or "", limit=self.limit or 0, since=since, reverse=bool(self.reverse))


class _Send(msgspec.Struct):
    data: msgspec.Raw = _NO_RAW


class _Rpc(msgspec.Struct):
    data: msgspec.Raw = _NO_RAW
    method: str | None = None


class _Refresh(msgspec.Struct):
    token: str | None = None


class _SubRefresh(msgspec.Struct):
    channel: str | None = None
    token: str | None = None
    type: _I32 | None = None


class _Command(msgspec.Struct):
    """The order of the members is the order in which the first request is taken."""

    id: _U32 | None = None
    connect: _Connect | None = None
    subscribe: _Subscribe | None = None
    unsubscribe: _Channel | None = None
    publish: _Publish | None = None
    presence: _Channel | None = None
    presence_stats: _Channel | None = None
    history: _History | None = None
    ping: dict[str, Any] | None = None
    send: _Send | None = None
    rpc: _Rpc | None = None
    refresh: _Refresh | None = None
    sub_refresh: _SubRefresh | None = None


_DECODER = msgspec.json.Decoder(_Command)
_STRING = msgspec.json.Encoder().encode


def _request(command: _Command) -> c.Request | None:
    if command.connect is not None:
        return command.connect.request()
    if command.subscribe is not None:
        return command.subscribe.request()
    if command.unsubscribe is not None:
        return c.Unsubscribe(channel=command.unsubscribe.channel or "")
    if command.publish is not None:
        return command.publish.request()
    if command.presence is not None:
        return c.Presence(channel=command.presence.channel or "")
    if command.presence_stats is not None:
        return c.PresenceStats(channel=command.presence_stats.channel or "")
    if command.history is not None:
        return command.history.request()
    if command.ping is not None:
        return c.Ping()
    if command.send is not None:
        return c.Send(data=bytes(command.send.data))
    if command.rpc is not None:
        return c.Rpc(method=command.rpc.method or "", data=bytes(command.rpc.data))
    if command.refresh is not None:
        return c.Refresh(token=command.refresh.token or "")
    if command.sub_refresh is not None:
        return c.SubRefresh(
            channel=command.sub_refresh.channel or "",
            token=command.sub_refresh.token or "",
            type=command.sub_refresh.type or 0,
        )
    return None


class CentrifugalJson:
    """`Dialect` of JSON clients."""

    name = "json"

    def __init__(self, frame: Callable[[bytes], bytes]) -> None:
        self._frame = frame
        self._ping_frame = frame(b"{}")

    @property
    def ping_frame(self) -> bytes:
        return self._ping_frame

    def decode(self, payload: bytes, *, binary: bool) -> list[c.Command]:
        commands = []
        for line in payload.removesuffix(b"\n").split(b"\n"):
            command = self._command(line, binary)
            commands.append(command)
            if type(command.request) is c.Malformed:
                break
        return commands

    def _command(self, line: bytes, binary: bool) -> c.Command:
        try:
            if binary:
                line.decode()
            command = _DECODER.decode(line)
            request = _request(command)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return c.Command(0, c.Malformed(reason=str(error)))
        command_id = command.id or 0
        if request is None:
            if line.strip() == b"{}":
                return c.Command(0, c.Pong())
            return c.Command(0, c.Malformed(reason="no request"))
        if not command_id and type(request) is not c.Send:
            return c.Command(0, c.Malformed(reason="no id"))
        return c.Command(command_id, request)

    def encode(self, reply: r.Reply) -> bytes:
        if isinstance(reply, r.PublicationPush):
            body = _publication(reply.publication, reply.epoch)
            return self._frame(b'{"push":{"channel":%b,"pub":%b}}' % (_STRING(reply.channel), body))
        if isinstance(reply, r.Answer):
            return self._frame(b'{"id":%d,%b}' % (reply.id, _result(reply.result)))
        return self._frame(b'{"push":%b}' % _push(reply))


def _members(**members: bytes | str | int | bool) -> bytes:
    """An object of the members that are not zero; bytes are JSON texts."""
    return b"{%b}" % b",".join(
        b'"%b":%b' % (name.encode(), value if isinstance(value, bytes) else _STRING(value))
        for name, value in members.items()
        if value
    )


def _raw(data: bytes) -> bytes:
    return data.replace(b"\n", b"") if b"\n" in data else data


def _info(info: ClientInfo) -> bytes:
    extra = b""
    if info.conn_info:
        extra += b',"conn_info":' + _raw(info.conn_info)
    if info.chan_info:
        extra += b',"chan_info":' + _raw(info.chan_info)
    return b'{"user":%b,"client":%b%b}' % (_STRING(info.user), _STRING(info.client), extra)


def _publication(publication: Publication, epoch: str = "") -> bytes:
    parts = [b'{"data":', _raw(publication.data)]
    if publication.info is not None:
        parts += (b',"info":', _info(publication.info))
    if publication.offset:
        parts.append(b',"offset":%d' % publication.offset)
    if publication.tags:
        parts += (b',"tags":', _STRING(publication.tags))
    if epoch:
        parts += (b',"epoch":', _STRING(epoch))
    parts.append(b"}")
    return b"".join(parts)


def _list(publications: list[Publication]) -> bytes:
    return b"[%b]" % b",".join(map(_publication, publications))


def _subscribe_result(result: r.SubscribeResult) -> bytes:
    return _members(
        expires=result.expires,
        ttl=result.ttl,
        recoverable=result.recoverable,
        epoch=result.epoch,
        publications=_list(result.publications) if result.publications else b"",
        recovered=result.recovered,
        offset=result.offset,
        positioned=result.positioned,
        data=_raw(result.data),
        was_recovering=result.was_recovering,
    )


def _result(result: r.Result) -> bytes:
    match result:
        case r.ErrorReply():
            return b'"error":' + _members(
                code=result.code,
                message=result.message,
                temporary=result.temporary,
                retry_after_ms=result.retry_after_ms,
            )
        case r.PublishResult():
            return b'"publish":' + _members(offset=result.offset, epoch=result.epoch)
        case r.SubscribeResult():
            return b'"subscribe":' + _subscribe_result(result)
        case r.ConnectResult():
            subs = b",".join(b"%b:%b" % (_STRING(name), _subscribe_result(sub)) for name, sub in result.subs.items())
            return b'"connect":' + _members(
                client=result.client,
                version=result.version,
                expires=result.expires,
                ttl=result.ttl,
                data=_raw(result.data),
                subs=b"{%b}" % subs if subs else b"",
                ping=result.ping,
                pong=result.pong,
            )
        case r.UnsubscribeResult():
            return b'"unsubscribe":{}'
        case r.PresenceResult():
            members = b",".join(b"%b:%b" % (_STRING(info.client), _info(info)) for info in result.presence)
            return b'"presence":{"presence":{%b}}' % members
        case r.PresenceStatsResult():
            return b'"presence_stats":{"num_clients":%d,"num_users":%d}' % (result.num_clients, result.num_users)
        case r.HistoryResult():
            return b'"history":{"publications":%b,"epoch":%b,"offset":%d}' % (
                _list(result.publications),
                _STRING(result.top.epoch),
                result.top.offset,
            )
        case r.RpcResult():
            return b'"rpc":' + _members(data=_raw(result.data))
        case r.RefreshResult():
            return b'"refresh":' + _members(expires=result.expires, ttl=result.ttl)
        case r.SubRefreshResult():
            return b'"sub_refresh":' + _members(expires=result.expires, ttl=result.ttl)


def _push(push: r.Push) -> bytes:
    channel = b""
    match push:
        case r.JoinPush():
            return b'{"channel":%b,"join":{"info":%b}}' % (_STRING(push.channel), _info(push.info))
        case r.LeavePush():
            return b'{"channel":%b,"leave":{"info":%b}}' % (_STRING(push.channel), _info(push.info))
        case r.UnsubscribePush():
            return b'{"channel":%b,"unsubscribe":{"code":%d,"reason":%b}}' % (
                _STRING(push.channel),
                push.code,
                _STRING(push.reason),
            )
        case r.MessagePush():
            return b'{"message":{"data":%b}}' % _raw(push.data)
        case r.SubscribePush():
            body = _members(
                recoverable=push.recoverable,
                epoch=push.epoch,
                offset=push.offset,
                positioned=push.positioned,
                data=_raw(push.data),
            )
            return b'{"channel":%b,"subscribe":%b}' % (_STRING(push.channel), body)
        case r.RefreshPush():
            return b'{"refresh":%b}' % _members(expires=push.expires, ttl=push.ttl)
        case r.DisconnectPush():
            return b'{"disconnect":{"code":%d,"reason":%b%b}}' % (
                push.code,
                _STRING(push.reason),
                b',"reconnect":true' if push.reconnect else b"",
            )
        case r.PublicationPush():
            return b'{"channel":%b,"pub":%b}' % (_STRING(push.channel), _publication(push.publication, push.epoch))
    raise AssertionError(channel)
