"""What the log's rules need: a durable store, and the hot log in Redis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from services.shared.errors import Unavailable
from services.shared.hotlog.hotlog import Appended, Batch, Unstored
from services.shared.incarnation.calls import Known

MAX_BYTES = 1 << 50  # no bound


class ChannelState(NamedTuple):
    """Epoch and last stored offset; both belong to the store. `removed`: nobody reads what is up to there."""

    epoch: str
    top: int
    removed: int = 0


class Heartbeat(NamedTuple):
    """What is kept of the counter that Redis counts too, and the last generation of its `hot` logs.

    `store`: by chance, since the store was made; another one is another store, which has nothing of the first.
    `restored`: by chance, since the store was last restored from a backup; "" if never. All epochs end with it.
    """

    counter: int
    generation: int
    store: str = ""
    restored: str = ""


class KnownKey(NamedTuple):
    """An idempotency key that still counts; `ttl_s` until it is forgotten."""

    user: str
    key: str
    offset: int
    ttl_s: int


class Removal(NamedTuple):
    """One that was begun, up to an offset; `is_due`: no key of what it hides counts any more."""

    number: int
    channel: str
    upto: int
    is_due: bool


class Row(NamedTuple):
    """One publication to store. `key` as `keys.pair` makes it."""

    channel: str
    offset: int
    publication_id: bytes
    publication: bytes
    key: str


class Written(NamedTuple):
    """Outcome of one channel of a write: everything is stored up to `top`; or a row is there with another id."""

    top: int
    conflict: bool


class LogStore(Protocol):
    """Truth at rest. Every method raises `Unavailable` where the store can't do it: repeating it is safe.

    `apart`: it writes each channel by itself, so that none should wait for another; else a write costs as much for one
    channel as for all of them.
    """

    @property
    def apart(self) -> bool: ...

    async def open(self, channel: str) -> ChannelState:
        """The channel's state; a new channel gets its epoch here."""

    async def has_begun(self, channel: str) -> bool:
        """Whether the channel was opened ever."""

    async def recent_keys(self, channel: str, within_s: float) -> list[KnownKey]:
        """Keys of the publications of the last seconds, newest first, however many.

        Those that the platform makes itself, where a client gives none, may be missing after a minute.
        """

    async def write(self, rows: Sequence[Row]) -> Mapping[str, Written | Unavailable]:
        """Store rows, consecutive per channel; a row that is there with the same id is success. Outcomes by channel.

        A conflict or `Unavailable` of one channel does not affect the others. Of a channel with a conflict nothing is
        stored from the conflict on; of one that is `Unavailable` any number of its rows, without a hole.
        """

    async def read(
        self, channel: str, *, since_offset: int, upto: int, limit: int, reverse: bool, max_bytes: int = MAX_BYTES
    ) -> list[tuple[int, bytes]]:
        """(offset, publication) strictly after (reverse: before; 0: from `upto` on) the offset, never above `upto`.

        It ends behind the publication with which `max_bytes` are reached.
        """

    async def remove(self, channel: str, upto: int) -> None:
        """Nobody reads publications up to this offset any more; epoch and top stay, and keys that still count."""

    async def removals(self) -> list[Removal]:
        """Some that are not finished, oldest first."""

    async def finish_removal(self, removal: Removal) -> None:
        """Drop what it hides, for ever; takes as long as it takes. Only of one that is due."""

    async def heartbeat(self) -> Heartbeat:
        """The last one kept; zeros in a new store, which gets its name here."""

    async def keep_heartbeat(self, heartbeat: Heartbeat) -> None:
        """Keep the greater of it and what is there, each number by itself; the name of the store stays."""

    async def keep_ending(self, heartbeat: Heartbeat, known: Known) -> None:
        """Persistence ends in order, and this is what Redis has; unless a greater counter is kept: somebody goes on."""

    async def take_ending(self, heartbeat: Heartbeat) -> Known | None:
        """What was kept so, once: it is forgotten. None where nothing was, or anything was counted since."""

    async def begin_anew(self, seen: Heartbeat) -> None:
        """The store is older than it was: every channel gets another epoch, unless somebody did this since `seen`.

        Its counter is at least that of `seen` afterwards.
        """


class HotLog(Protocol):
    """Redis. Every method raises `Unavailable` within 2.5 s where it does not answer."""

    def incarnation(self) -> str:
        """Names the present life of Redis; what was verified in another one is not."""

    async def append(self, batches: Sequence[Batch], max_unstored: int) -> list[Appended | Exception | None]:
        """Mark the channels dirty, then number the items; one outcome per batch.

        None: the channel was not compared with the store in this life, and nothing was done.
        """

    async def commit(self, channels: Sequence[tuple[str, str, int, int]], incarnation: str) -> list[int | Exception]:
        """(channel, epoch, upto, history_size) → what is readable now.

        -1: another epoch or life than that in which it was numbered, or an entry is not there.
        """

    async def verify(self, channel: str, state: ChannelState, *, may_be_ahead: bool = False) -> int:
        """1: Redis has what the store has, and says so in this life; 0: it is behind; -1: it has no meta.

        2: it has more than the store, and says nothing, unless it may be ahead. Where all of the channel is stored,
        Redis may forget it once nobody publishes in it for a while.
        """

    async def init(self, channel: str, state: ChannelState, time_ms: int, known: Sequence[KnownKey]) -> None:
        """Bring meta and keys from the store, if Redis has no meta; `time_ms` is that of the newest publication."""

    async def advance(
        self,
        channel: str,
        state: ChannelState,
        time_ms: int,
        known: Sequence[KnownKey],
        forget: Sequence[tuple[str, str]],
    ) -> None:
        """The store is ahead of Redis; `time_ms` is that of its newest publication."""

    async def unstored(self, channels: Sequence[str], limit: int) -> list[Unstored | None]:
        """Entries above what is readable, per channel."""

    async def readable(self, channel: str) -> ChannelState | None:
        """Epoch and readable top; None where Redis was not compared with the store in this life."""

    async def trim(self, channel: str, upto: int) -> None:
        """Drop what the hot log keeps of a channel up to an offset, as far as readers may read."""

    async def settled(self, age_s: float, limit: int) -> list[tuple[str, bytes]]:
        """Channels (with their marks) that were marked dirty longer ago than that."""

    async def unmark(self, marks: Sequence[tuple[str, bytes]]) -> None:
        """Forget marks that nobody renewed; Redis may forget these channels, as with `verify`."""
