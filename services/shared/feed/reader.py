"""Reader of the feed with a consumer group.

Purpose. Several processes share the events of a group. None is lost while one of them works, or a gap is told.

Rules.

* `next` takes events, `done` acknowledges them. What is not acknowledged within `claim_after_s` another reader of the
  group takes, with the same ids; also what a reader took that died. Who needs longer calls `keep` meanwhile.
* What a group missed is an event `gap`. It is acknowledged like the others, so it is not lost either.
* Types that were not asked for are acknowledged unseen.
* Each read begins behind the stream where the last one ended: a stream with a long backlog holds up no other.
* The order of a stream is kept within one reader. Between readers, and when something is told again, `Event.number`
  gives the order of a channel or user.

Example. A reader takes events 1 to 100, hands them on and acknowledges them. If it is killed after 50, another one
hands on all 100 a minute later: 50 of them for the second time.

Trade-offs. Each read is one script that looks at up to 33 streams. So a reader that finds nothing waits in Redis for
the next entry, and one that found all there was reads again after 20 ms: events that come one by one would cost Redis
a read each. Waiting takes a connection of its own.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from services.shared.errors import ErrorCode, ThalamusError
from services.shared.feed.events import Event, EventType, decode
from services.shared.hotlog import keys
from services.shared.hotlog.scripts import Call, Command, load, raise_for_error
from services.shared.redis.pipeline import RedisPipeline

_TAKE = load(Path(__file__).with_name("take_events.lua"))
_CLAIM = load(Path(__file__).with_name("claim_events.lua"))
_TIMEOUT_S = 2.5  # longest call, seconds
_BLOCK_S = 2.0  # longest wait within one call, seconds
_REST_S = 0.02  # between two reads, unless the first one has left something, seconds
_GONE_S = 3_600.0  # consumers without entries are forgotten after that time
_GROUP = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_NOTHING = b"0-0"
_BEFORE_STREAMS = 2  # keys of take_events.lua in front of the streams


class Backlog(NamedTuple):
    """Events that a group has not read yet, and those taken and not acknowledged.

    `waiting` counts all entries of the streams, also those of types that the group does not want.
    """

    waiting: int
    pending: int


def checked_group(name: str) -> str:
    """Return the name of a group, if it is allowed.

    Raises:
        ThalamusError: it is not 1 to 64 letters, digits, dots, underscores or hyphens.
    """
    if not _GROUP.fullmatch(name):
        raise ThalamusError("a group is 1 to 64 letters, digits, dots, underscores or hyphens", ErrorCode.BAD_REQUEST)
    return name


class FeedReader:
    """One consumer of a group.

    Its methods raise `Unavailable` if Redis does not answer.
    """

    def __init__(
        self,
        url: str,
        group: str,
        *,
        types: Collection[EventType] = tuple(EventType),
        from_start: bool = False,
        hidden: bool = False,
        claim_after_s: float = 60.0,
        consumer: str = "",
    ) -> None:
        """Create it; connects when it is used.

        Args:
            url: Address of Redis.
            group: Name of the group, which the first reader begins.
            types: Events that `next` returns. Gaps come in any case.
            from_start: A new group begins with the oldest event that is kept, not with the next one.
            hidden: Also hidden entries: of conversations whose namespace does not ask for events.
            claim_after_s: After that time events that are not acknowledged go to another reader of the group.
            consumer: Name of this reader, which no other one of the group may have; empty: a random one.
        """
        self._group = checked_group(group)
        self._types = frozenset(types) | {EventType.GAP}
        self._consumer = consumer or str(uuid.uuid4())
        self._from = "0" if from_start else "$"
        self._hidden = hidden
        self._claim_after_s = claim_after_s
        self._gaps = keys.feed_gaps(group)
        self._names = dict(_streams(self._types))  # key of each stream → its name in ids of events
        self._all = {self._gaps: f"gaps.{group}"} | self._names
        self._order = deque(self._names)  # in which they are read: next after the last one that had entries
        self._cursors = dict.fromkeys(self._all, _NOTHING)
        self._claimed_at = self._read_again_at = float("-inf")
        self._pipeline, self._waiting = RedisPipeline(url), RedisPipeline(url)

    async def next(self, limit: int = 100, wait_s: float = _BLOCK_S) -> list[Event]:
        """Take up to `limit` events, and gaps; wait up to `wait_s` for the first."""
        loop = asyncio.get_running_loop()
        end = loop.time() + wait_s
        while True:
            if loop.time() - self._claimed_at >= self._claim_after_s / 4:
                if found := await self._claim(limit):
                    return found
                self._claimed_at = loop.time()  # only now: there may be more
            await asyncio.sleep(max(0.0, min(self._read_again_at, end) - loop.time()))
            ids, found = await self._read(limit)
            left = end - loop.time()
            if found or left <= 0:
                return found
            if ids:
                await self._wait(ids, min(left, _BLOCK_S, self._claim_after_s / 4))

    async def done(self, events: Sequence[Event]) -> None:
        """Acknowledge events: the group is not told them again."""
        by_key: dict[str, list[str]] = {}
        for event in events:
            key, entry = self._place(event)
            by_key.setdefault(key, []).append(entry)
        await self._execute([("XACK", key, self._group, *entries) for key, entries in by_key.items()])

    async def keep(self, events: Sequence[Event]) -> None:
        """Let these events stay with this reader for another `claim_after_s` seconds."""
        by_key: dict[str, list[str]] = {}
        for event in events:
            key, entry = self._place(event)
            by_key.setdefault(key, []).append(entry)
        await self._execute(
            [("XCLAIM", key, self._group, self._consumer, 0, *entries, "JUSTID") for key, entries in by_key.items()]
        )

    async def backlog(self) -> Backlog:
        """Count what the group has not read, or not acknowledged."""
        record, *said = await self._execute(
            [
                ("HMGET", keys.feed_group(self._group), *self._names),
                *(("XINFO", "STREAM", key) for key in self._names),
                *(("XPENDING", key, self._group) for key in self._all),
            ],
            may_fail=True,  # there is no such stream, or group
        )
        waiting = 0
        for index, stream in zip(raise_for_error(record), said[: len(self._names)], strict=True):
            if index is not None and isinstance(stream, list):
                added = dict(zip(stream[::2], stream[1::2], strict=True))[b"entries-added"]
                waiting += max(0, added - int(index))
        pending = sum(one[0] for one in said[len(self._names) :] if isinstance(one, list))
        return Backlog(waiting, pending)

    async def forget(self) -> None:
        """Delete the group: nothing of it is kept in Redis."""
        await self._execute(
            [
                *(("XGROUP", "DESTROY", key, self._group) for key in self._names),
                ("DEL", keys.feed_group(self._group), self._gaps),
            ],
            may_fail=True,
        )

    async def close(self) -> None:
        """Close the connections; what was taken and not acknowledged goes to others."""
        await self._pipeline.aclose()
        await self._waiting.aclose()

    async def _read(self, limit: int) -> tuple[list[bytes], list[Event]]:
        """Take events; return them, or where each stream ends if there are none."""
        names = [keys.feed_group(self._group), self._gaps, *self._order]
        arguments: list[str | bytes | int] = [self._group, self._consumer, limit, self._from, keys.incarnation()]
        arguments += [self._names[key] for key in self._order]
        (reply,) = await self._pipeline.run([Call(_TAKE, names, arguments)], timeout_s=_TIMEOUT_S)
        found = raise_for_error(reply)
        if not found:
            return [], []
        ids, *parts = found
        if sum(len(entries) for _, entries in parts) < limit:
            self._read_again_at = asyncio.get_running_loop().time() + _REST_S
        if parts:
            self._order.rotate(_BEFORE_STREAMS - parts[-1][0])
        return ids, await self._wanted([(names[at - 1], entries) for at, entries in parts])

    async def _claim(self, limit: int) -> list[Event]:
        """Take over events of other readers, which did not acknowledge them in time."""
        arguments: list[str | bytes | int] = [
            self._group,
            self._consumer,
            int(self._claim_after_s * 1000),
            limit,
            int(_GONE_S * 1000),
        ]
        for key, name in self._all.items():
            arguments += (name, self._cursors[key])
        (reply,) = await self._pipeline.run([Call(_CLAIM, list(self._all), arguments)], timeout_s=_TIMEOUT_S)
        parts = list(zip(self._all, raise_for_error(reply), strict=True))
        self._cursors = {key: cursor for key, (cursor, _) in parts}
        return await self._wanted([(key, entries) for key, (_, entries) in parts])

    async def _wanted(self, parts: Sequence[tuple[str, list[Any]]]) -> list[Event]:
        """Decode entries; acknowledge those that are not wanted."""
        events: list[Event] = []
        unwanted: list[tuple[str, ...]] = []
        for key, entries in parts:
            others: list[str] = []
            for entry_id, fields in entries:
                named = dict(zip(fields[::2], fields[1::2], strict=True))
                event = decode(self._all[key], entry_id.decode(), named, hidden=self._hidden)
                if event is not None and event.type in self._types:
                    events.append(event)
                else:
                    others.append(entry_id.decode())
            if others:
                unwanted.append(("XACK", key, self._group, *others))
        if unwanted:
            await self._execute(unwanted)
        return events

    async def _wait(self, ids: Sequence[bytes], wait_s: float) -> None:
        """Wait until a stream has an entry after its id in `ids`."""
        block: Command = ("XREAD", "COUNT", 1, "BLOCK", max(1, int(wait_s * 1000)), "STREAMS")
        command = (*block, self._gaps, *self._order, *ids)
        raise_for_error((await self._waiting.execute([command], timeout_s=_BLOCK_S + _TIMEOUT_S))[0])

    async def _execute(self, commands: Sequence[Command], *, may_fail: bool = False) -> list[Any]:
        if not commands:
            return []
        replies = await self._pipeline.execute(commands, timeout_s=_TIMEOUT_S)
        return replies if may_fail else [raise_for_error(reply) for reply in replies]

    def _place(self, event: Event) -> tuple[str, str]:
        """The stream of an event, and the id of its entry."""
        name, first, second = event.id.rsplit("-", 2)
        return next(key for key, known in self._all.items() if known == name), f"{first}-{second}"


def _streams(types: Collection[EventType]) -> Iterator[tuple[str, str]]:
    """Yield key and name of each stream that holds events of these types."""
    if EventType.PUBLICATION in types:
        yield from ((keys.commits(shard), f"feed{shard}") for shard in range(keys.FEED_SHARDS))
    if frozenset(types) - {EventType.PUBLICATION, EventType.GAP}:
        yield from ((keys.lifecycle(shard), f"events{shard}") for shard in range(keys.FEED_SHARDS))
