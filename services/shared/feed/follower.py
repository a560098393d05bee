"""Follower of the feed: all publications that are committed, for one process.

Purpose. A process that wants to hear of all publications, such as an edge that watches inboxes, needs no consumer
group: nothing is kept of it in Redis, and what came while it was away does not matter to it. It must only know when it
missed something.

Rules.

* It begins at the end of all streams. The first call of `on_gap` says so: whatever it tells of is to be read elsewhere.
* One `XREAD` waits on all 16 streams, on a connection of its own. After a read that found something the next one waits
  100 ms: at most 10 reads a second, however much is told. A read costs an edge as much as 100 entries do.
* Once a second it is compared how many entries a stream ever had, and still has, with what was read (`_compare`). If
  a stream was trimmed past the follower, or went back, that is a gap: it goes on at the end of the stream.
* An entry that says that something was lost (`r`, or hidden `g`) is a gap, too. So is every failure that leaves open
  what was read.
* `on_gap` is told after the follower's place is known again: what is read elsewhere from then on is not older than
  what is told next.

Example. 60,000 messages come while the process is stopped; streams keep 50,000 in all. Its next reads find what is
left. The comparison finds that 9,000 entries of a stream were trimmed that it has not read: a gap.

Trade-offs. What comes within 100 ms of something else is told up to 100 ms late. A gap is found up to a second late,
and what was read in between is told before it. Whoever must not miss anything takes the gap as the moment to look at
everything again. A process that is 50,000 entries behind, and not more, may take that for a gap.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
from redis import exceptions

from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.hotlog.scripts import Command, raise_for_error
from services.shared.process.backoff import Backoff
from services.shared.redis.pipeline import RedisPipeline

logger = logging.getLogger(__name__)

_BLOCK_S = 1.0  # longest wait within one call, seconds
_TIMEOUT_S = 2.5  # longest call beyond that, seconds
_REST_S = 0.1  # between two reads of which the first one found something, seconds
_COMPARE_S = 1.0  # between two comparisons, seconds
_MOST = 1_000  # entries of a stream in one read
_START = b"0-0"
_NO_KEY = "no such key"
_users = msgspec.json.Decoder(tuple[str, ...]).decode


class Hint(NamedTuple):
    """What the feed tells of a publication.

    `users`: those whose membership of the conversation it may change.
    """

    channel: str
    epoch: str
    offset: int
    flags: int
    n: int
    author: str
    time_ms: int
    users: tuple[str, ...] = ()


@dataclass(slots=True)
class _Place:
    """Where the follower is in a stream.

    `read`: entries that the stream had up to `last`, counted from its very first one. `unchecked`: what `read` was at
    the first read since the last comparison.
    """

    last: bytes = _START
    read: int = 0
    unchecked: int = 0


class FeedFollower:
    """Tells of publications until it is cancelled; see the module."""

    def __init__(
        self,
        url: str,
        on_hints: Callable[[Sequence[tuple[bytes, Sequence[bytes], bytes]]], None],
        on_gap: Callable[[str], None],
    ) -> None:
        """Create it; connects when it runs.

        Args:
            url: Address of Redis.
            on_hints: Called with entries in the order of each stream: (channel, fields, id). `hint_of` decodes one:
                most are of channels that nobody here cares for.
            on_gap: Called with a reason when entries may have been missed: `new`, `trimmed`, `lost`.
        """
        self._on_hints, self._on_gap = on_hints, on_gap
        self._pipeline, self._waiting = RedisPipeline(url), RedisPipeline(url)
        self._names = [keys.commits(shard) for shard in range(keys.FEED_SHARDS)]
        self._places: dict[str, _Place] = {}
        self._reason = "new"  # of the gap that `_begin` tells
        self.hints = self.gaps = 0

    def restart(self) -> None:
        """Begin again at the end of the streams: this is another Redis."""
        self._places = {}  # another object: what is under way sees that
        self._reason = "lost"

    async def run(self) -> None:
        """Follow until cancelled; what fails is tried again."""
        backoff = Backoff(0.1, 2.0)
        loop = asyncio.get_running_loop()
        compare_at = 0.0
        try:
            while True:
                try:
                    if not self._places:
                        await self._begin()
                        compare_at = loop.time() + _COMPARE_S
                    found = await self._read()
                    if self._places and loop.time() >= compare_at:
                        await self._compare()
                        compare_at = loop.time() + _COMPARE_S
                    backoff.reset()
                except Unavailable as error:
                    logger.warning("the feed can't be followed", extra={"error": str(error)})
                    await asyncio.sleep(backoff.next_s())
                    continue
                if found:
                    await asyncio.sleep(_REST_S)
        finally:
            await self._pipeline.aclose()
            await self._waiting.aclose()

    async def _begin(self) -> None:
        """Take the ends of all streams as the place to go on at."""
        reason, ends = self._reason, await self._ends()
        self._places = {name: _Place(last, added, added) for name, (last, added, _) in ends.items()}
        self._reason = "lost"
        self._tell_gap(reason)

    async def _read(self) -> bool:
        """Read and tell what is new; wait for it a while."""
        places = self._places
        names = list(places)
        command: Command = ("XREAD", "COUNT", _MOST, "BLOCK", int(_BLOCK_S * 1_000), "STREAMS", *names)
        command += tuple(places[name].last for name in names)
        (reply,) = await self._waiting.execute([command], timeout_s=_BLOCK_S + _TIMEOUT_S)
        if places is not self._places:  # begun again meanwhile
            return False
        told: list[tuple[bytes, Sequence[bytes], bytes]] = []
        lost = False
        for name, entries in raise_for_error(reply) or ():
            place = places[name.decode()]
            place.last, place.read = entries[-1][0], place.read + len(entries)
            for entry_id, fields in entries:
                if fields[0] == b"c":
                    told.append((fields[1], fields, entry_id))
                else:  # the entry of a gap
                    lost = True
        self.hints += len(told)
        if told:
            self._on_hints(told)
        if lost:
            self._tell_gap("lost")
        return bool(told)

    async def _compare(self) -> None:
        """Find out whether entries were trimmed, or lost, before they were read."""
        places = self._places
        before = {name: (place.unchecked, place.read) for name, place in places.items()}
        ends = await self._ends()
        if places is not self._places:
            return
        reason = ""
        for name, (last, added, length) in ends.items():
            place, (unchecked, read) = places[name], before[name]
            if added < read or _id(last) < _id(place.last):
                reason = "lost"
            elif added - length > unchecked:
                reason = reason or "trimmed"
            else:
                place.unchecked = read
        if reason:
            self._reason = reason
            self._places = {}
            await self._begin()

    async def _ends(self) -> dict[str, tuple[bytes, int, int]]:
        """Return of each stream its last id, how many entries it ever had, and has."""
        replies = await self._pipeline.execute(
            [("XINFO", "STREAM", name) for name in self._names], timeout_s=_TIMEOUT_S
        )
        ends: dict[str, tuple[bytes, int, int]] = {}
        for name, reply in zip(self._names, replies, strict=True):
            if isinstance(reply, exceptions.ResponseError) and _NO_KEY in str(reply):
                ends[name] = (_START, 0, 0)
                continue
            found: list[Any] = raise_for_error(reply)
            said = dict(zip(found[::2], found[1::2], strict=True))
            ends[name] = said[b"last-generated-id"], said[b"entries-added"], said[b"length"]
        return ends

    def _tell_gap(self, reason: str) -> None:
        self.gaps += reason != "new"
        self._on_gap(reason)


def hint_of(fields: Sequence[bytes], entry_id: bytes) -> Hint | None:
    """Decode an entry; None if this version can't read it."""
    named = dict(zip(fields[::2], fields[1::2], strict=True))
    try:
        flags, n, _ = map(int, named.get(b"l", b"0 0 0").split())
        return Hint(
            named[b"c"].decode(),
            named[b"e"].decode(),
            int(named.get(b"h") or named[b"o"]),
            flags,
            n,
            named.get(b"a", b"").decode(),
            int(entry_id.split(b"-")[0]),
            _users(named[b"u"]) if b"u" in named else (),
        )
    except (KeyError, ValueError, msgspec.MsgspecError):
        return None


def _id(text: bytes) -> tuple[int, int]:
    first, _, second = text.partition(b"-")
    return int(first), int(second)
