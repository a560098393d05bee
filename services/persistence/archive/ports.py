"""What the archive needs: the store with its manifests, and a place for objects."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from services.persistence.domain.ports import CountedRow
from services.shared.errors import Unavailable


class ArchivedRow(NamedTuple):
    """A publication in a segment, with all that the store had of it.

    `stored_at`: Unix seconds.
    """

    offset: int
    publication_id: bytes
    key: str
    stored_at: float
    publication: bytes
    flags: int
    n: int
    mv: int


class Manifest(NamedTuple):
    """Where a segment is: the offsets `first` … `last` of a channel.

    `object` is the object's name, `digest` its SHA-256, `key` what decrypts it, `size` its bytes.
    """

    channel: str
    first: int
    last: int
    object: str
    digest: bytes
    key: bytes
    size: int

    @property
    def rows(self) -> int:
        """How many publications it has."""
        return self.last - self.first + 1


class Stretch(NamedTuple):
    """Rows that were not archived, in the order of the read.

    `goes_on`: they end at a segment, not at the bounds of the read.
    """

    rows: list[CountedRow]
    goes_on: bool


class Ids(NamedTuple):
    """Ids of publications by offset, of those of `low` … `high` that the table has.

    `segments` has the others.
    """

    low: int
    high: int
    found: dict[int, bytes]
    segments: list[Manifest]


class InSegment(NamedTuple):
    """The read goes on in a segment.

    The offsets `low` … `high` of it are asked for, and not removed. `erased` takes the place of publications of it.
    """

    manifest: Manifest
    low: int
    high: int
    erased: Mapping[int, bytes]


class Part(NamedTuple):
    """Rows that can be archived.

    `erasures`: how often the channel had been erased from when they were read.
    """

    rows: list[ArchivedRow]
    erasures: int


class Limits(NamedTuple):
    """How large segments are; a part below both of the least is left where it is."""

    rows: int = 10_000
    bytes: int = 8 << 20
    least_rows: int = 1_000
    least_bytes: int = 1 << 20


class Totals(NamedTuple):
    """What is archived: of a channel, or of all."""

    segments: int
    rows: int
    bytes: int


class SegmentStore(Protocol):
    """The store of the log, as the archive uses it.

    Every method raises `Unavailable` if the store can't do it; repeating is safe. Each is one step for all others.
    """

    async def name(self) -> str:
        """Return the store's random name, with which names of its objects begin."""

    async def stretch(
        self, channel: str, *, since_offset: int, upto: int, limit: int, reverse: bool, max_bytes: int
    ) -> Stretch | InSegment:
        """Return the first rows of a page, or the segment that has them.

        The bounds are those of `LogStore.read`.
        """

    async def ids(self, channel: str, *, since_offset: int, upto: int, limit: int) -> Ids:
        """Return where the ids of some publications are, as `LogStore.ids`."""

    async def segments(self, channel: str, low: int, high: int) -> list[Manifest]:
        """Return the segments that have any of these offsets, lowest first."""

    async def all_segments(self, after: tuple[str, int], limit: int) -> list[Manifest]:
        """Return segments of all channels, by channel and first offset, behind one."""

    async def totals(self) -> Totals:
        """Return how much is archived of all channels."""

    async def next_part(self, channel: str, before: float, limits: Limits) -> Part | None:
        """Return the lowest rows that can be archived: all were stored before a time.

        None: there are none, or fewer than the least.
        """

    async def put(self, manifest: Manifest, part: Part, now: float) -> bool:
        """Note a segment, unless any of its rows was erased, removed or archived since.

        Returns whether it was noted. Its rows may be deleted then.
        """

    async def clear(self, manifest: Manifest) -> bool:
        """Delete some rows of a noted segment; return whether there are more."""

    async def uncleared(self) -> list[Manifest]:
        """Return some segments of which rows are left."""

    async def swap(
        self, old: Manifest, new: Manifest | None, first: ArchivedRow | None, applied: Mapping[int, bytes]
    ) -> bool:
        """Put a segment in the place of another one, which may have more offsets below.

        Not if the old one is another by now; returns whether it was done. The old object is among the `dropped` ones
        then.

        Args:
            old: The segment that was read.
            new: The other one; None: all of it is removed.
            first: Its first row.
            applied: What it has of what was erased.
        """

    async def erased(self, after: tuple[str, int]) -> list[tuple[Manifest, dict[int, bytes]]]:
        """Return some segments with what is to take the place of publications in them.

        By channel and first offset, behind one.
        """

    async def erased_since(self) -> float | None:
        """Return the Unix time since which such segments wait; None: there are none."""

    async def restore(self, manifest: Manifest, rows: Sequence[ArchivedRow], keep_until: float) -> bool:
        """Bring rows of a segment back into the log; the segment is no more.

        With what was erased. Not if it is another by now; returns whether it was done. The object is dropped at a
        time, or at once if anything in it is erased.
        """

    async def dropped(self, now: float, after: str) -> list[str]:
        """Return some objects that no segment has any more and that are to be deleted.

        By name, behind one.
        """

    async def forget(self, objects: Sequence[str]) -> None:
        """Forget dropped objects, which are deleted."""

    async def known(self, objects: Sequence[str]) -> set[str]:
        """Return those of the objects that a segment has, or that are dropped."""


class ObjectMissing(Exception):
    """There is no such object."""


class StoredObject(NamedTuple):
    """An object as a listing names it; `modified`: Unix seconds."""

    name: str
    modified: float


class ObjectStore(Protocol):
    """Where objects are. Every method raises `Unavailable` if it does not answer."""

    async def put(self, name: str, body: bytes) -> None:
        """Write an object; it is there for good when this returns."""

    async def get(self, name: str) -> bytes:
        """Return an object; raises `ObjectMissing`."""

    async def delete(self, name: str) -> None:
        """Delete an object, also if there is none."""

    def list(self, prefix: str) -> AsyncIterator[StoredObject]:
        """Yield the objects whose names begin with `prefix/`."""

    async def close(self) -> None:
        """Finish what runs."""


class SegmentUnreadable(Unavailable):
    """The object of a segment is missing, or not what the manifest says."""
