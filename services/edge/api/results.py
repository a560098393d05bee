"""Results of the server API, for OpenAPI only: methods return dicts.

The docstrings of the structs are their descriptions; each is one paragraph.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0)]
_Unanswered = Annotated[int, msgspec.Meta(ge=1)] | msgspec.UnsetType  # nodes that did not answer


class _Result(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of all results."""


class Nothing(_Result):
    """An empty object: the call was executed."""


class Subscribed(_Result):
    """The clients are subscribed, but for `refused_clients` of them.
    Those speak JSON, and the channel has binary data. Absent: none. If all were refused, it is error 108.
    """

    refused_clients: Count | msgspec.UnsetType = msgspec.UNSET


class Published(_Result):
    """Position of the publication in the log.
    Both members are absent if the channel has no log, or if the publication was not to be kept.
    """

    offset: Count | msgspec.UnsetType = msgspec.UNSET
    epoch: str | msgspec.UnsetType = msgspec.UNSET


class Error(_Result):
    """An error; `code` is one of the client protocol, section 8.1.
    `retry_after_ms`: when to try again; absent: that is not known. `why`: of conversations, a word for programs.
    """

    code: Annotated[int, msgspec.Meta(ge=100, le=410)]
    message: Annotated[str, msgspec.Meta(min_length=1)]
    retry_after_ms: Annotated[int, msgspec.Meta(ge=1)] | msgspec.UnsetType = msgspec.UNSET
    why: str | msgspec.UnsetType = msgspec.UNSET


class Broadcasted(_Result):
    """One response per channel, in order: an object with `result` or `error`."""

    responses: list[BroadcastResponse]


class BroadcastResponse(_Result):
    """Outcome of the publish to one channel: either `result` or `error`."""

    result: Published | msgspec.UnsetType = msgspec.UNSET
    error: Error | msgspec.UnsetType = msgspec.UNSET


class ClientInfo(_Result):
    """A client as others see it. `conn_info` and `chan_info` come from its tokens."""

    user: str
    client: str
    conn_info: Any = None
    chan_info: Any = None


class Publication(_Result):
    """One publication.
    `b64data`: the data in base64, instead of `data`, if the namespace has binary data. `info` is absent if a backend
    published it. `time`: Unix milliseconds.
    """

    offset: Count
    data: Any = None
    b64data: str | msgspec.UnsetType = msgspec.UNSET
    info: ClientInfo | msgspec.UnsetType = msgspec.UNSET
    tags: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    time: int | msgspec.UnsetType = msgspec.UNSET


class Grant(_Result):
    """One grant. `channel` may have `*`. `expire_at`: Unix seconds; absent: never."""

    channel: str
    operation: str
    expire_at: float | msgspec.UnsetType = msgspec.UNSET


class GrantList(_Result):
    """Grants of a user that have not expired, by channel and operation."""

    grants: list[Grant]


class HistoryPage(_Result):
    """A page of a channel's log.
    `offset` and `epoch`: position of the channel's newest publication, not of the page.
    """

    publications: list[Publication]
    offset: Count
    epoch: str


class Members(_Result):
    """Clients in the channel, by client id."""

    presence: dict[str, ClientInfo]


class Stats(_Result):
    """Number of clients in the channel, and of their distinct users."""

    num_clients: Count
    num_users: Count


class MemberPage(_Result):
    """Clients in the channel, by client id.
    `cursor`: where the next page begins; absent: this is the last one.
    """

    members: list[ClientInfo]
    cursor: str | msgspec.UnsetType = msgspec.UNSET


class Counts(_Result):
    """Numbers of clients and users, by channel."""

    channels: dict[str, Stats]


class UserChannels(_Result):
    """Names of channels, sorted.
    `cursor`: where the next page begins; absent: this is the last one.
    """

    channels: list[str]
    cursor: str | msgspec.UnsetType = msgspec.UNSET


class Online(_Result):
    """What is known of the connections of a user.
    `state`: away if all connections say so. `since`, `last_seen`: Unix milliseconds. `last_seen` is there only if the
    user is not online, the others only if the user is.
    """

    online: bool
    state: Literal["active", "away"] | msgspec.UnsetType = msgspec.UNSET
    since: Count | msgspec.UnsetType = msgspec.UNSET
    connections: Count | msgspec.UnsetType = msgspec.UNSET
    last_seen: Count | msgspec.UnsetType = msgspec.UNSET


