"""Interfaces that the domain needs: the durable store, and the hot log in Redis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from services.shared.errors import Unavailable
from services.shared.hotlog.hotlog import Appended, Batch, Unstored
from services.shared.incarnation.calls import Known
from services.shared.namespaces import Namespaces

MAX_BYTES = 1 << 50  # in effect no limit
PAGE_BYTES = 4 << 20  # of publications in one reply of Redis, and in one write to the store


class ChannelState(NamedTuple):
    """Epoch and last stored offset of a channel; both belong to the store.

    `removed`: publications up to this offset are removed, and nobody reads them.
    `n`, `mv`: publications that count, and membership version, at `top` (see `Row`); only from the store.
    `erasures`: how often something was erased from the channel; only from the store.
    `queued_in`: generation since which publications may be acknowledged before they are stored; 0: none ever were. Only
    from the store.
    `behind`: how many readable publications the store may lack; only from Redis.
    """

    epoch: str
    top: int
    removed: int = 0
    n: int = 0
    mv: int = 0
    erasures: int = 0
    queued_in: int = 0
    behind: int = 0


class Heartbeat(NamedTuple):
    """What the store keeps to notice that Redis, or the store itself, went back.

    `counter` is counted up in Redis too; `generation` is the last one of the `hot` logs.
    `store`: random name of the store, made with it. Another name is another store, which has nothing of this one.
    `restored`: random mark, changed when the store is restored or found to be an older copy; "" before. All epochs of
    `stored` channels end with it.
    """

    counter: int
    generation: int
    store: str = ""
    restored: str = ""


class KnownKey(NamedTuple):
    """An idempotency key that still counts; Redis forgets it after `ttl_s` seconds."""

    user: str
    key: str
    offset: int
    ttl_s: int


class Removal(NamedTuple):
    """A removal of history, up to an offset, that is not finished.

    `is_due`: no idempotency key of what it hides counts any more, so the contents may go.
    """

    number: int
    channel: str
    upto: int
    is_due: bool


class Extent(NamedTuple):
    """What the log of a channel has: the offsets above `removed`, up to `top`."""

    removed: int
    top: int


class StoredAt(NamedTuple):
    """When some publications were stored: those with the offsets `first` … `last`.

    `at`: Unix seconds.
    """

    first: int
    last: int
    at: float


class Row(NamedTuple):
    """One publication to store; `key` is user and key as `keys.pair` joins them.

    `epoch`: the one in which Redis gave the offset. Nothing is stored if the channel has another one by then. "": it is
    stored whatever the epoch is, because nothing of the channel is acknowledged before it is stored.
    `flags`: 1 counts, 2 may take a right away, 4 erases something, 8 gives a right; their sum.
    `n`: publications up to this one that count. `mv`: offset of the last one up to this that changes membership or
    rights. Both are 0 in a row without flags of which they are not known: then those of the row before hold.
    """

    channel: str
    offset: int
    publication_id: bytes
    publication: bytes
    key: str
    flags: int = 0
    n: int = 0
    mv: int = 0
    epoch: str = ""


class CountedRow(NamedTuple):
    """One stored publication with what the log has counted; see `Row`."""

    offset: int
    publication: bytes
    flags: int
    n: int
    mv: int


class Written(NamedTuple):
    """Outcome of a write for one channel.

    Without a conflict everything is stored up to `top`. Conflict: an offset has another publication already, or the
    rows would leave a hole, or (`is_stale`) they are of an epoch that is over.
    """

    top: int
    conflict: bool
    is_stale: bool = False


class Rows(Protocol):
    """Rows of logs, to read; the methods are those of `LogStore`."""

    async def open(self, channel: str) -> ChannelState: ...

    async def has_begun(self, channel: str) -> bool: ...

    async def channels(self, cursor: str) -> tuple[list[str], str]: ...

    async def read(
        self, channel: str, *, since_offset: int, upto: int, limit: int, reverse: bool, max_bytes: int = MAX_BYTES
    ) -> list[tuple[int, bytes]]: ...

    async def read_counted(
        self, channel: str, *, since_offset: int, upto: int, limit: int, reverse: bool, max_bytes: int = MAX_BYTES
    ) -> list[CountedRow]: ...


class LogStore(Protocol):
    """The durable store of `stored` channels, which is the truth about them.

    Every method raises `Unavailable` if the store can't do it; repeating is safe.

    `apart`: the store writes each channel by itself, so channels should not wait for each other. Otherwise one write
    costs about as much for one channel as for all.
    """

    @property
    def apart(self) -> bool: ...

    async def open(self, channel: str) -> ChannelState:
        """Return the channel's state; a new channel gets its epoch here."""

    async def has_begun(self, channel: str) -> bool:
        """Whether the channel was ever opened."""

    async def channels(self, cursor: str) -> tuple[list[str], str]:
        """Return some channels that were opened, and a cursor; both may be empty.

        `cursor` "": from the beginning. A cursor "" in the answer: there are no more. Channels that are opened
        meanwhile may be missing. For operators: it may read the whole store.
        """

    async def retain(self, channel: str) -> None:
        """Have `retained` return the channel, before anything is stored in it."""

    async def note_retention(self, namespaces: Namespaces) -> None:
        """Note which namespaces have retention, before any channel is used.

        In the others channels may begin that nobody passes to `retain`.
        """

    async def retained(self, cursor: str, namespaces: Namespaces) -> tuple[list[str], str]:
        """Return some channels of those namespaces that have retention, and a cursor.

        Both may be empty, as with `channels`, and other channels may be among them. Channels are found that were begun
        before their namespaces had retention, too.
        """

    async def extent(self, channel: str) -> Extent:
        """Return which offsets the log has; begins none."""

    async def stored_at(self, channel: str, offset: int) -> StoredAt | None:
        """Return when a publication was stored, and which with it; None: it is not there."""

    async def first_since(self, channel: str, low: int, high: int, at: float) -> int | None:
        """Return the first of low … high that was stored at a time or later.

        `at`: Unix seconds. None: none was. Reads all of them: callers ask for some thousands.
        """

    async def recent_keys(self, channel: str, within_s: float) -> list[KnownKey]:
        """Return the idempotency keys of the last `within_s` seconds, newest first.

        All of them, however many. Keys that the platform made, where a client gave none, may be missing after a minute.
        """

    async def write(self, rows: Sequence[Row]) -> Mapping[str, Written | Unavailable]:
        """Store rows; return the outcome by channel.

        Rows of a channel have consecutive offsets and one epoch. A row that is stored already with the same publication
        id is a success, also if its epoch is over. The look at the epoch and the write are one step. A conflict or
        `Unavailable` of one channel does not affect the others. Of a channel with a conflict nothing is stored from the
        conflict on; of one that is `Unavailable` any number of its first rows may be stored.
        """

    async def read(
        self, channel: str, *, since_offset: int, upto: int, limit: int, reverse: bool, max_bytes: int = MAX_BYTES
    ) -> list[tuple[int, bytes]]:
        """Return (offset, publication) after `since_offset`, or before it if `reverse`.

        Never above `upto`; `reverse` with `since_offset` 0 begins at `upto`. Ends with the publication that reaches
        `max_bytes`.
        """

    async def read_counted(
        self, channel: str, *, since_offset: int, upto: int, limit: int, reverse: bool, max_bytes: int = MAX_BYTES
    ) -> list[CountedRow]:
        """As `read`, with what the log has counted up to each publication."""

    async def ids(self, channel: str, *, since_offset: int, upto: int, limit: int) -> list[tuple[int, bytes]]:
        """Return (offset, publication id) after `since_offset`, up to `upto`.

        At most `limit`. Publications that were removed may be missing.
        """

    async def erase(self, channel: str, publications: Mapping[int, bytes]) -> int:
        """Put other publications in the place of stored ones, by offset.

        Ids, keys, flags, `n` and `mv` stay, so a repeated write of the former rows is a success and brings nothing
        back. What is not stored, or removed for good, is left as it is. If two calls replace the same publication, one
        of the two stays. After `Unavailable` any number of them may be replaced.

        Returns the new `ChannelState.erasures`. It is raised before anything is replaced.
        """

    async def scrub(self) -> bool:
        """Delete what is left of erased or removed content in files of the store.

        Returns whether nothing is left.
        """

    @property
    def unscrubbed_since(self) -> float | None:
        """Unix time in seconds since which something may be left; None: nothing is.

        What was erased a few seconds ago may be left: `scrub` is to be called once more then.
        """

    async def note_queued(self, channel: str, generation: int) -> None:
        """Note a generation of Redis in which Redis may have more than the store.

        `ChannelState.queued_in` is at least this afterwards.
        """

    async def renew_epoch(self, channel: str, state: ChannelState, generation: int, *, forget: bool = False) -> None:
        """Give a channel another epoch, and note this generation as `note_queued` does.

        Nothing is done if its epoch is another one than in `state`, or `queued_in` is above `generation`: somebody else
        was faster.

        `forget`: `queued_in` becomes 0, as nothing was acknowledged early in this generation yet; nothing is done
        unless it is still the one of `state`.
        """

    async def begin_removal(self, channel: str, upto: int) -> None:
        """Hide publications up to this offset; `finish_removal` deletes them later.

        Epoch, top, `n` and `mv` stay, and keys as long as they count.
        """

    async def removals(self) -> list[Removal]:
        """Return removals that are not finished, oldest first; not always all."""

    async def finish_removal(self, removal: Removal) -> None:
        """Delete for good what a removal that is due hides; may take long."""

    async def heartbeat(self) -> Heartbeat:
        """Return what was kept last.

        A new store has zeros, and gets its name here at the latest.
        """

    async def keep_heartbeat(self, heartbeat: Heartbeat) -> None:
        """Keep each number that is greater than what is kept; the store's name stays."""

    async def keep_orderly_end(self, heartbeat: Heartbeat, known: Known) -> None:
        """Note what Redis has, at an orderly stop of persistence.

        Nothing is noted if a greater counter is kept: then another replica goes on.
        """

    async def pop_orderly_end(self, heartbeat: Heartbeat) -> Known | None:
        """Return and delete the note of the last orderly stop.

        None if there is none, or if anything was counted since.
        """

    async def begin_new_epochs(self, seen: Heartbeat) -> None:
        """Give every channel another epoch, because the store is an older copy.

        Only if nobody did so since `seen`. Afterwards the kept counter is at least that of `seen`.
        """


