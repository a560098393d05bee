"""Interfaces between the edge's domain and its adapters.

Adapters implement `Broker`, `Store`, `Presence`, `ControlBus`, `ControlLog`, `RevocationLog`, `Tickets` and
`Accounts`. The domain implements the listeners, which the adapters call. `connections.py` has the interfaces of
transport and client protocols.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from typing import NamedTuple, Protocol

from services.edge.domain.access.revocations import Revocation
from services.edge.domain.model import (
    AppendResult,
    ClientInfo,
    ControlCommand,
    ControlCommandId,
    ControlLogPage,
    HistoryPage,
    PresenceStats,
    Publication,
    StreamPosition,
)
from services.shared.errors import ErrorCode


class ChannelListener(Protocol):
    """Receives the pub/sub messages of channels.

    The methods are called on the event loop, in the order in which the messages arrive. They never raise.
    """

    def publication(self, channel: str, epoch: str, publication: Publication) -> None:
        """Take one publication; offset 0 and epoch "" if it is in no log."""

    def joined(self, channel: str, infos: Sequence[ClientInfo]) -> None: ...

    def left(self, channel: str, info: ClientInfo) -> None: ...

    def was_reset(self, channel: str, epoch: str) -> None:
        """Note that the log of the channel was started again with this epoch."""

    def reconnected(self) -> None:
        """Note that pub/sub was reconnected: any message may have been missed."""


class Broker(Protocol):
    """Redis as the edge uses it: pub/sub of channels, and the hot logs.

    Every call ends within 3 s. It raises `Unavailable` if Redis does not answer, and `Busy` if too many calls wait.
    """

    async def subscribe(self, channel: str) -> None:
        """Subscribe this edge to the channel; return once Redis has confirmed it."""

    async def unsubscribe(self, channel: str) -> None: ...

    async def publish(self, channel: str, publication: Publication) -> None:
        """Publish without adding to a log (durability `none`)."""

    def append(
        self, channel: str, publication: Publication, *, key_user: str, key: str, history_size: int, history_ttl_s: int
    ) -> Awaitable[AppendResult]:
        """Add to the log of a `hot` channel and publish, atomically.

        If `key_user` has used the idempotency key `key` before, nothing is added, and the position of that first
        publication is returned. Without a key ("") the append is never repeated: if the reply is lost, it raises
        `Unavailable`.
        """

    async def top(self, channel: str) -> StreamPosition:
        """Return the newest position of a `hot` channel.

        If the channel has no epoch yet, one is created.
        """

    async def tops(self, channels: Sequence[tuple[str, bool]]) -> list[StreamPosition | None]:
        """Return the newest readable position of each channel, in few round trips.

        Each item of `channels` is a name, and whether the channel is `stored`. The result has None where Redis has no
        valid metadata of the channel.
        """

    async def stored_top(self, channel: str) -> StreamPosition | None:
        """Return the newest readable position of a `stored` channel.

        None if Redis has no valid metadata of the channel: then `Store.open` brings it back.
        """

    async def read(
        self, channel: str, *, since_offset: int, limit: int, reverse: bool, stored: bool, max_bytes: int
    ) -> HistoryPage | None:
        """Return publications of the hot log after `since_offset`, oldest first.

        With `reverse` the result has those before `since_offset`, newest first; 0 means from the newest one. It has at
        most `limit` publications, little more than `max_bytes` bytes, and nothing beyond the newest readable
        publication. It may begin later than asked for if the log was trimmed: the caller compares offsets. None if
        Redis has no such log.
        """

    async def reset(self, channel: str, epoch: str) -> None:
        """Start a `hot` log again with a new epoch, and publish that.

        Called if the log has lost publications that were delivered. `epoch` is the epoch that lost them.
        """

    async def remove_history(self, channel: str) -> None:
        """Remove the publications of a `hot` log; its epoch and last offset stay."""


class Store(Protocol):
    """The durable log of `stored` channels, kept by the persistence service.

    Every call raises `Unavailable` within 3 s if persistence does not answer, and `Busy` if it refuses the call.
    """

    def append(
        self, channel: str, publication: Publication, *, key_user: str, key: str, history_size: int, history_ttl_s: int
    ) -> Awaitable[AppendResult]:
        """Number, store, make readable and publish a publication.

        Returns once all of it is done.
        """

    async def open(self, channel: str) -> StreamPosition:
        """Return the newest readable position.

        Makes sure that Redis has the metadata of the channel.
        """

    async def has_begun(self, channel: str) -> bool:
        """Return whether the store has the channel; do not create it."""

    async def read(self, channel: str, *, since_offset: int, limit: int, reverse: bool, max_bytes: int) -> HistoryPage:
        """Return publications as `Broker.read` does, from the store."""

    async def remove_history(self, channel: str) -> None: ...


class Presence(Protocol):
    """The roster: which clients are in which channel.

    Changes are remembered on the edge until the presence service has them. So only reads can fail.
    """

    def enter(self, channel: str, info: ClientInfo, *, owner: object, announce: bool, grace_s: float) -> None:
        """Put the client on the roster of the channel, or replace its entry.

        The entry then belongs to `owner`. `announce`: join and leave are published. `grace_s`: seconds that the entry
        stays after a broken connection.
        """

    def leave(self, channel: str, client: str, *, owner: object, stays_s: float) -> None:
        """Take the client off the roster, if its entry belongs to `owner`.

        The entry stays for `stays_s`, or for its grace if that is less; 0: it goes at once.
        """

    async def written(self, channel: str, client: str) -> bool:
        """Wait until presence has the latest change of this entry, 1 s at most.

        Return False if it has not yet: it gets the change as soon as it answers again.
        """

    async def members(self, channel: str) -> Sequence[ClientInfo]:
        """Return the clients in the channel; raise `Unavailable` within 1 s."""

    async def stats(self, channel: str) -> PresenceStats:
        """Return the numbers of clients and users; raise `Unavailable` within 1 s."""


class ControlBus(Protocol):
    """Sends questions and their replies to all connected edges, this one included."""

    async def publish_control(self, payload: bytes) -> int:
        """Publish to all edges; return how many received it.

        Raises:
            Unavailable: within 3 s, if Redis does not answer.
        """


class ControlLog(Protocol):
    """The control log: control commands to every edge, kept for a minute.

    Every call raises `Unavailable` within 3 s if Redis does not answer.
    """

    async def append(self, payload: bytes) -> int:
        """Append a control command and publish it; return how many edges received it.

        Raises:
            Unavailable: the outcome is unknown: the command may be in the log.
        """

    async def read(self, after: ControlCommandId) -> ControlLogPage:
        """Return the control commands after the id `after`, as far as they are kept."""


class ControlListener(Protocol):
    """Receives control commands from pub/sub. Called on the event loop; never raises."""

    def on_command(self, command: ControlCommand) -> None: ...

    def poll(self) -> None:
        """Note that pub/sub was (re)connected: control commands may have been missed."""


class Tickets(Protocol):
    """Tickets of the whole cluster.

    Each stands for a token, is good once, and for a short time.

    Every call raises `Unavailable` within 3 s if Redis does not answer.
    """

    async def put(self, ticket: str, token: str, ttl_s: int) -> None:
        """Keep the token for a ticket, for `ttl_s` seconds."""

    async def take(self, ticket: str) -> str | None:
        """Use up a ticket and return its token; None if it is unknown, used or too old."""


class RevocationListener(Protocol):
    """Receives the entries of the list of revocations.

    The methods are called on the event loop; they never raise.
    """

    def take(self, entries: Iterable[Revocation]) -> None:
        """Take entries; some may be known already."""

    def lost(self) -> None:
        """Note that entries may be lost; then all that are left are taken again."""


class RevocationLog(Protocol):
    """The list of revocations, which all edges share.

    Every call raises `Unavailable` within 3 s if Redis does not answer.
    """

    async def append(self, entry: Revocation) -> None:
        """Append an entry.

        Raises:
            Unavailable: the outcome is unknown: it may be in the list.
        """

    async def poll(self) -> None:
        """Read what is new, and give it to the listener."""


class TokenPair(NamedTuple):
    """Tokens of a sign-in. `expires_in_s` is the lifetime of the access token."""

    access_token: str
    expires_in_s: int
    refresh_token: str
    user: str
    username: str


class EndedSession(NamedTuple):
    """A sign-in session that has ended.

    `session` is the claim `sid` of its tokens. `access_ttl_s` is how long they could be good from now on, seconds.
    """

    user: str
    session: str
    access_ttl_s: int


class AccountRefused(Exception):
    """Auth refused a request. `status` is the HTTP status of the response.

    `ended`: the session of the refused request, if auth has ended it.
    """

    def __init__(
        self, status: int, code: ErrorCode, message: str, retry_after_s: int = 0, ended: EndedSession | None = None
    ) -> None:
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s
        self.ended = ended
        super().__init__(message)


class Accounts(Protocol):
    """User accounts, kept by the auth service.

    Every call raises `AccountRefused` if auth refuses it, `Busy` if auth has too much to do, and `Unavailable` within
    3 s if auth does not answer.
    """

    async def register(self, username: str, password: str, peer: str) -> TokenPair: ...

    async def login(self, username: str, password: str, peer: str) -> TokenPair: ...

    async def refresh(self, refresh_token: str) -> TokenPair: ...

    async def logout(self, refresh_token: str) -> EndedSession | None:
        """End the session of the token and return it; None if there is no session."""
