"""Interfaces between the edge's domain and its adapters.

Adapters implement `Broker`, `Store`, `ControlBus`, `ControlLog`, `RevocationLog`, `Tickets`, `SessionTable`,
`GrantStore` and `Accounts`. The domain implements the listeners, which the adapters call. `presence_ports.py` has the
interface of presence, `connections.py` those of transport and client protocols, `limits/ports.py` those of limits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from typing import NamedTuple, Protocol

from services.edge.domain.access.grants import Grant, Operation
from services.edge.domain.access.revocations import Revocation
from services.edge.domain.model import (
    AppendResult,
    ClientInfo,
    ControlCommand,
    ControlCommandId,
    ControlLogPage,
    HistoryPage,
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

    def ephemeral(self, channel: str, publication: Publication) -> None:
        """Take one ephemeral event; see `channels/ephemeral.py`."""

    def joined(self, channel: str, infos: Sequence[ClientInfo]) -> None: ...

    def updated(self, channel: str, infos: Sequence[ClientInfo]) -> None:
        """Take new infos of clients that have joined before."""

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

    async def publish_ephemeral(self, channel: str, publication: Publication) -> bool:
        """Publish an ephemeral event.

        False: nothing was published, because an edge of before is connected, which can't read it.
        """

    def append(
        self,
        channel: str,
        publication: Publication,
        *,
        key_user: str,
        key: str,
        history_size: int,
        history_ttl_s: int,
        feed: bool = False,
    ) -> Awaitable[AppendResult]:
        """Add to the log of a `hot` channel and publish, atomically.

        If `key_user` has used the idempotency key `key` before, nothing is added, and the position of that first
        publication is returned. Without a key ("") the append is never repeated: if the reply is lost, it raises
        `Unavailable`. `feed`: the feed tells of the publication.
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
        self,
        channel: str,
        publication: Publication,
        *,
        key_user: str,
        key: str,
        history_size: int,
        history_ttl_s: int,
        feed: bool = False,
        queued: bool = False,
    ) -> Awaitable[AppendResult]:
        """Number, store, make readable and publish a publication.

        Returns once all of it is done; with `queued` once it is readable, and it may be stored later. `feed`: the feed
        tells of the publication.
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

    Each stands for a token, is good once, for a short time, and no longer than Redis keeps all that it had.

    Every call raises `Unavailable` within 3 s if Redis does not answer.
    """

    async def issue(self, token: str, ttl_s: int) -> str:
        """Return a new ticket for the token; it is good for `ttl_s` seconds."""

    async def take(self, ticket: str) -> str | None:
        """Use up a ticket and return its token; None if it is unknown, used or too old."""


class SessionTable(Protocol):
    """The session table: which edge has, or lately had, connections with a key.

    Edges list connections whose tokens expire soon, see `domain/resume.py`. Entries last 300 s from the last
    change. The methods that change them never fail: what Redis does not take now is written later.
    """

    def opened(self, key: str) -> None:
        """Note that this edge has a connection with this key."""

    def ended(self, key: str, at: float) -> None:
        """Note that the last one ended at `at`, Unix seconds."""

    def removed(self, key: str) -> None:
        """Remove what was noted of this edge."""

    def closed(self, key: str, at: float) -> None:
        """Note that a backend closed a connection at `at`, Unix seconds.

        What had ended by then, on any edge, counts no more.
        """

    async def last_seen(self, key: str) -> float | None:
        """Return when a connection with this key was last open, on any edge.

        In Unix seconds. Of connections that are open, and of edges that have died, it is the last renewal of the edge's
        lease. None: there was none lately, or none since a backend closed one.

        Raises:
            Unavailable: within a second, if Redis does not answer.
        """


class RevocationListener(Protocol):
    """Receives the entries of the list of revocations.

    The methods are called on the event loop; they never raise.
    """

    def take(self, entries: Iterable[Revocation], *, first: bool = False) -> None:
        """Take entries; some may be known already.

        `first`: they were read on a new connection, before anything else: this edge may have been cut off.
        """

    def was_read(self, took_s: float) -> None:
        """Note that all entries were taken that were there `took_s` seconds ago."""

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


class GrantStore(Protocol):
    """Grants of users, kept by the auth service.

    Every call raises `Unavailable` within 3 s if auth does not answer, and `ThalamusError` (107) if it refuses.
    """

    async def grants_of(self, user: str) -> Sequence[Grant] | None:
        """Return the grants of a user that have not expired.

        None: this auth, which is one of before, has none of anybody.
        """

    async def give_grants(
        self, user: str, channels: Sequence[str], operations: Sequence[Operation], until: float
    ) -> None:
        """Give each operation in each channel or pattern.

        `until`: Unix seconds; `NEVER`: for ever.
        """

    async def take_grants(self, user: str, channels: Sequence[str], operations: Sequence[Operation]) -> None:
        """Take grants away; empty: in all channels, and all operations."""


class TokenPair(NamedTuple):
    """Tokens of a sign-in. `expires_in_s` is the lifetime of access tokens.

    `ended`: older sessions of the user that have ended, because there were too many.
    """

    access_token: str
    expires_in_s: int
    refresh_token: str
    user: str
    username: str
    ended: tuple[str, ...] = ()


class Caller(NamedTuple):
    """A client of the HTTP API: its address, and its name for itself.

    Empty: not known.
    """

    peer: str = ""
    user_agent: str = ""


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

    @property
    def registration(self) -> str:
        """Who may make an account: `open`, `invite` or `closed`; empty: not known yet."""

    async def register(self, username: str, password: str, client: Caller, invite: str = "") -> TokenPair: ...

    async def login(self, username: str, password: str, client: Caller) -> TokenPair: ...

    async def refresh(self, refresh_token: str, client: Caller) -> TokenPair: ...

    async def logout(self, refresh_token: str) -> EndedSession | None:
        """End the session of the token and return it; None if there is no session."""
