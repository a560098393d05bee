"""Tells clients of changed profiles in the conversations that they follow.

**Purpose.** Whoever shares a conversation with a user sees a new name or picture without asking: within 2 s as a rule,
and within 10 s whatever has died. It must cost little where one user is in very many conversations, and where very many
users change.

**Rules.**

1. Every edge hears of every change, at once through Redis (`control/profile_news.py`), and within seconds from auth,
   which keeps it in its store. It may hear of it again and again: a version that was told is not told again.
2. Several changes of one user within a second are told as one, with the newest version.
3. The edge asks persistence in which conversations the user is a member, for several users in one call. Those that have
   subscribers here get the ephemeral event `{"kind":"profile","user":…,"version":…}`; nothing goes through Redis.
   Without any conversation that has subscribers here, persistence is not asked.
4. In open conversations most are no members. So the edges to which the user is connected publish the event in those
   that the user follows and is no member of.
5. Four seconds later it looks again, and tells the conversations that it has not told, or in which somebody has become
   live since. The list of persistence may be a second behind, and clients of an edge that died come back meanwhile.
   While a conversation is being repaired nobody is told there: the edge goes on to look, until 30 s have passed.
6. If persistence does not answer it is asked again, for 30 s. Then the change is forgotten here: clients see it when
   they read profiles.
7. At most 80 users and 2,000 conversations a second; more wait. At most 10,000 users wait; of others nothing is told.
8. Of disabled and deleted users nothing is told.

**Example.** Ann takes another name, version 4, on edge A, which dies before it tells anybody. A second later auth tells
edges B and C. Each asks persistence, and tells 2 and 3 of Ann's 40 conversations. A client of A comes back to B, and
subscribes after that: B looks again, and tells it, too.

**Trade-offs.** The event says that there is something new, not what: clients fetch it (`POST /auth/profiles`), or
ignore it where they know the version. A client that is away longer reads profiles when it comes back, as it does when
it opens a conversation. Of a user with more than 1,000 conversations the first 1,000 by name are told.

Decision: docs/decisions/0060-changed-profiles-are-told-by-auth.md.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import msgspec

from services.edge.domain.channels.channel import Channel
from services.edge.domain.channels.conversation_channel import is_open_conversation
from services.shared.errors import ThalamusError
from services.shared.namespaces import Namespace

logger = logging.getLogger(__name__)

USERS_AT_ONCE = 10  # in one call to persistence: an answer has 10,000 names at most
AGAIN_S = 4.0  # until the second look, seconds
_PAUSE_S = 0.125  # between two calls, seconds
_EVERY_S = 1.0  # between two events of one user, seconds
_FAILING_S = 1.0  # until persistence is asked again, seconds
_GIVEN_UP_S = 30.0  # after so long without an answer, seconds
_CHANNELS_AT_ONCE, _CHANNELS_PAUSE_S = 50, 0.025  # conversations between two pauses, and a pause in seconds
_MAX_PENDING = 10_000  # users
_MAX_TOLD = 20_000  # users of whom it is known what was told
_TOLD_S = 300.0  # how long it is known, seconds; auth tells the changes of the last minute or two
_LOOKED_AT = 1_000  # channels, to find out whether anybody follows a conversation
_MAX_OPEN = 100  # open conversations that are told because the user follows them
TOLD, DROPPED, FAILED = "told", "dropped", "failed"


class Memberships(Protocol):
    """Who knows in which conversations users are."""

    async def channels_of(self, users: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Return the conversations in which the users are members, 1,000 of each at most.

        Raises:
            ThalamusError: persistence does not answer, or is of before.
        """


class NoMemberships:
    """`Memberships` of an edge without conversations."""

    async def channels_of(self, users: Sequence[str]) -> Mapping[str, Sequence[str]]:
        return {}


class Follower(Protocol):
    """The part of a session that is used: `subscriptions` by channel."""

    @property
    def subscriptions(self) -> Mapping[str, object]: ...


class Outlets(NamedTuple):
    """How events leave: to subscribers of this edge, or of all edges.

    `here` returns False if nobody may be told in that channel at the moment.
    """

    here: Callable[[str, bytes], bool]
    everywhere: Callable[[Sequence[tuple[str, Namespace]], bytes], None]


@dataclass(slots=True)
class _News:
    """A version that is to be told, at the earliest at `due`.

    `lives`: what was told already: by channel, the view of it, and how often somebody had become live in it.
    """

    version: int
    due: float
    since: float
    is_second: bool = False
    is_partial: bool = False  # in some conversation nobody could be told at the last look
    lives: dict[str, tuple[Channel, int]] = field(default_factory=dict)
    published: set[str] = field(default_factory=set)


