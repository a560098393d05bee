"""Replies and pushes to clients, independent of the protocol that carries them.

Members with their zero value are left out on the wire, unless the protocol requires them. The meaning of each member is
in wire protocol, 5 and 6.
"""

from __future__ import annotations

import msgspec

from services.edge.domain.model import ClientInfo, Publication, StreamPosition


class SubscribeResult(msgspec.Struct, gc=False):
    """Result of a subscribe command. `ttl` is in seconds.

    `ConnectResult.subs` has one for each server-side subscription.
    """

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
    delta: bool = False  # the publications of the subscription, these included, may be patches


class ConnectResult(msgspec.Struct, gc=False):
    client: str
    version: str
    expires: bool = False
    ttl: int = 0
    data: bytes = b""
    subs: dict[str, SubscribeResult] = {}


class UnsubscribeResult(msgspec.Struct, gc=False): ...


class PublishResult(msgspec.Struct, gc=False):
    """Result of a publish command.

    `offset` and `epoch` are an extension of this server: the position of the publication. They are empty for channels
    without a log.
    """

    offset: int = 0
    epoch: str = ""


class PresenceResult(msgspec.Struct, gc=False):
    presence: list[ClientInfo]  # on the wire a map from client id to client info


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


class ErrorResult(msgspec.Struct, gc=False):
    """Result of a command that failed."""

    code: int
    message: str
    temporary: bool = False
    retry_after_ms: int = 0  # extension of this server; left out when 0


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
    | ErrorResult
)


class PublicationPush(msgspec.Struct, gc=False):
    channel: str
    publication: Publication
    epoch: str = ""  # sent only with offset 1 (wire protocol, 6)
    previous: bytes | None = None  # data of the publication before it, for subscriptions with delta that have it


class JoinPush(msgspec.Struct, gc=False):
    """Tells of a client that joined.

    With `updated` it had joined before, and this is its new info.
    """

    channel: str
    info: ClientInfo
    updated: bool = False  # extension of this server


class LeavePush(msgspec.Struct, gc=False):
    channel: str
    info: ClientInfo


class UnsubscribePush(msgspec.Struct, gc=False):
    channel: str
    code: int
    reason: str


class SubscribePush(msgspec.Struct, gc=False):
    """Tells the client of a server-side subscription that was made after connect."""

    channel: str
    recoverable: bool = False
    epoch: str = ""
    offset: int = 0
    positioned: bool = False
    data: bytes = b""


class RefreshPush(msgspec.Struct, gc=False):
    """Tells the client the new expiry of its connection. `ttl` is in seconds."""

    expires: bool = False
    ttl: int = 0


Push = PublicationPush | JoinPush | LeavePush | UnsubscribePush | SubscribePush | RefreshPush
