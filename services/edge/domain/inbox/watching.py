"""Tells clients that watch their inbox where something was said.

**Purpose.** Who watches an inbox hears of every conversation of theirs within a second, without a subscription to each.
A message costs each edge one look into a table, however many members the conversation has.

**Rules.**

1. A user is watched while a client of theirs is subscribed to `inbox:#<user>` here. The subscription waits until
   persistence has said what conversations the user has (`watch`).
2. Every publication of a conversation comes as a hint from the feed. If local users have that conversation, each of
   them gets a change: its place, newest per conversation. The first push goes at once, the next ones a second apart.
3. A hint that names local users (`users`: who came, left, or was removed) takes the conversation from them at once.
   Then persistence is asked whether they are members (`members`): nothing that comes behind a removal is told.
   The same with all local users of a conversation that was deleted. Until it has answered, no other answer gives them
   the conversation: it may be from before.
4. While persistence is being asked, hints are remembered, also of conversations that nobody here has: the answer may
   be from before them. Where that would be more than 100,000 conversations, all are forgotten, and it is asked again.
5. After a gap of the feed nobody is told anything until persistence has been asked for that user again, 8 at a time:
   what was missed may be a removal. What differs from what the user was told is pushed then. An answer to a question
   from before the gap does not count.
6. What fails is tried again, however it failed: else the edge would not know of a conversation until the next gap.

**Example.** Ann has 50 conversations. In 3 of them 40 messages come within a second: one push with 3 changes, a second
after the last one. Eve is removed at offset 57, and 58 is a message: the hint of 57 takes the conversation from Eve, 58
finds nobody, and persistence says that she is no member: she is pushed `removed`.

**Trade-offs.** Edges of a platform all read the whole feed. After a gap with thousands of watchers it takes seconds
until all have been asked for.

Decision: docs/decisions/0059-inboxes-from-the-feed.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import unquote

import msgspec
from prometheus_client import Counter, Gauge

from services.edge.domain.access.user_names import personal_channel
from services.edge.domain.inbox.ports import InboxSource, Place
from services.shared.errors import ThalamusError, Unavailable
from services.shared.feed.follower import Hint, hint_of
from services.shared.hotlog.hotlog import CHANGES_MEMBERSHIP, ERASES
from services.shared.process.backoff import Backoff

logger = logging.getLogger(__name__)

NAMESPACE = "inbox"
PERIOD_S = 1.0  # between two pushes to a user, seconds
_CHECK_S = 0.05  # for which users of a conversation are collected before persistence is asked
_READY_S = 2.5  # longest wait of a subscription for the feed, seconds
_AT_ONCE = 8
_REMEMBERED = 100_000  # conversations of which a hint is kept, while persistence is being asked
_DELETION = CHANGES_MEMBERSHIP | ERASES
_FIELDS = 10  # of an entry without users

WATCHED = Gauge("thalamus_edge_inbox_users", "Users whose inbox is watched here.")
CONVERSATIONS = Gauge("thalamus_edge_inbox_conversations", "Conversations of these users.")
HINTS = Counter("thalamus_edge_inbox_hints", "Publications of conversations that the feed told of.")
PUSHES = Counter(
    "thalamus_edge_inbox_pushes", "Pushes to inboxes; each has the newest change of several conversations."
)
GAPS = Counter("thalamus_edge_inbox_gaps", "Gaps of the feed: all watched inboxes were asked for again.")

_encode = msgspec.json.Encoder().encode
Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
Change = dict[str, Any]
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Watched:
    """A user.

    `told`: conversation → offset that the user was told, or has had from the beginning.
    """

    user: str
    channel: str
    told: dict[str, int] = field(default_factory=dict)
    changes: dict[str, Change] = field(default_factory=dict)  # to push, newest per conversation
    pushed_at: float = float("-inf")
    timer: asyncio.TimerHandle | None = None


class Inboxes:
    """The inboxes that are watched on this edge; see the module.

    It is the `ChannelWatcher` of the hub.
    """

    namespace = NAMESPACE

    def __init__(
        self,
        source: InboxSource,
        push: Callable[[str, bytes], None],
        spawn: Spawn,
        now: Callable[[], float],
        *,
        period_s: float = PERIOD_S,
        remembered: int = _REMEMBERED,
    ) -> None:
        """Create it.

        `push` sends data to the local subscribers of a channel, `now` is monotonic, seconds. `remembered`: of how many
        conversations hints are kept.
        """
        self.source, self._push, self._spawn, self._now, self._period_s = source, push, spawn, now, period_s
        self._users: dict[str, _Watched] = {}  # channel → user
        self._by_user: dict[str, _Watched] = {}
        self._conversations: dict[bytes, set[_Watched]] = {}
        self._asking = 0
        self._generation = 0  # gaps so far
        self._recent: dict[str, Hint] = {}  # the newest of each conversation, while persistence is being asked
        self._remembered, self._forgotten = remembered, 0  # how often `_recent` was too small
        self._to_check: dict[str, set[str]] = {}  # conversation → channels of users of whom it is to be asked
        self._in_check: dict[str, set[str]] = {}  # of whom it was asked, and is not answered
        self._checking: set[str] = set()
        self._to_load: dict[str, None] = {}
        self._loading: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()  # the feed is followed

    # Watching, for the hub.

    async def opened(self, channel: str) -> None:
        """Watch the inbox of a channel, before its first subscription is answered.

        Raises:
            Unavailable: persistence, or the feed, does not answer.
        """
        user = _user_of(channel)
        if personal_channel(user, NAMESPACE) != channel or channel in self._users:
            return
        try:
            async with asyncio.timeout(_READY_S):
                await self._ready.wait()
        except TimeoutError as error:
            raise Unavailable("the feed can't be followed") from error
        watched = _Watched(user, channel)
        with self._remembering():
            self._users[channel] = self._by_user[user] = watched
            generation = self._generation
            try:
                found = await self._answer(lambda: self.source.watch(user))
            except BaseException:
                self.closed(channel)
                raise
            if self._users.get(channel) is not watched:
                raise Unavailable("the inbox was closed meanwhile")
            watched.told = {conversation: place.offset for conversation, place in found.items()}
            if generation == self._generation:  # else all are asked for again
                for conversation, place in found.items():
                    if not self._is_in_check(watched, conversation):
                        self._have(watched, conversation, place)
        self._count()

    def closed(self, channel: str) -> None:
        """Forget the inbox of a channel without subscribers."""
        watched = self._users.pop(channel, None)
        if watched is None:
            return
        self._by_user.pop(watched.user, None)
        self._to_load.pop(channel, None)
        for conversation in list(watched.told):
            self._unmap(watched, conversation)
        if watched.timer is not None:
            watched.timer.cancel()
        self._count()

    # What the feed tells.

    def on_hints(self, entries: Sequence[tuple[bytes, Sequence[bytes], bytes]]) -> None:
        """Take entries of the feed."""
        HINTS.inc(len(entries))
        for channel, fields, entry_id in entries:
            users = self._conversations.get(channel)
            if users is None and not self._asking and len(fields) <= _FIELDS:
                continue  # nobody here cares: nearly all of them
            hint = hint_of(fields, entry_id)
            if hint is None:
                continue
            if self._asking:
                self._remember(hint)
            concerned = {one for name in hint.users if (one := self._by_user.get(name)) is not None}
            if hint.flags & _DELETION == _DELETION:
                concerned |= users or set()
            for watched in list(users or ()):
                if watched not in concerned:
                    self._change(watched, hint)
            for watched in concerned:
                self._check(watched, hint.channel)

    def on_gap(self, reason: str) -> None:
        """Ask for all users again: hints may have been missed."""
        self._ready.set()
        if reason != "new":
            GAPS.inc()
        self._generation += 1
        self._conversations.clear()
        self._recent.clear()
        self._to_load |= dict.fromkeys(self._users)
        if self._to_load and self._loading is None:
            self._asking += 1
            self._loading = self._spawn(self._load_all())

    # Asking persistence.

    def _check(self, watched: _Watched, channel: str) -> None:
        """Take a conversation from a user until persistence has said that it is theirs."""
        self._to_check.setdefault(channel, set()).add(watched.channel)
        self._unmap(watched, channel, keeps_told=True)
        if channel not in self._checking:
            self._checking.add(channel)
            self._spawn(self._check_soon(channel))

    async def _check_soon(self, channel: str) -> None:
        backoff = Backoff(0.1, 2.0)
        try:
            with self._remembering():
                await asyncio.sleep(_CHECK_S)
                while self._to_check.get(channel):
                    names = self._in_check[channel] = self._to_check.pop(channel)
                    is_done, wait_s = False, 0.0
                    try:
                        is_done = await self._check_once(channel, names)
                    except Exception as error:
                        _log("a membership can't be looked up", error)
                        wait_s = backoff.next_s()
                    finally:
                        del self._in_check[channel]
                        if not is_done:
                            self._to_check.setdefault(channel, set()).update(names)
                    await asyncio.sleep(wait_s)
        finally:
            self._to_check.pop(channel, None)
            self._checking.discard(channel)
            self._count()

    async def _check_once(self, channel: str, names: Collection[str]) -> bool:
        """Ask which of these users are members.

        Return False if the answer is from before a gap.
        """
        users = [_user_of(name) for name in names]
        if not any(name in self._users for name in names):
            return True
        generation = self._generation
        found = await self._answer(lambda: self.source.members(channel, users))
        if generation != self._generation:  # something that is not known may have come since
            return False
        again = self._to_check.get(channel, set())
        for name in names:
            watched = self._users.get(name)
            if watched is None or name in again:
                continue
            if watched.user in found.users:
                watched.told.pop(channel, None)
                self._have(watched, channel, found.place)
            elif watched.told.pop(channel, None) is not None:
                self._queue(watched, channel, {"channel": channel, "removed": True})
        return True

    def _is_in_check(self, watched: _Watched, channel: str) -> bool:
        return any(watched.channel in some.get(channel, ()) for some in (self._to_check, self._in_check))

    async def _load_all(self) -> None:
        backoff = Backoff(0.1, 2.0)
        try:
            while self._to_load:
                some = list(self._to_load)[:_AT_ONCE]
                for channel in some:
                    del self._to_load[channel]
                results = await asyncio.gather(*map(self._load, some), return_exceptions=True)
                failed = {channel: error for channel, error in zip(some, results, strict=True) if error is not None}
                if failed:
                    _log("inboxes can't be asked for", next(iter(failed.values())))
                    self._to_load |= {one: None for one in failed if one in self._users}
                    await asyncio.sleep(backoff.next_s())
                else:
                    backoff.reset()
        finally:
            self._loading = None
            self._asked()

    async def _load(self, channel: str) -> None:
        """Ask for a user again; push what differs from what the user was told."""
        watched = self._users.get(channel)
        if watched is None:
            return
        generation = self._generation
        found = await self._answer(lambda: self.source.watch(watched.user))
        if self._users.get(channel) is not watched or generation != self._generation:
            return
        for conversation in list(watched.told):
            if conversation not in found:
                self._unmap(watched, conversation)
                self._queue(watched, conversation, {"channel": conversation, "removed": True})
        for conversation, place in found.items():
            if not self._is_in_check(watched, conversation):
                self._have(watched, conversation, place)

    async def _answer(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask persistence; again, if not all hints could be remembered meanwhile."""
        while True:
            forgotten = self._forgotten
            answer = await ask()
            if forgotten == self._forgotten:
                return answer

    def _remember(self, hint: Hint) -> None:
        known = self._recent.get(hint.channel)
        if known is None and len(self._recent) >= self._remembered:
            self._recent.clear()
            self._forgotten += 1
        if known is None or known.offset < hint.offset:
            self._recent[hint.channel] = hint

    @contextmanager
    def _remembering(self) -> Any:
        """Context manager: hints are remembered, because persistence is being asked."""
        self._asking += 1
        try:
            yield
        finally:
            self._asked()

    def _asked(self) -> None:
        self._asking -= 1
        if not self._asking:
            self._recent.clear()

    # The table, and what is to be pushed.

    def _have(self, watched: _Watched, conversation: str, place: Place) -> None:
        """Let a user have a conversation; push its place if that is news.

        That of a newer hint, if there is one.
        """
        self._conversations.setdefault(conversation.encode(), set()).add(watched)
        newer = self._recent.get(conversation)
        if newer is not None and newer.offset > place.offset:
            self._change(watched, newer)
        elif watched.told.get(conversation) != place.offset:
            watched.told[conversation] = place.offset
            self._queue(watched, conversation, {"channel": conversation, "offset": place.offset, "n": place.n})

    def _unmap(self, watched: _Watched, conversation: str, *, keeps_told: bool = False) -> None:
        if not keeps_told:
            watched.told.pop(conversation, None)
        name = conversation.encode()
        users = self._conversations.get(name)
        if users is not None:
            users.discard(watched)
            if not users:
                del self._conversations[name]

    def _change(self, watched: _Watched, hint: Hint) -> None:
        if hint.offset <= watched.told.get(hint.channel, 0):
            return
        watched.told[hint.channel] = hint.offset
        change: Change = {"channel": hint.channel, "offset": hint.offset, "n": hint.n}
        if hint.author:
            change["author"] = hint.author
        self._queue(watched, hint.channel, change | {"time": hint.time_ms, "flags": hint.flags})

    def _queue(self, watched: _Watched, conversation: str, change: Change) -> None:
        watched.changes.pop(conversation, None)
        watched.changes[conversation] = change
        if watched.timer is None:
            wait_s = max(0.0, watched.pushed_at + self._period_s - self._now())
            watched.timer = asyncio.get_running_loop().call_later(wait_s, self._flush, watched)

    def _flush(self, watched: _Watched) -> None:
        watched.timer, watched.pushed_at = None, self._now()
        changes, watched.changes = list(watched.changes.values()), {}
        PUSHES.inc()
        self._push(watched.channel, _encode({"kind": "inbox", "changes": changes}))

    def _count(self) -> None:
        WATCHED.set(len(self._users))
        CONVERSATIONS.set(len(self._conversations))


def _user_of(channel: str) -> str:
    return unquote(channel.removeprefix(f"{NAMESPACE}:#"))


def _log(what: str, error: BaseException) -> None:
    if isinstance(error, ThalamusError):
        logger.warning(what, extra={"error": str(error)})
    else:
        logger.error(what, exc_info=error)
