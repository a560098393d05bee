"""The inbox of a user: answers `inbox.list`, and tells edges what to watch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple

from services.persistence.chat.conversations import Conversations
from services.persistence.chat.domain.access import history_from
from services.persistence.chat.domain.state import Phase, Type
from services.persistence.chat.inbox.cursors import Page, Since, encoded
from services.persistence.chat.inbox.heads import Head, next_head
from services.persistence.chat.inbox.kept_heads import LONGEST_TAIL, KeptHeads, Seen
from services.persistence.chat.inbox.lists import CHANGING_MS, LEFT_KEPT_MS, List, Lists, Membership
from services.persistence.chat.inbox.readable import Readable, readable_of
from services.persistence.chat.inbox.reading import HeadReading
from services.persistence.chat.markers.markers import Markers
from services.persistence.chat.markers.record import Place
from services.persistence.chat.metrics import INBOX_HEADS
from services.persistence.chat.unread.counts import Counts, Unread
from services.persistence.domain.log import Log
from services.persistence.domain.ports import Rows
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.hotlog.scripts import Command, raise_for_error
from services.shared.redis.pipeline import RedisPipeline

logger = logging.getLogger(__name__)

MOST = 1_000  # conversations of a user that are looked at
_TIMEOUT_S = 2.0  # longest round trip, seconds
_TRIES = 3  # to count as of the position of an entry
_AT_ONCE = 16  # conversations that are asked at the same time
_KEPT_AT_ONCE = 64  # conversations after which what was found is kept
_MARGIN_MS = 60_000  # by which the clock of Redis may go back
_LISTED_MARGIN_MS = 1_000  # by which replicas may differ about the time of Redis
_NEVER = b"0-0"
_SHOWN = (Phase.ACTIVE, Phase.CLOSED)
Json = dict[str, Any]


class _Entry(NamedTuple):
    """A conversation of the user, as its head says."""

    channel: str
    head: Head
    seen: Seen
    member: Membership

    @property
    def is_shown(self) -> bool:
        return self.head.phase in _SHOWN and (self.member.role is not None or self.member.invited is not None)


class _Looked(NamedTuple):
    """All conversations of a user, and where the feed was before they were looked at."""

    entries: list[_Entry]
    hidden: list[_Entry]  # the list has them still, and the conversations don't have the user
    markers: Mapping[str, bytes | None]  # as Redis has them
    left: Mapping[str, Membership]
    now: Since
    is_whole: bool


class Inbox:
    """Inboxes of users; every method raises `Unavailable`."""

    def __init__(
        self,
        client: RedisPipeline,
        log: Log,
        rows: Rows,
        conversations: Conversations,
        lists: Lists,
        markers: Markers,
        counts: Counts,
        incarnation: Callable[[], str],
        now_ms: Callable[[], int],
    ) -> None:
        """Put it together.

        `incarnation` returns the token of the incarnation of Redis, `now_ms` its time, Unix ms.
        """
        self._client, self._log, self._conversations = client, log, conversations
        self.lists, self._markers, self._counts = lists, markers, counts
        self._incarnation, self._now_ms = incarnation, now_ms
        self.kept = KeptHeads(client, incarnation)
        self.reading = HeadReading(conversations, rows)
        self._streams = [keys.commits(shard) for shard in range(keys.FEED_SHARDS)]
        self._tasks: set[asyncio.Task[None]] = set()

    async def page(self, user: str, limit: int, cursor: Page | None, since: Since | None, namespace: str) -> Json:
        """Return a page of the inbox, or of what changed since."""
        looked = await self._look(user, has_markers=True)
        if cursor is not None:
            since = cursor.since
        is_all = since is None
        if since is not None and not self._is_of_now(since):
            since, is_all = None, True
        first = f"{namespace}:" if namespace else ""
        entries = [one for one in looked.entries if one.channel.startswith(first)]
        if since is not None:
            entries = [one for one in entries if _has_changed(one, since)]
        entries.sort(key=_order)
        if cursor is not None:
            entries = [one for one in entries if _order(one) > (-cursor.active, cursor.channel)]
        page = entries[:limit]
        kept = await self._markers.read(user, {one.channel: looked.markers[one.channel] for one in page})
        places = {one.channel: kept[one.channel].within(one.head.epoch) for one in page}
        shown = await self._counted(user, page, places)
        now, now_ms = looked.now if cursor is None else cursor.now, self._now_ms()
        answer: Json = {
            "conversations": [_shown(one, user, places[one.channel], unread, now_ms) for one, unread in shown],
            "since": encoded(now),
            "all": is_all,
        }
        if since is not None and cursor is None:
            there = {one.channel for one in looked.entries}
            removed = {channel for channel, left in looked.left.items() if left.at_ms >= since.listed}
            removed |= {one.channel for one in looked.hidden if _has_changed(one, since)}
            removed |= set(await self.lists.gone(user, since.listed))
            answer["conversations"] += [
                {"channel": channel, "removed": True}
                for channel in sorted(removed - there)
                if channel.startswith(first)
            ]
        if len(entries) > limit:
            answer["cursor"] = encoded(Page(page[-1].head.active, page[-1].channel, now, since))
        if not looked.is_whole:
            answer["truncated"] = True
        return answer

    async def watched(self, user: str) -> Json:
        """Return what an edge watches for a user: conversations with offset and count."""
        looked = await self._look(user)
        return {
            "conversations": {
                one.channel: [one.head.position, one.head.n] for one in looked.entries if one.member.role is not None
            }
        }

    async def readable(self, user: str) -> tuple[list[Readable], bool]:
        """Return where the user is a member, the last active first; and if that is all."""
        looked = await self._look(user)
        entries = sorted((one for one in looked.entries if one.member.role is not None), key=_order)
        found = [readable_of(one.channel, one.head, max(one.member.history_from, one.seen.removed)) for one in entries]
        return found, looked.is_whole

    async def members(self, channel: str, users: Sequence[str]) -> Json:
        """Return which of these users are members of a conversation, and its counts."""
        live = await self._conversations.current(channel)
        is_shown = live.state.phase in _SHOWN
        return {
            "members": [user for user in users if is_shown and user in live.state.members],
            "offset": live.position,
            "n": live.state.n,
        }

    async def drain(self) -> None:
        """Wait for what is still to be kept in Redis."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    # Looking at all conversations of a user.

    async def _look(self, user: str, *, has_markers: bool = False) -> _Looked:
        """Look at all of them; `has_markers`: also at what Redis has of the markers."""
        listed, now = await self._begin(user)
        mine = {channel: member for channel, member in listed.conversations.items() if not member.left}
        names = list(mine)
        heads, markers = await asyncio.gather(
            self._heads(names), self._markers.texts(user, names if has_markers else ())
        )
        pending = [channel for channel, (seen, _) in heads.items() if seen.is_pending]
        doubtful = [channel for channel, (_, head) in heads.items() if not mine[channel].holds(head.mv)]
        if doubtful:
            looked_up = await self._at_once(
                doubtful, lambda channel: self._membership(channel, user, heads[channel][1], mine[channel])
            )
            mine |= looked_up
            conversations = {**listed.conversations, **{one: looked_up[one] for one in doubtful}}
            self._later(self.lists.keep(user, listed._replace(conversations=conversations)))
        found = [_Entry(channel, head, seen, mine[channel]) for channel, (seen, head) in heads.items()]
        entries = [one for one in found if one.is_shown]
        hidden = [one for one in found if not one.is_shown]
        left = {channel: member for channel, member in listed.conversations.items() if member.left}
        return _Looked(entries, hidden, markers, left, now.with_pending(pending), listed.is_whole)

    async def _begin(self, user: str) -> tuple[List, Since]:
        """Return the user's list, and where the feed is; one round trip if Redis has it."""
        now_ms = self._now_ms()  # what changes from here on counts as later
        commands: list[Command] = [self.lists.command(user), *(("XINFO", "STREAM", name) for name in self._streams)]
        kept, *ends = await self._client.execute(commands, timeout_s=_TIMEOUT_S)
        ids = [_last_id(end).decode() for end in ends]
        listed = await self.lists.read(user, raise_for_error(kept))
        unseen_ms = now_ms - (CHANGING_MS if listed.is_changing else _LISTED_MARGIN_MS)
        return listed, Since(_generation(self._incarnation()), now_ms, unseen_ms, ids)

    async def _heads(self, channels: Sequence[str]) -> dict[str, tuple[Seen, Head]]:
        """Return the heads of conversations, as of their newest position or a later one."""
        seen = await self.kept.read(channels)
        unknown = [channel for channel, one in seen.items() if one is None]
        if unknown:  # Redis has forgotten them, or must be compared with the store
            await self._at_once(unknown, self._log.open)
            seen |= await self.kept.read(unknown)
        found: dict[str, tuple[Seen, Head]] = {}
        tails: dict[str, tuple[int, int]] = {}
        for channel, one in seen.items():
            if one is None:
                raise Unavailable("Redis does not keep the channel")
            if one.head is not None and one.head.position >= one.stored:
                found[channel] = one, one.head
            elif one.head is not None and one.stored - one.head.position <= LONGEST_TAIL:
                tails[channel] = one.head.position + 1, one.stored
        fresh: list[tuple[str, Head]] = []
        for channel, rows in (await self.kept.tails(tails)).items():
            one = seen[channel]
            assert one is not None
            assert one.head is not None
            head = next_head(one.head, rows)
            if head is not None and head.position == one.stored:
                head.fed = one.fed
                found[channel] = one, head
                fresh.append((channel, head))
        asked = [channel for channel in channels if channel not in found]
        INBOX_HEADS.labels("kept").inc(len(found) - len(fresh))
        INBOX_HEADS.labels("tail").inc(len(fresh))
        INBOX_HEADS.labels("conversation").inc(len(asked))
        for start in range(0, len(asked), _KEPT_AT_ONCE):
            self._keep(fresh)  # if the rest takes too long, who asks again goes on from here
            fresh = []
            for channel, read in (await self._at_once(asked[start : start + _KEPT_AT_ONCE], self.reading.read)).items():
                one = seen[channel]
                if read is not None and one is not None:
                    head, _ = read
                    head.fed = one.fed if head.position == one.stored else ""
                    found[channel] = one, head
                    fresh.append((channel, head))
        self._keep(fresh)
        return found

    def _keep(self, fresh: list[tuple[str, Head]]) -> None:
        if fresh:
            self.kept.learn(fresh)
            self._later(self.kept.put(fresh))

    async def _membership(self, channel: str, user: str, head: Head, before: Membership) -> Membership:
        """Look a membership up, as of the head's position or later."""
        live = await self._conversations.upto(channel, head.position, head.epoch)
        member, invited = live.state.members.get(user), live.state.invited.get(user)
        at_ms = before.at_ms
        if member is None:
            return Membership(invited=invited, history_from=0, checked=live.position, at_ms=at_ms)
        above = history_from(live.state, user)
        return Membership(member.role, member.since, above, checked=live.position, at_ms=at_ms)

    # What is shown of them.

    async def _counted(
        self, user: str, page: Sequence[_Entry], places: Mapping[str, Place]
    ) -> list[tuple[_Entry, Unread]]:
        """Count what is unread, each as of the position of its entry.

        Where something was said meanwhile it is counted as of a later one: then the entry is made anew, on its place.
        If it can't be, the count is `pending`.
        """
        entries = {one.channel: one for one in page}
        unread = await self._unread(user, page, places)
        for attempt in range(_TRIES):
            behind = [one for one in entries.values() if unread[one.channel].as_of != one.head.position]
            if not behind:
                break
            if attempt == _TRIES - 1:
                unread |= {one.channel: unread[one.channel]._replace(pending=True) for one in behind}
                break
            heads = await self._heads([one.channel for one in behind])
            newer = [
                one._replace(seen=seen, head=head)
                for one in behind
                for seen, head in [heads[one.channel]]
                if head.epoch == one.head.epoch and head.phase in _SHOWN and one.member.holds(head.mv)
            ]
            entries |= {one.channel: one for one in newer}
            unread |= await self._unread(user, newer, places)
        return [(entries[one.channel], unread[one.channel]) for one in page]

    async def _unread(self, user: str, page: Sequence[_Entry], places: Mapping[str, Place]) -> dict[str, Unread]:
        """Count what is unread; without the conversation where nothing can be."""
        found: dict[str, Unread] = {}
        asked: dict[str, _Entry] = {}
        for one in page:
            channel, head = one.channel, one.head
            place, known = places[channel], None
            if one.member.role is None or place.within(head.epoch).marker.offset >= head.counted:
                known = Unread(0, 0, False, False, head.position)
            else:
                known = self._counts.known(
                    user, channel, place, epoch=head.epoch, offset=head.position, removed=one.seen.removed
                )
            if known is not None:
                found[channel] = known
            else:
                asked[channel] = one

        async def count(channel: str) -> Unread:
            head, removed = asked[channel].head, asked[channel].seen.removed
            return await self._counts.at(
                user, channel, places[channel], epoch=head.epoch, offset=head.position, removed=removed
            )

        return found | await self._at_once(list(asked), count)

    # Helpers.

    def _is_of_now(self, since: Since) -> bool:
        """Whether what came since can be told: of this Redis, and not too long ago."""
        is_recent = since.time > self._now_ms() - LEFT_KEPT_MS
        return is_recent and since.life == _generation(self._incarnation())

    async def _at_once(self, channels: Sequence[str], ask: Callable[[str], Coroutine[Any, Any, Any]]) -> dict[str, Any]:
        """Ask about conversations, several at the same time."""
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def one(channel: str) -> Any:
            async with at_once:
                return await ask(channel)

        return dict(zip(channels, await asyncio.gather(*map(one, channels)), strict=True))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something behind the answer: if it fails, the next one does it again."""

        async def guarded() -> None:
            try:
                await work
            except Unavailable as error:
                logger.info("an inbox can't be kept", extra={"error": str(error)})

        task = asyncio.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _shown(one: _Entry, user: str, place: Place, unread: Unread, now_ms: int) -> Json:
    """Return what is told of a conversation."""
    head, member = one.head, one.member
    entry: Json = {"channel": one.channel, "type": head.type, "name": head.name, "phase": head.phase}
    if head.type is Type.DIRECT:
        others = [other for other in head.users if other != user]
        entry["with"] = others[0] if others else user
    as_of = {"epoch": head.epoch, "offset": head.position}
    if member.role is None:  # what it is, and not how much is in it
        entry["invited"], entry["as_of"] = member.invited, as_of
        return entry
    preferences, last = place.preferences, head.last
    marker = place.within(head.epoch).marker
    entry["time"], entry["role"], entry["n"], entry["offset"] = head.active, member.role, head.n, head.position
    entry["marker"] = {"generation": marker.generation, "offset": marker.offset}
    entry["unread"], entry["mentions"] = unread.unread, unread.mentions
    entry["muted"], entry["archived"] = preferences.is_muted(now_ms), preferences.archived
    if unread.at_least:
        entry["at_least"] = True
    if unread.pending:
        entry["pending"] = True
    if last is not None and last.offset > max(member.history_from, one.seen.removed):
        entry["last"] = {"offset": last.offset, "author": last.author, "time": last.time, "text": last.text}
        if last.attachments:
            entry["last"]["attachments"] = last.attachments
        if last.rev != last.offset:
            entry["last"]["edited"] = True
    entry["as_of"] = as_of
    return entry


def _has_changed(one: _Entry, since: Since) -> bool:
    """Whether a conversation's log, or the place of the user in it, may have moved on."""
    seen = one.seen
    if since.has_pending(one.channel) or one.member.at_ms >= since.listed:
        return True
    if seen.fed and one.head.position == seen.stored:
        return since.is_behind(one.channel, seen.fed)
    return seen.time_ms >= since.time - _MARGIN_MS


def _order(one: _Entry) -> tuple[int, str]:
    return -one.head.active, one.channel


def _generation(token: str) -> str:
    return token.rpartition(".")[2]


def _last_id(reply: Any) -> bytes:
    """Return the last id of a stream; there may be none."""
    if isinstance(reply, Exception) and "no such key" in str(reply):
        return _NEVER
    found: list[Any] = raise_for_error(reply)
    last: bytes = dict(zip(found[::2], found[1::2], strict=True))[b"last-generated-id"]
    return last