class OnlineUsers(_Result):
    """What is known of each user, by id."""

    users: dict[str, Online]


class PresenceChanged(_Result):
    """For how many clients it was done.
    `refused_clients`: how many have no place for data, because their subscription has an `info` that is no object;
    absent: none. If all were refused, it is error 108.
    """

    num_clients: Count
    refused_clients: Count | msgspec.UnsetType = msgspec.UNSET


class ChannelFigures(_Result):
    """Number of subscribers of one channel."""

    num_clients: Count


class ChannelList(_Result):
    """Channels by name.
    `unanswered`: how many nodes did not answer, if `partial` was asked for; their subscribers are missing.
    """

    channels: dict[str, ChannelFigures]
    unanswered: _Unanswered = msgspec.UNSET


class Connection(_Result):
    """One connection.
    `edge`: name of its edge. `connected_at`: Unix milliseconds. `name`: how the client calls itself. `session`: the
    claim `sid` of its token, by which it can be revoked. Absent members: there is none.
    """

    client: str
    user: str
    edge: str
    edge_id: str
    connected_at: int
    transport: str
    protocol: str
    name: str | msgspec.UnsetType = msgspec.UNSET
    session: str | msgspec.UnsetType = msgspec.UNSET
    channels: list[str] | msgspec.UnsetType = msgspec.UNSET


class ConnectionPage(_Result):
    """Connections, by client id.
    `cursor`: where the next page begins; absent: this is the last one. `unanswered`: how many nodes did not answer, if
    `partial` was asked for; their connections are missing.
    """

    connections: list[Connection]
    cursor: str | msgspec.UnsetType = msgspec.UNSET
    unanswered: _Unanswered = msgspec.UNSET


class NodeFigures(_Result):
    """Figures of one node. `num_subs`: subscriptions. `uptime`: seconds."""

    uid: str
    name: str
    version: str
    num_clients: Count
    num_users: Count
    num_channels: Count
    num_subs: Count
    uptime: Count


class Nodes(_Result):
    """All nodes, sorted by `uid`.
    `unanswered`: how many are missing, because they did not answer, if `partial` was asked for.
    """

    nodes: list[NodeFigures]
    unanswered: _Unanswered = msgspec.UNSET


class Replies(_Result):
    """One reply per command, in order.
    Each is an object with `error`, or with the method's name and its result.
    """

    replies: list[dict[str, Any]]


class SignedIn(_Result):
    """Tokens of a signed-in user.
    `access_token`: a connection token. `refresh_token`: can be used once.
    """

    access_token: str
    expires_in_s: Count
    refresh_token: str
    user: str
    username: str


class Registrations(_Result):
    """Who may make an account with `/auth/register`.
    `open`: anybody. `invite`: whoever has an invite. `closed`: nobody.
    """

    registration: Literal["open", "invite", "closed"]


class Ticket(_Result):
    """A ticket for one WebSocket handshake: `?ticket=` in its address."""

    ticket: str
    expires_in_s: Count


class SessionTicket(_Result):
    """A ticket of a signed-in user for one WebSocket handshake (`?session=`)."""

    session: str
    expires_in_s: Count
    user: str
    username: str


RESULTS: dict[str, type[_Result]] = {
    "publish": Published,
    "broadcast": Broadcasted,
    "subscribe": Subscribed,
    "unsubscribe": Nothing,
    "disconnect": Nothing,
    "revoke": Nothing,
    "refresh": Nothing,
    "grants_give": Nothing,
    "grants_take": Nothing,
    "grants_list": GrantList,
    "history": HistoryPage,
    "history_remove": Nothing,
    "presence": Members,
    "presence_stats": Stats,
    "presence_members": MemberPage,
    "presence_counts": Counts,
    "presence_channels": UserChannels,
    "presence_online": OnlineUsers,
    "presence_enter": PresenceChanged,
    "presence_update": PresenceChanged,
    "presence_leave": PresenceChanged,
    "presence_remove": PresenceChanged,
    "channels": ChannelList,
    "connections": ConnectionPage,
    "info": Nodes,
    "batch": Replies,
}
