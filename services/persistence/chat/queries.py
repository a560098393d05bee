"""Questions about conversations, answered for one position of the log.

Rules.

* Who may not read a conversation is refused with 103, in the same words and after the same work whether or not there
  is one: the conversation is looked up first, and then the rights.
* An answer holds for the position that it names, and so do the rights of who asked. What needs several requests is
  asked anew if the conversation changed meanwhile (`pages.Moved`).
* Lists of conversations come from the read model, which may be a second behind. Each entry is then looked up, and left
  out if it does not hold any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from itertools import islice
from typing import TypeVar

from services.persistence.chat import views
from services.persistence.chat.conversations import Conversations
from services.persistence.chat.documents import is_left
from services.persistence.chat.domain.access import history_from, may_read
from services.persistence.chat.domain.names import type_of
from services.persistence.chat.domain.rights import Right
from services.persistence.chat.domain.rules import Why, has_right
from services.persistence.chat.domain.state import PLATFORM, Deleted, Message, Phase
from services.persistence.chat.live import Live
from services.persistence.chat.new_events import Refused
from services.persistence.chat.pages import Moved, Page, Pages, Shown, Version, View
from services.persistence.chat.ports import ChatStore
from services.persistence.chat.refusals import answer
from services.persistence.chat.refused_call import FORBIDDEN, RefusedCall, deleted, no_message
from services.persistence.chat.unread.counts import Counts
from services.persistence.chat.views import Json
from services.persistence.domain.ports import Rows
from services.shared.errors import Unavailable

T = TypeVar("T")
R = TypeVar("R")
_TRIES = 5  # of an answer that needs several requests, while the conversation changes
_PAUSE_S = 0.01  # before each try but the first two; longer each time
_AT_ONCE = 16  # conversations that a list looks up at the same time
_MAX_PINS = 100  # that a list of pinned messages has: the last ones
_NEAR = 64  # more than names of conversations that differ in the last character alone
_MAX_USERS = 1_000  # who are invited, banned, or reacted alike: the first ones
_MAX_VERSIONS = 100  # of a message: the last ones
_ABSENT = {Phase.NONE: Why.NO_CONVERSATION, Phase.DELETED: Why.CONVERSATION_DELETED}  # told to the platform alone


class Queries:
    """Answers questions about conversations.

    Methods about a conversation raise `RefusedCall` if the user may not read it or names what is not there, and all
    raise `Unavailable`. `user` "": the platform, which may read everything.
    """

    def __init__(
        self,
        conversations: Conversations,
        pages: Pages,
        rows: Rows,
        store: ChatStore,
        counts: Counts,
        now_ms: Callable[[], int],
    ) -> None:
        """Create it; `rows`: the log's store; `now_ms`: Redis' clock, Unix ms."""
        self.pages, self._counts = pages, counts
        self._conversations, self._rows, self._store, self._now_ms = conversations, rows, store, now_ms

    async def seen(self, channel: str, user: str) -> Live:
        """Return a conversation that the user may read, at its newest position."""
        live = await self._current(channel)
        if live is None or not may_read(live.state, user, self._now_ms()):
            raise await self._forbidden(live, user)
        return live

    async def known(self, channel: str, user: str) -> Live:
        """As `seen`, also for who was there once, whether by membership or invitation."""
        live = await self._current(channel)
        if live is None or not (may_read(live.state, user, self._now_ms()) or await self._was_there(live, user)):
            raise await self._forbidden(live, user)
        return live

    async def phase(self, channel: str) -> Phase:
        """Return where the conversation is between its creation and its deletion."""
        live = await self._current(channel)
        return Phase.NONE if live is None else live.state.phase

    async def settle(self, channel: str) -> None:
        """Bring the read model up to the newest position."""
        await self._conversations.write(await self._conversations.current(channel))

    async def notice(self, channel: str) -> Json:
        """Return what a personal channel is told of a conversation."""
        state = (await self._conversations.current(channel)).state
        return {"channel": channel, "type": state.type, "name": state.name}

    async def to_tell(self, channel: str, most: int, *, invited: bool) -> list[str]:
        """Return the members, and who is invited where asked.

        None if they are more than `most`.
        """
        live = await self._current(channel)
        if live is None:
            return []
        users = [*live.state.members, *(live.state.invited if invited else ())]
        return users if len(users) <= most else []

    async def created(self, channel: str, user: str) -> tuple[int, str]:
        """Return where a direct conversation of the user was created: offset and epoch."""
        live = await self.seen(channel, user)
        return min((member.since for member in live.state.members.values()), default=0), live.epoch

    async def conversation(self, channel: str, user: str) -> Json:
        """Return a conversation, and the user's place in it; also to who is invited."""
        live = await self._current(channel)
        now_ms = self._now_ms()
        if live is not None and user != PLATFORM and may_read(live.state, user, now_ms):
            place = await self._counts.place(user, channel)
            live = await self._counts.look(channel, user, place)
            if may_read(live.state, user, now_ms):  # still
                unread = self._counts.tell(self._counts.now(live, user, place))
                return views.conversation(live, user, now_ms) | views.unread(unread)
        if live is None or not (user in live.state.invited or may_read(live.state, user, now_ms)):
            raise await self._forbidden(live, user)
        return views.conversation(live, user, now_ms)

    async def marker(self, channel: str, user: str) -> Json:
        """Return how far the user has read a conversation, and what is unread."""
        await self.seen(channel, user)
        place = await self._counts.place(user, channel)
        live = await self._counts.look(channel, user, place)
        if not may_read(live.state, user, self._now_ms()):  # any more
            raise await self._forbidden(live, user)
        unread = self._counts.tell(self._counts.now(live, user, place))
        return views.marker(live, place.within(live.epoch), unread)

    async def conversations_of(self, user: str, limit: int, cursor: str, namespace: str) -> Json:
        """Return a page of the conversations of a user, by channel; `namespace` "": all."""
        first = f"{namespace}:" if namespace else ""
        after = max(cursor, first)
        entries: list[Json] = []
        while len(entries) < limit:
            wanted = limit - len(entries)
            found = await self._store.conversations_of(user, after, wanted)
            inside = [(channel, document) for channel, document in found if channel.startswith(first)]
            channels = [channel for channel, document in inside if not is_left(document)]
            entries += [entry for live in await self._several(channels) if (entry := views.listed(live, user))]
            if len(inside) < wanted:
                return {"conversations": entries}
            after = inside[-1][0]
        return {"conversations": entries, "cursor": after}

    async def directory(self, namespace: str, prefix: str, limit: int, cursor: str) -> Json:
        """Return a page of the open conversations, by name."""
        found = await self._store.directory(namespace, prefix, cursor, limit)
        entries = [{"channel": channel, "name": name} for name, channel in found]
        more = {"cursor": " ".join(found[-1])} if len(found) == limit else {}
        return {"conversations": entries, **more}

    async def members(self, channel: str, user: str, limit: int, cursor: str) -> Json:
        """Return a page of the members, by user.

        The first page tells who is invited, too, and to who may ban, who is banned.
        """
        live = await self.seen(channel, user)
        state = live.state
        users = sorted(one for one in state.members if one > cursor)
        page = [views.person(one, state.members[one]) for one in users[:limit]]
        answer: Json = {"members": page, "as_of": views.as_of(live, live.position)}
        if len(users) > limit:
            answer["cursor"] = users[limit - 1]
        if not cursor:
            invited = islice(state.invited.items(), _MAX_USERS)
            answer["invited"] = [{"user": one, "role": role} for one, role in invited]
            if has_right(state, user, Right.MANAGE, self._now_ms()):
                banned = islice(state.banned.items(), _MAX_USERS)
                answer["banned"] = [{"user": one, "until": until} for one, until in banned]
        return answer

    async def page(self, channel: str, user: str, read: Callable[[View], Awaitable[Page]]) -> Json:
        """Return the page of messages that `read` reads."""

        def shown(at: View, page: Page) -> Json:
            below = views.fitting(views.message(channel, one, user) for one in reversed(page.below))
            above = views.fitting(views.message(channel, one, user) for one in page.above)
            if len(below) < len(page.below):
                page = page._replace(older=page.below[-len(below)].offset)
            if len(above) < len(page.above):
                page = page._replace(newer=page.above[len(above) - 1].offset)
            messages = [*reversed(below), *above]
            return {"messages": messages, **views.edges(page), "as_of": views.as_of(at.live, at.position)}

        return await self._at_one_position(channel, user, read, shown)

    async def thread(self, channel: str, user: str, root: int, read: Callable[[View, Shown], Awaitable[Page]]) -> Json:
        """Return the page of a thread's messages that `read` reads.

        `read` gets the root, which may be deleted.
        """

        async def of_root(at: View) -> Page:
            found = await self.pages.one(at, root)
            if found is None:
                raise no_message(root)
            return await read(at, found)

        return await self.page(channel, user, of_root)

    async def messages_by(self, channel: str, author: str, after: int, limit: int) -> tuple[list[Json], int | None]:
        """Return an author's messages among the next `limit`, and where to go on.

        Whoever may read them. None: there are no more.
        """

        def shown(_: View, page: Page) -> tuple[list[Json], int | None]:
            found = [views.own(channel, one) for one in page.above if views.is_by(one, author)]
            return found, page.newer

        return await self._at_one_position(channel, PLATFORM, lambda at: self.pages.above(at, after, limit), shown)

    async def message(self, channel: str, user: str, offset: int) -> Json:
        """Return a message."""

        def shown(at: View, one: Shown | None) -> Json:
            found, _ = _existing(offset, one)
            return {**views.message(channel, found, user), "as_of": views.as_of(at.live, at.position)}

        return await self._at_one_position(channel, user, lambda at: self.pages.one(at, offset), shown)

    async def reactions(self, channel: str, user: str, offset: int, name: str | None) -> Json:
        """Return who reacted to a message, by reaction, the first first."""

        def shown(at: View, one: Shown | None) -> Json:
            _, message = _existing(offset, one)
            wanted = {
                key: list(islice(users, _MAX_USERS)) for key, users in message.reactions.items() if name in (None, key)
            }
            return {
                "channel": channel,
                "offset": offset,
                "reactions": wanted,
                "as_of": views.as_of(at.live, at.position),
            }

        return await self._at_one_position(channel, user, lambda at: self.pages.one(at, offset), shown)

    async def versions(self, channel: str, user: str, offset: int) -> Json:
        """Return a message's versions to its author, and to who may moderate."""

        async def read(at: View) -> tuple[Shown | None, list[Version]]:
            one = await self.pages.one(at, offset)
            _, message = _existing(offset, one)
            if message.author != user and not has_right(at.live.state, user, Right.MODERATE, self._now_ms()):
                raise RefusedCall(FORBIDDEN)
            revisions = [offset, *message.edits][-_MAX_VERSIONS:]
            return one, await self.pages.contents(at, revisions)

        def shown(at: View, found: tuple[Shown | None, list[Version]]) -> Json:
            _existing(offset, found[0])
            return {
                "channel": channel,
                "offset": offset,
                "versions": views.fitting(views.version(one) for one in reversed(found[1]))[::-1],
                "as_of": views.as_of(at.live, at.position),
            }

        return await self._at_one_position(channel, user, read, shown)

    async def pins(self, channel: str, user: str) -> Json:
        """Return the last 100 pinned messages, in the order of their pins."""

        async def read(at: View) -> list[Shown]:
            offsets = [offset for offset in at.live.pins if offset > at.above][-_MAX_PINS:]
            return await self.pages.pinned(at, offsets)

        def shown(at: View, found: Sequence[Shown]) -> Json:
            messages = views.fitting(views.message(channel, one, user) for one in reversed(found))[::-1]
            return {"messages": messages, "as_of": views.as_of(at.live, at.position)}

        return await self._at_one_position(channel, user, read, shown)

    async def _at_one_position(
        self,
        channel: str,
        user: str,
        read: Callable[[View], Awaitable[T]],
        shown: Callable[[View, T], R],
    ) -> R:
        """Read and show what holds at one position; anew if that changes meanwhile."""
        for attempt in range(_TRIES):
            if attempt > 1:
                await asyncio.sleep(_PAUSE_S * attempt)
            live = await self.seen(channel, user)
            is_last = attempt == _TRIES - 1
            async with live.lock if is_last else nullcontext():
                if not may_read(live.state, user, self._now_ms()):  # while this waited
                    raise await self._forbidden(live, user)
                above = history_from(live.state, user)
                at = View(live, live.epoch, live.position, above, attempt == 0, is_last)
                try:
                    found = await read(at)
                except Moved:
                    continue
                if not at.has_moved:
                    return shown(at, found)
        raise Unavailable("the conversation changes faster than it can be read")

    async def _was_there(self, live: Live, user: str) -> bool:
        """Whether the user's list has the conversation, also as one that was left."""
        async with live.lock:  # or it may be under way from memory to the store
            if user in live.unwritten.people:
                return True
            near = await self._store.conversations_of(user, live.channel[:-1], _NEAR)
        return live.channel in [channel for channel, _ in near]

    async def _current(self, channel: str) -> Live | None:
        """Return a conversation at its newest position; None: it can be none."""
        return await self._conversations.current(channel) if type_of(channel) is not None else None

    async def _forbidden(self, live: Live | None, user: str) -> RefusedCall:
        """Return the refusal, after the same work whether or not it exists."""
        if live is None:
            return RefusedCall(FORBIDDEN)
        if live.epoch:
            await self._rows.has_begun(live.channel)
        why = _ABSENT.get(live.state.phase, Why.NOT_ALLOWED)
        return RefusedCall(Refused(*answer(live.state, user, self._now_ms(), why)))

    async def _several(self, channels: Sequence[str]) -> list[Live]:
        """Return these conversations at their newest positions."""
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def one(channel: str) -> Live:
            async with at_once:
                return await self._conversations.current(channel)

        return await asyncio.gather(*map(one, channels))


def _existing(offset: int, one: Shown | None) -> tuple[Shown, Message]:
    """Return what was found, which is a message that was not deleted."""
    if one is None:
        raise no_message(offset)
    if isinstance(one.message, Deleted):
        raise deleted()
    return one, one.message
