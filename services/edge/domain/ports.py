"""What the edge's rules need of the world. Adapters, dialects and transport implement these."""

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
    """One client's way out. All methods return at once and may be called after the end, without effect."""

    @property
    def peer(self) -> str:
        """Address of the client, for logs and limits."""

    def send(self, frame: bytes) -> None:
        """Queue a ready-made frame; all that piles up in one tick leaves in one write.

        Over the bound of the outbox (1 MiB) the connection ends itself with 3008 and drops what is queued.
        """

    def send_reply(self, frame: bytes) -> None:
        """As `send`, for what the client asked for: it does not count towards the bound of the outbox.

        Whoever sends much in this way waits while `replies_wait`, so that the client sets the pace.
        """

    @property
    def replies_wait(self) -> bool:
        """More than 64 KiB of replies wait for the client; `MessageHandler.replies_taken` tells when no longer."""

    def delivery(self) -> tuple[int, int]:
        """Bytes that the client's system has taken so far, and bytes that are still on their way to it."""

    def close(self, code: int, reason: str) -> None:
        """Send what is queued (not for 3008) and a close frame, and close our side of TCP; read nothing more.

        TCP ends a second after the client has all of it at the latest; a client that takes hardly anything has 5 s.
        """

    def drop_after(self, delay_s: float) -> None:
        """Read nothing more and drop the TCP connection after that long, without a close frame."""

    def pause_reading(self) -> None:
        """Take no more bytes from the client until `resume_reading`."""

    def resume_reading(self) -> None: ...

    def send_websocket_ping(self) -> None:
        """Send a WebSocket ping frame; its answer arrives as `MessageHandler.websocket_pong`."""


class MessageHandler(Protocol):
    """What a transport tells of one connection. Nothing here may raise or block."""

    def message(self, payload: bytes, *, binary: bool) -> None:
        """One whole WebSocket message; text is checked UTF-8."""

    def websocket_pong(self) -> None: ...

    def replies_taken(self) -> None:
        """`Connection.replies_wait` was true, and is no longer."""

    def closed(self, *, clean: bool) -> None:
        """The connection is over; `clean`: the client itself sent a close frame. Called once, always."""


class Dialect(Protocol):
    """One client protocol: commands from messages, frames from replies. Holds no state of a connection."""

    @property
    def name(self) -> str:
        """Key of caches and a label of metrics, such as "json"."""

    def decode(self, payload: bytes, *, binary: bool) -> list[Command]:
        """Commands in the order sent; what can't be read becomes `Malformed` and ends the list."""

    def encode(self, reply: Reply) -> bytes:
        """A frame ready to be written to the socket."""

    def encode_joins(self, pushes: Sequence[JoinPush]) -> bytes:
        """One frame for all of them, in order."""

    @property
    def ping_frame(self) -> bytes:
        """The frame of the server's application ping."""


class ChannelListener(Protocol):
    """Hears what Redis carries to this edge. Called in the order of arrival, on the loop; never raises."""

    def publication(self, channel: str, epoch: str, publication: Publication) -> None:
        """One publication; offset 0 and epoch "" where the channel keeps no log."""

    def joined(self, channel: str, infos: Sequence[ClientInfo]) -> None: ...

    def left(self, channel: str, info: ClientInfo) -> None: ...

    def was_reset(self, channel: str, epoch: str) -> None:
        """The log has begun anew under this epoch."""

    def reconnected(self) -> None:
        """The pub/sub connection was made anew: anything may have been missed on every channel."""


class Broker(Protocol):
    """Redis as the edge sees it. Every call ends within 3 s: `Unavailable` where Redis does not answer."""

    async def subscribe(self, channel: str) -> None:
        """Return once Redis has confirmed that this edge hears the channel."""

    async def unsubscribe(self, channel: str) -> None: ...

    async def publish(self, channel: str, publication: Publication) -> None:
        """Announce without keeping (durability `none`)."""

    def append(
        self, channel: str, publication: Publication, *, key_user: str, key: str, history_size: int, history_ttl_s: int
    ) -> Awaitable[AppendResult]:
        """Add to the log of a `hot` channel and announce, atomically; a known key returns the first position.

        Without a key ("") nothing is tried twice: where the answer is lost, it is `Unavailable`.
        """

    async def top(self, channel: str) -> StreamPosition:
        """Readable top of a `hot` channel; makes its epoch if it has none yet."""

    async def tops(self, channels: Sequence[tuple[str, bool]]) -> list[StreamPosition | None]:
        """Readable tops of (channel, is it `stored`), in few round trips; None where Redis has no meta."""

    async def stored_top(self, channel: str) -> StreamPosition | None:
        """Readable top of a `stored` channel; None if Redis has no meta of it: ask the store to open it."""

    async def read(
        self, channel: str, *, since_offset: int, limit: int, reverse: bool, stored: bool, max_bytes: int
    ) -> HistoryPage | None:
        """Publications of the hot log strictly after (reverse: strictly before; 0: from the top) the offset.

        At most `limit`, and little more than `max_bytes`, up to the readable top. May begin later than asked where
        the log was cut: compare offsets. None if Redis has no such log.
        """

    async def reset(self, channel: str, epoch: str) -> None:
        """Begin a `hot` log of this epoch anew, and announce it: it lost what was delivered already."""

    async def remove_history(self, channel: str) -> None:
        """Drop what the hot log of a `hot` channel keeps; epoch and top stay."""