class HotLog(Protocol):
    """The hot log in Redis.

    Every method raises `Unavailable` if Redis does not answer in time.
    """

    def incarnation(self) -> str:
        """Token of the present incarnation of Redis.

        What was compared with the store in another one does not count as compared.
        """

    async def append(self, batches: Sequence[Batch], max_unstored: int) -> list[Appended | Exception | None]:
        """Mark the channels as dirty, then number the items; return one outcome per batch.

        None: the channel was not compared with the store in this incarnation, or an item has flags or a guard and it is
        not known what the channel has counted; nothing was done.
        """

    async def commit(self, channels: Sequence[tuple[str, str, int, int]], incarnation: str) -> list[int | Exception]:
        """Make entries readable and publish them; return the readable top of each channel.

        Args:
            channels: (channel, epoch, upto, history_size) each.
            incarnation: The one in which the entries were numbered.

        A result of -1 means that epoch or incarnation is another one, or that an entry is missing.
        """

    async def show(self, channels: Sequence[tuple[str, str, int, int]], incarnation: str) -> list[int | Exception]:
        """As `commit`, before the store has the entries (durability `queued`).

        A result of -3 means that one of them must be stored first. If Redis went back, all results are `Unavailable`.
        """

    async def verify(self, channel: str, state: ChannelState, *, may_be_ahead: bool = False) -> int:
        """Have Redis note that the channel was compared, if it has what the store has.

        It notes what the channel has counted, too.

        Returns 1: noted; 0: Redis is behind; -1: it has no meta; 2: it has more than the store, and notes nothing
        unless `may_be_ahead`; 3: it lacks something that was readable before it was stored. If all of the channel is
        stored, Redis may forget it after a time without publications.
        """

    async def init(self, channel: str, state: ChannelState, time_ms: int, known: Sequence[KnownKey]) -> None:
        """Bring meta and keys from the store, if Redis has no meta of the channel.

        `time_ms` is the time of the newest publication.
        """

    async def advance(
        self,
        channel: str,
        state: ChannelState,
        time_ms: int,
        known: Sequence[KnownKey],
        forget: Sequence[tuple[str, str]],
        saved: tuple[str, int] = ("", 0),
    ) -> bool:
        """Set Redis, which is behind the store, to the store's state.

        Returns whether it was done. Not if something above `saved` is readable and may not be stored.

        Args:
            channel: Its name.
            state: What the store has.
            time_ms: Time of the store's newest publication.
            known: Keys to bring.
            forget: (user, key) of publications that have to be numbered again.
            saved: Epoch, and offset up to which the caller has dealt with what was readable before it was stored.
        """

    async def unstored(
        self,
        channels: Sequence[str],
        limit: int,
        *,
        max_bytes: int = PAGE_BYTES,
        since_offset: int = 0,
        reverse: bool = False,
    ) -> list[Unstored | None]:
        """Return a page of the entries that are not stored, as far as Redis knows.

        At most `limit` per channel, from `since_offset` on; the one that reaches `max_bytes` is the last one.
        `reverse`: only readable ones, newest first, below `since_offset`; 0: from the readable top on.
        """

    async def readable(self, channel: str) -> ChannelState | None:
        """Return epoch and readable top.

        None if the channel was not compared with the store in this incarnation.
        """

    async def noted(self, channel: str, incarnation: str, generation: int | None = None) -> int:
        """Note that the store has noted a generation (`LogStore.note_queued`).

        `generation`: None to be told which it has. Returns the noted one; 0: none, or the channel was not compared in
        this incarnation.
        """

    async def trim(self, channel: str, upto: int) -> None:
        """Delete readable entries up to an offset, with every byte of them.

        If very much is not stored yet, bytes of them may be left until the next call.
        """

    async def erase(self, channel: str, publications: Mapping[int, bytes], erasures: int) -> bool:
        """Replace publications of readable entries, by offset.

        No byte of the former ones stays. Older entries may be dropped, since the store has them; the rest has no hole.
        `erasures` is what `LogStore.erase` returned. False: bytes are left, because very much is not stored yet; call
        again, also without publications.
        """

    async def settled(self, age_s: float, limit: int) -> list[tuple[str, bytes]]:
        """Return (channel, mark) of channels that were marked dirty more than `age_s` ago."""

    async def unmark(self, marks: Sequence[tuple[str, bytes]]) -> None:
        """Remove marks that nobody renewed; Redis may forget the channels, as in `verify`."""
