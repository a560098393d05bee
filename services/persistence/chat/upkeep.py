"""Upkeep of the read model: compare it with the log, and make it again.

Everything in the read model follows from the log. `check` folds the log in one go, with nothing but the rules, and
compares: so it finds what any other way of reading it would hide. It holds all messages of the conversation in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

import msgspec

from services.persistence.chat.conversations import Conversations
from services.persistence.chat.documents import directory_name, is_closed_open, live_of, message_of, overlay_of
from services.persistence.chat.domain import events
from services.persistence.chat.domain.fold import apply
from services.persistence.chat.domain.names import namespace_of
from services.persistence.chat.domain.state import PLATFORM, Conversation, Deleted, Message, Phase
from services.persistence.chat.live import Found, Live
from services.persistence.chat.ports import ChatStore
from services.persistence.chat.rows import Row, entry_behind_removed, parsed_row
from services.persistence.domain.log import Log
from services.persistence.domain.ports import CountedRow, Rows
from services.shared.errors import Unavailable

_PAGE_ROWS = 1_000
_PAGE_BYTES = 4 << 20
_AT_ONCE = 8  # users whose lists are read at the same time
_NEAR = 100  # entries of a list that are searched for a conversation
_TRIES = 5  # while events are erased meanwhile
_DIFFERENCES = 20  # that are told


class Checked(NamedTuple):
    """What is wrong with the read model as of a position, in words; the first 20."""

    position: int
    differences: list[str]


class Upkeep:
    """Checks and rebuilds read models; every method raises `Unavailable`."""

    def __init__(self, conversations: Conversations, log: Log, rows: Rows, store: ChatStore) -> None:
        """Create it; `rows` is the store of the log."""
        self._conversations, self._log, self._rows, self._store = conversations, log, rows, store

    async def channels(self, cursor: str) -> tuple[list[str], str]:
        """Return some channels of the log, of all kinds; see `Rows.channels`."""
        return await self._rows.channels(cursor)

    async def rebuild(self, channel: str) -> int:
        """Make the read model again from the log, at its position; return that.

        What is there is replaced and never missing: other replicas have only a part of it in memory.
        """
        for _ in range(_TRIES):
            loaded = await self._store.load(channel)
            if loaded is None:
                self._conversations.forget(channel)
                live = await self._conversations.current(channel)
                await self._conversations.write(live)
                return live.position
            if await self._conversations.remake(channel, loaded, loaded.position):
                self._conversations.forget(channel)
                return loaded.position
        raise Unavailable("other replicas write the read model all the time")

    async def check(self, channel: str) -> Checked:
        """Compare the read model with the log, at the newest position."""
        for _ in range(_TRIES):
            live = await self._conversations.current(channel)
            if live.state.phase is Phase.NONE:
                return Checked(0, [])
            await self._conversations.write(live)
            loaded = await self._store.load(channel)
            if loaded is None:
                return Checked(live.position, ["nothing is kept of it"])
            live = live_of(channel, loaded)
            state, rows, position = Conversation(), dict[int, Row](), 0
            async for counted, (event, entry) in self._read(channel, loaded.position):
                rows[counted.offset] = event, entry
                if counted.offset > position + 1:
                    entry = entry_behind_removed(state, channel, counted, entry)
                apply(state, entry)
                position = counted.offset
            documents = await self._store.overlays_between(channel, 1, max(rows, default=0))
            overlays = {offset: overlay_of(document) for offset, document in documents.items()}
            is_newer = any(overlay.at > live.position for overlay in overlays.values())
            if is_newer or any(_erased_by(row) > live.position for row in rows.values()):
                continue  # what the log had at this position is gone, or the read model has moved
            found = {offset: message_of(live, offset, overlays.get(offset), row) for offset, row in rows.items()}
            differences = [*_of_conversation(state, live), *_of_messages(state, found), *_of_pins(state, live)]
            differences += await self._of_lists(channel, state)
            return Checked(loaded.position, differences[:_DIFFERENCES])
        raise Unavailable("the conversation changes faster than it can be read")

    async def _read(self, channel: str, upto: int) -> AsyncIterator[tuple[CountedRow, Row]]:
        """Yield the rows of the log up to an offset."""
        since = 0
        while page := await self._rows.read_counted(
            channel, since_offset=since, upto=upto, limit=_PAGE_ROWS, reverse=False, max_bytes=_PAGE_BYTES
        ):
            for row in page:
                yield row, parsed_row(row.offset, row.publication)
            since = page[-1].offset

    async def _of_lists(self, channel: str, state: Conversation) -> list[str]:
        """Return who does not find the conversation where it should be found."""
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def has(user: str) -> bool:
            async with at_once:
                page = await self._store.conversations_of(user, channel[:-1], _NEAR)
                return channel in [one for one, _ in page]

        users = sorted({*state.members, *state.invited})
        listed = await asyncio.gather(*map(has, users))
        missing = [
            f"{user}: not in the list of conversations" for user, is_in in zip(users, listed, strict=True) if not is_in
        ]
        if is_closed_open(state) and not await has(PLATFORM):
            missing.append("not among the closed ones")
        name = directory_name(channel, state)
        if name is not None:
            page = await self._store.directory(namespace_of(channel), name, "", _NEAR)
            missing += [] if (name, channel) in [tuple(one) for one in page] else ["not in the directory"]
        return missing


def _erased_by(row: Row) -> int:
    event = row[0]
    return event.by if isinstance(event, events.Erased) else 0


def _of_conversation(state: Conversation, live: Live) -> list[str]:
    """Return what differs apart from messages."""
    names = ("phase", "type", "name", "settings", "members", "invited", "banned", "silenced", "n")
    return [
        f"{name}: {getattr(live.state, name)!r}, in the log {getattr(state, name)!r}"
        for name in names
        if getattr(live.state, name) != getattr(state, name)
    ]


def _of_messages(state: Conversation, found: Mapping[int, Found | None]) -> list[str]:
    """Return which messages differ."""
    return [
        f"message {offset}: {_shown(found.get(offset))}, in the log {_shown(state.messages.get(offset))}"
        for offset in sorted({*found, *state.messages})
        if _shown(found.get(offset)) != _shown(state.messages.get(offset))
    ]


def _shown(message: Found | None) -> str:
    """Return a message as JSON, without what the log may have lost of it."""
    if isinstance(message, Deleted):
        return msgspec.json.encode((message.by, message.counts, message.replies)).decode()
    return msgspec.json.encode(message).decode()


def _of_pins(state: Conversation, live: Live) -> list[str]:
    """Return which pinned messages the read model does not know of."""
    pinned = {offset for offset, one in state.messages.items() if isinstance(one, Message) and one.pinned}
    missing = sorted(pinned - live.pins.keys()) if not live.lacks_pins else []
    return [f"pinned, and not among the pins: {missing}"] if missing else []
