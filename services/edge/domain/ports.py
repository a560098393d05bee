"""Interfaces between the edge's domain and the outside.

Adapters implement `Broker`, `Store`, `Presence`, `ControlBus`, `ControlLog` and `Accounts`; the transport implements
`Connection`; client protocols implement `Dialect`. The domain implements the listeners, which the others call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import NamedTuple, Protocol

from services.edge.domain.commands import Command
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
from services.edge.domain.replies import JoinPush, Reply
from services.shared.errors import ErrorCode


class Connection(Protocol):
    """Sends to one client. Implemented by the transport.

    All methods return at once. After the end of the connection they may still be called and have no effect.
    """

    @property
    def peer(self) -> str:
        """Network address of the client, for logs and limits."""

    def send(self, frame: bytes) -> None:
        """Queue an encoded frame that the client did not ask for.

        Frames that are queued in one tick of the event loop leave in one write. If more than the bound of the outbox
        (1 MiB by default) is queued, the connection closes itself with 3008 and drops the queued frames.
        """

    def send_reply(self, frame: bytes) -> None:
        """Queue an encoded frame that the client asked for.

        It does not count towards the bound of the outbox. A caller that sends many frames in this way must wait while
        `replies_wait` is true. So the client's own reading limits what is queued.
        """

    @property
    def replies_wait(self) -> bool:
        """Whether more than 64 KiB of replies wait for the client.

        `MessageHandler.replies_taken` is called when that is no longer so.
        """

    def delivery(self) -> tuple[int, int]:
        """Return the bytes that the client's system has confirmed, and those under way.

        The first number only grows. Bytes under way are those that were queued and are not confirmed yet.
        """

    def close(self, code: int, reason: str) -> None:
        """Send the queued frames and a close frame, then close our side of TCP.

        For 3008 the queued frames are dropped. Nothing more is read. TCP ends at the latest one second after the
        client's system has all bytes. A client that takes hardly any bytes has 5 s.
        """

    def drop_after(self, delay_s: float) -> None:
        """Read nothing more, and drop the TCP connection after `delay_s` seconds.

        No close frame is sent.
        """

    def pause_reading(self) -> None:
        """Read no more bytes from the client until `resume_reading` is called."""

    def resume_reading(self) -> None: ...

    def send_websocket_ping(self) -> None:
        """Send a WebSocket ping frame.

        The answer arrives as `MessageHandler.websocket_pong`.
        """


class MessageHandler(Protocol):
    """Receives the events of one connection from the transport.

    No method may raise or block.
    """

    def message(self, payload: bytes, *, binary: bool) -> None:
        """Take one whole WebSocket message. The transport has checked that text is UTF-8."""

    def websocket_pong(self) -> None: ...

    def replies_taken(self) -> None:
        """Note that `Connection.replies_wait` has become false."""

    def closed(self, *, clean: bool) -> None:
        """Note that the connection is over. Called exactly once.

        `clean`: a close frame of the client arrived.
        """


class Dialect(Protocol):
    """Codec of one client protocol.

    It decodes messages to commands and encodes replies to frames. It holds no state of a connection, so one object
    serves all connections.
    """

    @property
    def name(self) -> str:
        """Short name of the protocol, such as "json"."""

    @property
    def carries_bytes(self) -> bool:
        """Whether publications may have data of any bytes; otherwise it must be a JSON text."""

    def decode(self, payload: bytes, *, binary: bool) -> list[Command]:
        """Return the commands of a message in the order sent.

        A part that can't be decoded becomes a `Malformed` command and ends the list.
        """

    def encode(self, reply: Reply) -> bytes:
        """Return the reply or push as a frame, ready to be written to the socket."""

    def encode_joins(self, pushes: Sequence[JoinPush]) -> bytes:
        """Return one frame with all the pushes, in the given order."""

    @property
    def ping_frame(self) -> bytes:
        """Frame of a ping in the client protocol, as opposed to a WebSocket ping frame."""


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
        publication is returned. Without a key ("") the append is never repeated: if the answer is lost, it raises
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
        stays after a leave that is not clean.
        """

    def leave(self, channel: str, client: str, *, owner: object, clean: bool) -> None:
        """Take the client off the roster, if its entry belongs to `owner`.

        `clean`: the client unsubscribed or closed the connection itself, or the server ended the subscription. If not,
        the entry stays for its grace.
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
    """Sends questions and their answers to all connected edges, this one included."""

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


class TokenPair(NamedTuple):
    """Tokens of a sign-in. `expires_in_s` is the lifetime of the access token."""

    access_token: str
    expires_in_s: int
    refresh_token: str
    user: str
    username: str


class EndedSession(NamedTuple):
    """A sign-in session that has ended. `session` is the claim `sid` of its tokens."""

    user: str
    session: str


class AccountRefused(Exception):
    """Auth refused a request. `status` is the HTTP status of the answer.

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

    Every call raises `AccountRefused` if auth refuses it, and `Unavailable` within 3 s if auth does not answer.
    """

    async def register(self, username: str, password: str, peer: str) -> TokenPair: ...

    async def login(self, username: str, password: str, peer: str) -> TokenPair: ...

    async def refresh(self, refresh_token: str) -> TokenPair: ...

    async def logout(self, refresh_token: str) -> EndedSession | None:
        """End the session of the token and return it; None if there is no session."""