class Store(Protocol):
    """The durable log. `Unavailable` within 3 s where persistence does not answer; `Busy` where it refuses."""

    def append(
        self, channel: str, publication: Publication, *, key_user: str, key: str, history_size: int, history_ttl_s: int
    ) -> Awaitable[AppendResult]:
        """Sequence, store, make readable and announce; returns once all of it is done."""

    async def open(self, channel: str) -> StreamPosition:
        """Readable top; makes sure that Redis has the meta of the channel."""

    async def has_begun(self, channel: str) -> bool:
        """Whether the store has the channel; it is not made."""

    async def read(self, channel: str, *, since_offset: int, limit: int, reverse: bool, max_bytes: int) -> HistoryPage:
        """At most `limit`, and little more than `max_bytes`."""

    async def remove_history(self, channel: str) -> None: ...


class Presence(Protocol):
    """The roster. Changes are remembered here until presence has them; only questions can fail."""

    def enter(self, channel: str, info: ClientInfo, *, owner: object, announce: bool, grace_s: float) -> None:
        """Put the client on the roster, or replace its entry. The entry is `owner`'s: who entered last has the say."""

    def leave(self, channel: str, client: str, *, owner: object, clean: bool) -> None:
        """Take the client off the roster; no effect where its entry is not, or no more, `owner`'s."""

    async def written(self, channel: str, client: str) -> bool:
        """Wait until presence has what was changed last, 1 s at most; False: it will, as soon as it answers."""

    async def members(self, channel: str) -> Sequence[ClientInfo]:
        """Raises `Unavailable` within 1 s."""

    async def stats(self, channel: str) -> PresenceStats:
        """Raises `Unavailable` within 1 s."""


class ControlBus(Protocol):
    """Carries questions to every edge that hears, this one included."""

    async def publish_control(self, payload: bytes) -> int:
        """Returns how many edges it went to; `Unavailable` within 3 s."""


class ControlLog(Protocol):
    """Orders to every edge, kept for a minute. `Unavailable` within 3 s."""

    async def give(self, payload: bytes) -> int:
        """Keep it and tell those who listen; returns how many they are. `Unavailable`: it may be kept nevertheless."""

    async def read(self, after: ControlCommandId) -> ControlLogPage:
        """Those that came after it and are kept."""


class ControlListener(Protocol):
    """Hears of orders on the loop; never raises."""

    def heard(self, order: ControlCommand) -> None: ...

    def look(self) -> None:
        """The pub/sub connection was made, or made anew: orders may have been missed."""


class TokenPair(NamedTuple):
    """What signing in gives; `expires_in_s` is the access token's."""

    access_token: str
    expires_in_s: int
    refresh_token: str
    user: str
    username: str


class EndedSession(NamedTuple):
    """A signing-in that is over; `session` is the `sid` of its tokens."""

    user: str
    session: str


class AccountRefused(Exception):
    """Auth said no; `status` is what HTTP says of it. `ended`: the session that asked, and is over."""

    def __init__(
        self, status: int, code: ErrorCode, message: str, retry_after_s: int = 0, ended: EndedSession | None = None
    ) -> None:
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s
        self.ended = ended
        super().__init__(message)


class Accounts(Protocol):
    """Users signing in. Every call raises `AccountRefused`, or `Unavailable` within 3 s."""

    async def register(self, username: str, password: str, peer: str) -> TokenPair: ...

    async def login(self, username: str, password: str, peer: str) -> TokenPair: ...

    async def refresh(self, refresh_token: str) -> TokenPair: ...

    async def logout(self, refresh_token: str) -> EndedSession | None:
        """The session that ended; None: the token belongs to none."""
