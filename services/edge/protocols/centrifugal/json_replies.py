"""Encodes replies and pushes of the Centrifugal JSON protocol, each as one line.

Payloads (`data`, `conn_info`, `chan_info`) are JSON texts already. They are inserted as they are, without raw newlines:
between the tokens of a JSON text a newline has no meaning, but on the wire it ends the line. Wire protocol, 2, 3, 5
and 6.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import msgspec

from services.edge.domain import replies as r
from services.edge.domain.connections import Pings
from services.edge.domain.model import ClientInfo, Publication
from services.edge.protocols.centrifugal.deltas import text_patch_of, with_previous

_text: Callable[[object], bytes] = msgspec.json.Encoder().encode  # its output has no raw newlines


def publication_push(push: r.PublicationPush) -> bytes:
    """Encode a publication push.

    A function of its own, because it is the most frequent: it is called once per publication.
    """
    return b'{"push":{"channel":%b,"pub":%b}}' % (_text(push.channel), _publication(push.publication, push.epoch))


def delta_push(push: r.PublicationPush, previous: bytes | None) -> bytes:
    """Encode a push to subscriptions with delta: a patch of `previous`, or full."""
    publication = _delta_publication(push.publication, previous, push.epoch)
    return b'{"push":{"channel":%b,"pub":%b}}' % (_text(push.channel), publication)


def reply(command_id: int, result: r.Result) -> bytes:
    """Encode the reply to any command but connect."""
    return b'{"id":%d,%b}' % (command_id, _RESULTS[type(result)](result))


def connected(command_id: int, result: r.ConnectResult, pings: Pings) -> bytes:
    """Encode the reply to connect, which announces the pings."""
    return b'{"id":%d,%b}' % (command_id, _connect(result, pings))


def push(reply: r.Push) -> bytes:
    """Encode any push."""
    return b'{"push":%b}' % _PUSHES[type(reply)](reply)


def _members(**members: bytes | str | int | bool) -> bytes:
    """Encode an object of the members that are not zero.

    Values of type bytes are JSON texts already.
    """
    return b"{%b}" % b",".join(
        [_key(name) + (value if type(value) is bytes else _text(value)) for name, value in members.items() if value]
    )


@functools.cache  # bounded: it has only the member names of this module
def _key(name: str) -> bytes:
    return b'"%b":' % name.encode()


def _payload(data: bytes) -> bytes:
    """Encode a required payload: null if it is empty."""
    return data.replace(b"\n", b"") or b"null"


def _optional(data: bytes) -> bytes:
    """Encode an optional payload: empty, and so left out, if it is empty or null."""
    return b"" if data == b"null" else data.replace(b"\n", b"")


def _info(info: ClientInfo) -> bytes:
    return _small_info(info) if info.is_small else _info_text(info)


@functools.lru_cache(maxsize=4_096)
def _small_info(info: ClientInfo) -> bytes:
    """Encode a small client info; cached, because clients publish more than once."""
    return _info_text(info)


def _info_text(info: ClientInfo) -> bytes:
    conn_info = b',"conn_info":' + _payload(info.conn_info) if info.conn_info else b""
    chan_info = b',"chan_info":' + _payload(info.chan_info) if info.chan_info else b""
    return b'{"user":%b,"client":%b%b%b}' % (_text(info.user), _text(info.client), conn_info, chan_info)


def _publication(publication: Publication, epoch: str = "") -> bytes:
    info = b',"info":' + _info(publication.info) if publication.info is not None else b""
    offset = b',"offset":%d' % publication.offset if publication.offset else b""
    tags = b',"tags":' + _text(publication.tags) if publication.tags else b""
    time = b',"time":%d' % publication.time_ms if publication.time_ms else b""
    if epoch and publication.offset == 1:
        time += b',"epoch":' + _text(epoch)
    return b'{"data":%b%b%b%b%b}' % (publication.data.replace(b"\n", b"") or b"null", info, offset, tags, time)


def _delta_publication(publication: Publication, previous: bytes | None, epoch: str = "") -> bytes:
    """Encode a publication with its data, or a patch, as a JSON string."""
    patch = text_patch_of(publication, previous)
    data = _text((patch or publication.data or b"null").decode(errors="replace"))
    text = _publication(msgspec.structs.replace(publication, data=data), epoch)
    return text[:-1] + b',"delta":true}' if patch else text


def _publications(publications: list[Publication]) -> bytes:
    return b"[%b]" % b",".join(map(_publication, publications))


def _delta_publications(publications: list[Publication]) -> bytes:
    return b"[%b]" % b",".join([_delta_publication(*one) for one in with_previous(publications)])


# Results of commands, as a member of the reply: `"name":{…}`.


def _subscribe_result(result: r.SubscribeResult) -> bytes:
    publications = _delta_publications if result.delta else _publications
    return _members(
        expires=result.expires,
        ttl=result.ttl,
        recoverable=result.recoverable,
        epoch=result.epoch,
        publications=publications(result.publications) if result.publications else b"",
        recovered=result.recovered,
        offset=result.offset,
        positioned=result.positioned,
        data=_optional(result.data),
        was_recovering=result.was_recovering,
        delta=result.delta,
    )


def _subscribe(result: r.SubscribeResult) -> bytes:
    return b'"subscribe":' + _subscribe_result(result)


def _connect(result: r.ConnectResult, pings: Pings) -> bytes:
    ping = int(pings.interval_s)
    subs = b",".join(b"%b:%b" % (_text(channel), _subscribe_result(sub)) for channel, sub in result.subs.items())
    return b'"connect":' + _members(
        client=result.client,
        version=result.version,
        expires=result.expires,
        ttl=result.ttl,
        data=_optional(result.data),
        subs=b"{%b}" % subs if subs else b"",
        ping=ping,
        pong=ping > 0 and pings.timeout_s > 0,
    )


def _unsubscribe(_: r.UnsubscribeResult) -> bytes:
    return b'"unsubscribe":{}'


def _publish(result: r.PublishResult) -> bytes:
    if result.offset and result.epoch:  # extension of this server
        return b'"publish":{"offset":%d,"epoch":%b}' % (result.offset, _text(result.epoch))
    return b'"publish":' + _members(offset=result.offset, epoch=result.epoch)


def _presence(result: r.PresenceResult) -> bytes:
    members = b",".join(b"%b:%b" % (_text(info.client), _info(info)) for info in result.presence)
    return b'"presence":{"presence":{%b}}' % members


def _presence_stats(result: r.PresenceStatsResult) -> bytes:
    return b'"presence_stats":{"num_clients":%d,"num_users":%d}' % (result.num_clients, result.num_users)


def _history(result: r.HistoryResult) -> bytes:
    return b'"history":{"publications":%b,"epoch":%b,"offset":%d}' % (
        _publications(result.publications),
        _text(result.top.epoch),
        result.top.offset,
    )


def _rpc(result: r.RpcResult) -> bytes:
    return b'"rpc":' + _members(data=_optional(result.data))


def _refresh(result: r.RefreshResult) -> bytes:
    return b'"refresh":' + _members(expires=result.expires, ttl=result.ttl)


def _sub_refresh(result: r.SubRefreshResult) -> bytes:
    return b'"sub_refresh":' + _members(expires=result.expires, ttl=result.ttl)


def _error(error: r.ErrorResult) -> bytes:
    return b'"error":' + _members(
        code=error.code,
        message=error.message or "error",  # never empty, because SDKs read it
        temporary=error.temporary,
        retry_after_ms=error.retry_after_ms,
    )


_RESULTS: dict[type, Callable[[Any], bytes]] = {
    r.SubscribeResult: _subscribe,
    r.UnsubscribeResult: _unsubscribe,
    r.PublishResult: _publish,
    r.PresenceResult: _presence,
    r.PresenceStatsResult: _presence_stats,
    r.HistoryResult: _history,
    r.RpcResult: _rpc,
    r.RefreshResult: _refresh,
    r.SubRefreshResult: _sub_refresh,
    r.ErrorResult: _error,
}


# Pushes, as the value of the member `push`.


def _publication_push(push: r.PublicationPush) -> bytes:
    return b'{"channel":%b,"pub":%b}' % (_text(push.channel), _publication(push.publication, push.epoch))


def _join(push: r.JoinPush) -> bytes:
    updated = b',"updated":true' if push.updated else b""  # extension of this server
    return b'{"channel":%b,"join":{"info":%b%b}}' % (_text(push.channel), _info(push.info), updated)


def _leave(push: r.LeavePush) -> bytes:
    return b'{"channel":%b,"leave":{"info":%b}}' % (_text(push.channel), _info(push.info))


def _unsubscribe_push(push: r.UnsubscribePush) -> bytes:
    return b'{"channel":%b,"unsubscribe":{"code":%d,"reason":%b}}' % (
        _text(push.channel),
        push.code,
        _text(push.reason),
    )


def _subscribe_push(push: r.SubscribePush) -> bytes:
    body = _members(
        recoverable=push.recoverable,
        epoch=push.epoch,
        offset=push.offset,
        positioned=push.positioned,
        data=_optional(push.data),
    )
    return b'{"channel":%b,"subscribe":%b}' % (_text(push.channel), body)


def _refresh_push(push: r.RefreshPush) -> bytes:
    return b'{"refresh":%b}' % _members(expires=push.expires, ttl=push.ttl)


_PUSHES: dict[type, Callable[[Any], bytes]] = {
    r.PublicationPush: _publication_push,
    r.JoinPush: _join,
    r.LeavePush: _leave,
    r.UnsubscribePush: _unsubscribe_push,
    r.SubscribePush: _subscribe_push,
    r.RefreshPush: _refresh_push,
}
