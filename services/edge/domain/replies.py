"""What clients are told, whatever dialect they speak. Zero values stay off the wire; source: wire protocol, 5-6."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.edge.domain.model import ClientInfo, Position, Publication


@dataclass(slots=True)
class SubscribeResult:
    """Also the value of `subs` in `ConnectResult`."""

    expires: bool = False
    ttl: int = 0
    recoverable: bool = False
    epoch: str = ""
    publications: list[Publication] = field(default_factory=list)
    recovered: bool = False
    offset: int = 0
    positioned: bool = False
    data: bytes = b""
    was_recovering: bool = False


@dataclass(slots=True)
class ConnectResult:
    client: str
    version: str
    expires: bool = False
    ttl: int = 0
    data: bytes = b""
    subs: dict[str, SubscribeResult] = field(default_factory=dict)
    ping: int = 0
    pong: bool = False


@dataclass(slots=True)
class UnsubscribeResult: ...


@dataclass(slots=True)
class PublishResult:
    """Offset and epoch are our extension: where the publication stands; zero for channels without a log."""

    offset: int = 0
    epoch: str = ""


@dataclass(slots=True)
class PresenceResult:
    presence: list[ClientInfo]  # on the wire a map by client id


@dataclass(slots=True)
class PresenceStatsResult:
    num_clients: int
    num_users: int


@dataclass(slots=True)
class HistoryResult:
    publications: list[Publication]
    top: Position


@dataclass(slots=True)
class RpcResult:
    data: bytes = b""


@dataclass(slots=True)
class RefreshResult:
    expires: bool = False
    ttl: int = 0


@dataclass(slots=True)
class SubRefreshResult:
    expires: bool = False
    ttl: int = 0


@dataclass(slots=True)
class ErrorReply:
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


@dataclass(slots=True)
class Answer:
    """The reply to the command with this id."""

    id: int
    result: Result


@dataclass(slots=True)
class PublicationPush:
    channel: str
    publication: Publication
    epoch: str = ""  # sent only with offset 1 (wire protocol, 6)


@dataclass(slots=True)
class JoinPush:
    channel: str
    info: ClientInfo


@dataclass(slots=True)
class LeavePush:
    channel: str
    info: ClientInfo


@dataclass(slots=True)
class UnsubscribePush:
    channel: str
    code: int
    reason: str


@dataclass(slots=True)
class MessagePush:
    data: bytes


@dataclass(slots=True)
class SubscribePush:
    """A server-side subscription made after connect."""

    channel: str
    recoverable: bool = False
    epoch: str = ""
    offset: int = 0
    positioned: bool = False
    data: bytes = b""


@dataclass(slots=True)
class RefreshPush:
    """The server prolonged the connection."""

    expires: bool = False
    ttl: int = 0


@dataclass(slots=True)
class DisconnectPush:
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
