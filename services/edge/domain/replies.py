"""What clients are told, whatever dialect they speak. Zero values stay off the wire; source: wire protocol, 5-6."""

from __future__ import annotations

import msgspec

from services.edge.domain.model import ClientInfo, Publication, StreamPosition


class SubscribeResult(msgspec.Struct, gc=False):
    """Also the value of `subs` in `ConnectResult`."""

    expires: bool = False
    ttl: int = 0
    recoverable: bool = False
    epoch: str = ""
    publications: list[Publication] = []
    recovered: bool = False
    offset: int = 0
    positioned: bool = False
    data: bytes = b""
    was_recovering: bool = False


class ConnectResult(msgspec.Struct, gc=False):
    client: str
    version: str
    expires: bool = False
    ttl: int = 0
    data: bytes = b""
    subs: dict[str, SubscribeResult] = {}
    ping: int = 0
    pong: bool = False


class UnsubscribeResult(msgspec.Struct, gc=False): ...


class PublishResult(msgspec.Struct, gc=False):
    """Offset and epoch are our extension: where the publication stands; zero for channels without a log."""

    offset: int = 0
    epoch: str = ""


class PresenceResult(msgspec.Struct, gc=False):
    presence: list[ClientInfo]  # on the wire a map by client id


class PresenceStatsResult(msgspec.Struct, gc=False):
    num_clients: int
    num_users: int


class HistoryResult(msgspec.Struct, gc=False):
    publications: list[Publication]
    top: StreamPosition


class RpcResult(msgspec.Struct, gc=False):
    data: bytes = b""


class RefreshResult(msgspec.Struct, gc=False):
    expires: bool = False
    ttl: int = 0


class SubRefreshResult(msgspec.Struct, gc=False):
    expires: bool = False
    ttl: int = 0


class ErrorReply(msgspec.Struct, gc=False):
    code: int
    message: str
    temporary: bool = False
    retry_after_ms: int = 0  # extra member, left out when 0


Result = (
    ConnectResult
    | SubscribeResult
    | UnsubscribeResult
    | PublishResult
    | PresenceResult
    | PresenceStatsResult
    | HistoryResult
    | RpcResult
    | RefreshResult
    | SubRefreshResult
    | ErrorReply
)


class Answer(msgspec.Struct, gc=False):
    """The reply to the command with this id."""

    id: int
    result: Result


class PublicationPush(msgspec.Struct, gc=False):
    channel: str
    publication: Publication
    epoch: str = ""  # sent only with offset 1 (wire protocol, 6)


class JoinPush(msgspec.Struct, gc=False):
    channel: str
    info: ClientInfo


class LeavePush(msgspec.Struct, gc=False):
    channel: str
    info: ClientInfo


class UnsubscribePush(msgspec.Struct, gc=False):
    channel: str
    code: int
    reason: str


class MessagePush(msgspec.Struct, gc=False):
    data: bytes


class SubscribePush(msgspec.Struct, gc=False):
    """A server-side subscription made after connect."""

    channel: str
    recoverable: bool = False
    epoch: str = ""
    offset: int = 0
    positioned: bool = False
    data: bytes = b""


class RefreshPush(msgspec.Struct, gc=False):
    """The server prolonged the connection."""

    expires: bool = False
    ttl: int = 0


class DisconnectPush(msgspec.Struct, gc=False):
    """Not sent on WebSocket: the close frame says it."""

    code: int
    reason: str
    reconnect: bool = False


Push = (
    PublicationPush
    | JoinPush
    | LeavePush
    | UnsubscribePush
    | MessagePush
    | SubscribePush
    | RefreshPush
    | DisconnectPush
)
Reply = Answer | Push
