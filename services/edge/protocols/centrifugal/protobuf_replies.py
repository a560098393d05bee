"""Encodes replies and pushes of the Centrifugal protocol in Protobuf.

Each is preceded by its length.

The messages are those of `proto/thalamus/client/v1/client.proto`; docs/protocol.md says what they mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf.message import Message

from services.edge.domain import replies as r
from services.edge.domain.connections import Pings
from services.edge.domain.model import ClientInfo, Publication
from services.edge.protocols.centrifugal.deltas import patch_of, with_previous
from thalamus.client.v1 import client_pb2 as pb


def reply(command_id: int, result: r.Result) -> bytes:
    """Encode the reply to any command but connect."""
    message = pb.Reply(id=command_id)
    _RESULTS[type(result)](message, result)
    return delimited(message)


def connected(command_id: int, result: r.ConnectResult, pings: Pings) -> bytes:
    """Encode the reply to connect, which announces the pings."""
    message = pb.Reply(id=command_id)
    part = message.connect
    part.client, part.version = result.client, result.version
    part.expires, part.ttl = result.expires, result.ttl
    part.ping = int(pings.interval_s)
    part.pong = part.ping > 0 and pings.timeout_s > 0
    part.data = result.data
    for channel, sub in result.subs.items():
        _set_subscribe(part.subs[channel], sub)
    return delimited(message)


def push(reply: r.Push) -> bytes:
    """Encode any push."""
    message = pb.Reply()
    _PUSHES[type(reply)](message.push, reply)
    return delimited(message)


def delta_push(push: r.PublicationPush, previous: bytes | None) -> bytes:
    """Encode a push to subscriptions with delta: a patch of `previous`, or full."""
    message = pb.Reply()
    _publication_push(message.push, push)
    _set_patch(message.push.pub, push.publication, previous)
    return delimited(message)


def delimited(message: Message) -> bytes:
    """Return the message behind its length, an unsigned varint."""
    body = message.SerializeToString()
    length = len(body)
    if length < 0x80:
        return bytes((length,)) + body
    head = bytearray()
    while length >= 0x80:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + body


def _set_info(part: pb.ClientInfo, info: ClientInfo) -> None:
    part.user, part.client = info.user, info.client
    if info.conn_info:
        part.conn_info = info.conn_info
    if info.chan_info:
        part.chan_info = info.chan_info
    part.SetInParent()


def _set_publication(part: pb.Publication, publication: Publication, epoch: str = "") -> None:
    part.data = publication.data
    part.offset = publication.offset
    part.time = publication.time_ms
    if publication.info is not None:
        _set_info(part.info, publication.info)
    if publication.tags:
        part.tags.update(publication.tags)
    if epoch and publication.offset == 1:
        part.epoch = epoch


def _set_patch(part: pb.Publication, publication: Publication, previous: bytes | None) -> None:
    """Replace the data of an encoded publication by a patch, if there is one."""
    if patch := patch_of(publication, previous):
        part.data, part.delta = patch, True


def _add_publications(parts: Any, publications: Iterable[Publication]) -> None:
    for publication in publications:
        _set_publication(parts.add(), publication)


# Results of commands.


def _set_subscribe(part: pb.SubscribeResult, result: r.SubscribeResult) -> None:
    part.expires, part.ttl = result.expires, result.ttl
    part.recoverable, part.positioned = result.recoverable, result.positioned
    part.epoch, part.offset = result.epoch, result.offset
    part.recovered, part.was_recovering = result.recovered, result.was_recovering
    part.data = result.data
    _add_publications(part.publications, result.publications)
    if result.delta:
        part.delta = True
        for added, (publication, previous) in zip(part.publications, with_previous(result.publications), strict=True):
            _set_patch(added, publication, previous)
    part.SetInParent()


def _subscribe(message: pb.Reply, result: r.SubscribeResult) -> None:
    _set_subscribe(message.subscribe, result)


def _unsubscribe(message: pb.Reply, _: r.UnsubscribeResult) -> None:
    message.unsubscribe.SetInParent()  # an empty result must be there


def _publish(message: pb.Reply, result: r.PublishResult) -> None:
    message.publish.SetInParent()
    message.publish.offset, message.publish.epoch = result.offset, result.epoch


def _presence(message: pb.Reply, result: r.PresenceResult) -> None:
    message.presence.SetInParent()
    for info in result.presence:
        _set_info(message.presence.presence[info.client], info)


def _presence_stats(message: pb.Reply, result: r.PresenceStatsResult) -> None:
    message.presence_stats.SetInParent()
    message.presence_stats.num_clients, message.presence_stats.num_users = result.num_clients, result.num_users


def _history(message: pb.Reply, result: r.HistoryResult) -> None:
    message.history.SetInParent()
    message.history.offset, message.history.epoch = result.top.offset, result.top.epoch
    _add_publications(message.history.publications, result.publications)


def _rpc(message: pb.Reply, result: r.RpcResult) -> None:
    message.rpc.SetInParent()
    message.rpc.data = result.data


def _refresh(message: pb.Reply, result: r.RefreshResult) -> None:
    message.refresh.SetInParent()
    message.refresh.expires, message.refresh.ttl = result.expires, result.ttl


def _sub_refresh(message: pb.Reply, result: r.SubRefreshResult) -> None:
    message.sub_refresh.SetInParent()
    message.sub_refresh.expires, message.sub_refresh.ttl = result.expires, result.ttl


def _error(message: pb.Reply, error: r.ErrorResult) -> None:
    part = message.error
    part.code, part.temporary, part.retry_after_ms = error.code, error.temporary, error.retry_after_ms
    part.message = error.message or "error"  # never empty, because SDKs read it


_RESULTS: dict[type, Callable[[pb.Reply, Any], None]] = {
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


# Pushes.


def _publication_push(part: pb.Push, push: r.PublicationPush) -> None:
    part.channel = push.channel
    _set_publication(part.pub, push.publication, push.epoch)
    part.pub.SetInParent()


def _join(part: pb.Push, push: r.JoinPush) -> None:
    part.channel = push.channel
    _set_info(part.join.info, push.info)
    part.join.updated = push.updated


def _leave(part: pb.Push, push: r.LeavePush) -> None:
    part.channel = push.channel
    _set_info(part.leave.info, push.info)


def _unsubscribe_push(part: pb.Push, push: r.UnsubscribePush) -> None:
    part.channel = push.channel
    part.unsubscribe.code, part.unsubscribe.reason = push.code, push.reason


def _subscribe_push(part: pb.Push, push: r.SubscribePush) -> None:
    part.channel = push.channel
    part.subscribe.SetInParent()
    part.subscribe.recoverable, part.subscribe.positioned = push.recoverable, push.positioned
    part.subscribe.epoch, part.subscribe.offset = push.epoch, push.offset
    part.subscribe.data = push.data


def _refresh_push(part: pb.Push, push: r.RefreshPush) -> None:
    part.refresh.SetInParent()
    part.refresh.expires, part.refresh.ttl = push.expires, push.ttl


_PUSHES: dict[type, Callable[[pb.Push, Any], None]] = {
    r.PublicationPush: _publication_push,
    r.JoinPush: _join,
    r.LeavePush: _leave,
    r.UnsubscribePush: _unsubscribe_push,
    r.SubscribePush: _subscribe_push,
    r.RefreshPush: _refresh_push,
}