class ProfileAnnouncer:
    """The changes that this edge has heard of. One per edge."""

    def __init__(
        self,
        *,
        channels: Mapping[str, Channel],
        users: Mapping[str, Mapping[str, Follower]],
        memberships: Memberships,
        outlets: Outlets,
        is_disabled: Callable[[str], bool],
        now: Callable[[], float],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Take what is open here, the connections by user, and a monotonic clock."""
        self._channels, self._users, self._memberships, self._outlets = channels, users, memberships, outlets
        self._is_disabled, self._now, self._pause = is_disabled, now, pause
        self._pending: dict[str, _News] = {}
        self._again: OrderedDict[str, _News] = OrderedDict()  # second looks, the next one first
        self._told: OrderedDict[str, tuple[int, float]] = OrderedDict()  # version and time by user, the oldest first
        self._some = asyncio.Event()
        self._paced = 0  # conversations since the last pause
        self.outcomes = dict.fromkeys((TOLD, DROPPED, FAILED), 0)  # changes by what became of them

    def __len__(self) -> int:
        """How many users wait."""
        return len(self._pending)

    def changed(self, user: str, version: int) -> None:
        """Note that a profile has this version; 0: nobody knows which, so nothing is told."""
        version_told, told_at = self._told.get(user, (0, -_EVERY_S))
        if version <= version_told:
            return
        waiting = self._pending.get(user)
        if waiting is not None:
            waiting.version = max(waiting.version, version)
        elif len(self._pending) >= _MAX_PENDING:
            self.outcomes[DROPPED] += 1
        else:
            now = self._now()
            self._pending[user] = _News(version, max(now, told_at + _EVERY_S), now)
            self._some.set()

    async def run(self) -> None:
        """Tell until cancelled."""
        while True:
            await self._some.wait()
            failed = not await self.step()
            if not (self._pending or self._again):
                self._some.clear()
            await self._pause(_FAILING_S if failed else _PAUSE_S)

    async def step(self) -> bool:
        """Tell of some users whose time has come; False if persistence did not answer."""
        now = self._now()
        batch = self._take(now)
        if not batch:
            return True
        found: Mapping[str, Sequence[str]] = {}
        try:
            if self._may_concern_somebody():
                found = await self._memberships.channels_of([user for user, _ in batch])
        except ThalamusError as error:
            self._put_back(batch, error)
            return False
        for user, news in batch:
            if not self._is_disabled(user):
                await self._tell(user, news, found.get(user, ()))
            if not news.is_second:
                self.outcomes[TOLD] += 1
            if not news.is_second or (news.is_partial and now - news.since <= _GIVEN_UP_S):
                self._look_again(user, news)
        return True

    def _may_concern_somebody(self) -> bool:
        """Whether a conversation has subscribers; very many are not looked at."""
        looked_at = itertools.islice(self._channels.values(), _LOOKED_AT)
        return len(self._channels) > _LOOKED_AT or any(map(_is_followed, looked_at))

    def _take(self, now: float) -> list[tuple[str, _News]]:
        """Take users whose time has come: who changed first, then second looks."""
        due = [user for user, news in self._pending.items() if news.due <= now][:USERS_AT_ONCE]
        batch = [(user, self._pending.pop(user)) for user in due]
        for user, news in batch:
            self._note(user, news.version, now)
        while self._again and len(batch) < USERS_AT_ONCE:
            user, news = next(iter(self._again.items()))
            if news.due > now:
                break
            del self._again[user]
            if user not in due:
                batch.append((user, news))
        return batch

    def _note(self, user: str, version: int, now: float) -> None:
        self._told[user] = (version, now)
        self._told.move_to_end(user)
        while len(self._told) > _MAX_TOLD or now - next(iter(self._told.values()))[1] > _TOLD_S:
            self._told.popitem(last=False)

    def _put_back(self, batch: list[tuple[str, _News]], error: Exception) -> None:
        now = self._now()
        for user, news in batch:
            if now - news.since > _GIVEN_UP_S:
                self.outcomes[FAILED] += 1
                logger.warning("a changed profile is not told here", extra={"error": repr(error)})
            elif news.is_second:
                self._again.setdefault(user, news)
                self._again.move_to_end(user, last=False)
            else:
                newer = self._pending.get(user)
                news.version = max(news.version, newer.version if newer else 0)
                self._pending[user] = news

    def _look_again(self, user: str, news: _News) -> None:
        news.is_second, news.due = True, self._now() + AGAIN_S
        self._again[user] = news
        self._again.move_to_end(user)

    async def _tell(self, user: str, news: _News, channels: Sequence[str]) -> None:
        data = msgspec.json.encode({"kind": "profile", "user": user, "version": news.version})
        news.is_partial = False
        for name in channels:
            channel = self._channels.get(name)
            if channel is None or not _is_followed(channel):
                continue
            lives = (channel, channel.became_live)
            if news.lives.get(name) == lives:
                continue
            if self._outlets.here(name, data):
                news.lives[name] = lives
            else:
                news.is_partial = True
            await self._pace()
        known = news.published.union(channels)
        new = {name: namespace for name, namespace in self._followed_by(user).items() if name not in known}
        if new:
            news.published |= new.keys()
            self._outlets.everywhere(list(new.items()), data)

    def _followed_by(self, user: str) -> dict[str, Namespace]:
        """Return the open conversations that the user follows here."""
        found: dict[str, Namespace] = {}
        for session in self._users.get(user, {}).values():
            for name in session.subscriptions:
                channel = self._channels.get(name)
                if channel is None or not channel.namespace.conversations or not is_open_conversation(name):
                    continue
                found[name] = channel.namespace
                if len(found) == _MAX_OPEN:
                    return found
        return found

    async def _pace(self) -> None:
        self._paced += 1
        if self._paced >= _CHANNELS_AT_ONCE:
            self._paced = 0
            await self._pause(_CHANNELS_PAUSE_S)


def _is_followed(channel: Channel) -> bool:
    return channel.namespace.conversations and len(channel) > 0
