"""What the search needs of an index.

An index has documents, one for each message, by conversation and offset; and of each conversation up to which position
of its log they were made (`indexed`). What is found is never shown as it is: the messages are looked up. So an index
may have documents of messages that are deleted or changed since; it must not lack any of a message below `indexed`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from services.persistence.chat.index.query import Query


class Document(NamedTuple):
    """A message as the index has it.

    `atoms`: see `analyser.py`. `tags`: see `query.py`.
    """

    time_ms: int
    atoms: Sequence[str]
    tags: Sequence[str]


class Update(NamedTuple):
    """Documents of a conversation.

    They are those from `expected` up to `indexed`, and changed ones.

    `documents`: offset → what it is now; None: there is none any more.
    """

    channel: str
    expected: int
    indexed: int
    documents: Mapping[int, Document | None]


class Scope(NamedTuple):
    """Where to search: the offsets above `above`, up to `position`."""

    channel: str
    above: int
    position: int


class Place(NamedTuple):
    """A place in the order of what is found: the better first, then the newer.

    `goodness`, `age` and `behind` are negative score, time (Unix ms) and offset, so that places sort by themselves.
    """

    goodness: float
    age: int
    channel: str
    behind: int

    @property
    def offset(self) -> int:
        """Offset of the message."""
        return -self.behind

    @property
    def time_ms(self) -> int:
        """When the message was sent, Unix ms."""
        return -self.age


class Asked(NamedTuple):
    """What an index is asked for.

    `most`: so many at most, the first ones. `after`: only what comes behind this place. `upto_ms`: nothing newer.
    """

    query: Query
    scopes: Sequence[Scope]
    most: int
    after: Place | None = None
    upto_ms: int | None = None
    by_score: bool = False

    @property
    def latest(self) -> int | None:
        """The newest time that can be wanted, Unix ms; None: any."""
        bounds = [self.upto_ms, None if self.after is None or self.by_score else self.after.time_ms]
        bounds.append(None if self.query.before is None else self.query.before - 1)
        return min((bound for bound in bounds if bound is not None), default=None)


class Hits(NamedTuple):
    """What an index found, in order, without what is not indexed.

    `has_more`: there may be more than `most`. `indexed`: by channel, for every scope. By score, `after` counts among
    the newest `most` alone. `stopped_at`: the index reads so much for one question, and has found what comes before
    this place in the order of time alone; None: it has found all, or `most`.
    """

    places: list[Place]
    has_more: bool
    indexed: Mapping[str, int]
    stopped_at: Place | None = None


class SearchIndex(Protocol):
    """An index; several processes may share it.

    Every method raises `Unavailable` if the index can't do it; repeating is safe.

    `rows_at_once`: so many rows of a conversation's log are worth a write. Fewer wait, and searches read them, unless
    one of them changes a message that may be indexed.
    `gone_at_once`: so many documents are taken out at once.
    `logs_at_once`: a search reads the logs of so many conversations at the same time; 1, where reads wait for each
    other anyway.
    """

    rows_at_once: int
    gone_at_once: int
    logs_at_once: int

    async def indexed(self, channels: Collection[str]) -> dict[str, int]:
        """Return up to where conversations are indexed; 0 for those that are not."""

    async def apply(self, updates: Sequence[Update]) -> list[bool]:
        """Write documents, those of one update all or none; return which were written.

        An update is not if `indexed` of its conversation is not as expected any more.
        """

    async def find(self, asked: Asked) -> Hits:
        """Return what the documents say; all of it is of one moment."""

    async def offsets_with(self, channel: str, tag: str, above: int, upto: int, most: int) -> list[int]:
        """Return offsets of documents with a tag, ascending."""

    async def offsets_upto(self, channel: str, upto: int, most: int) -> list[int]:
        """Return offsets of documents up to an offset, ascending."""

    async def behind(self, after: str, most: int) -> tuple[list[str], str]:
        """Return channels whose log goes on beyond what is indexed, and where to go on.

        After the channel `after`; "": from the first, or as the second value there are no more. Also channels that
        are no conversations. None, if it would cost too much to look for them: they are indexed when they are used.
        """

    async def scrub(self) -> None:
        """Have the bytes of erased documents vanish, if that was not done at once."""
