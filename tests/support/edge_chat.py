"""Conversations in memory: the real rules, over the logs of `memory`."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from services.edge.adapters.chat_codec import refused
from services.edge.domain.chat.ports import Access
from services.edge.domain.model import AppendResult, ClientInfo, Publication, StreamPosition
from services.persistence.chat.domain import events
from services.persistence.chat.domain.fold import Entry, apply
from services.persistence.chat.domain.rules import Why, decide
from services.persistence.chat.domain.state import Conversation, Phase, Type
from services.shared.errors import Unavailable
from services.shared.namespaces import DataFormat, Durability, Mode, Namespace, Permission
from tests.support.memory import MemoryBus
from thalamus.chat.v1 import chat_pb2 as pb

_MEMBERS = frozenset({Permission.MEMBER})
CONV = Namespace(
    name="conv",
    conversations=True,
    durability=Durability.STORED,
    data_format=DataFormat.OBJECT,
    recovery=Mode.FORCE,
    presence=True,
    join_leave=Mode.ALLOW,
    subscribe=_MEMBERS,
    publish=_MEMBERS,
    history=_MEMBERS,
    presence_read=_MEMBERS,
)
GROUP = "conv:g." + "a" * 26
NOWHERE = "conv:g." + "b" * 26  # there is no such conversation
OPEN_ONE = "conv:o.lobby"

_TIME_MS = 1_800_000_000_000
_RESTRICTS = frozenset({"leave", "remove", "ban", "silence", "role"})
_CODES = {Why.NO_MESSAGE: 404, Why.DELETED: 410, Why.OTHER_REV: 409}


def flags_of(event: events.Known | events.Custom) -> int:
    """The flags with which persistence appends an event."""
    match event:
        case events.Message():
            return int(event.counts)
        case events.Membership():
            return 2 if event.op in _RESTRICTS else 8
        case events.Lifecycle():
            return {"create": 8, "delete": 6}.get(event.op, 2)
        case events.Delete() | events.Purge():
            return 4
    return 0


class MemoryChat:
    """`Chat` of all edges.

    `down` makes every call fail; answers wait while `gate` is not set.
    """

    def __init__(self, bus: MemoryBus) -> None:
        self.bus = bus
        self.states: dict[str, Conversation] = {}
        self.down = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.checks: list[tuple[str, str]] = []
        self.appends: list[tuple[str, str, str]] = []  # author, idempotency key, and whose
        self.answers: list[Access] = []  # given in place of the truth, the first one first

    def state(self, channel: str) -> Conversation:
        """What the conversation is now; empty if there is none."""
        return self.states.get(channel, Conversation())

    def position(self, channel: str) -> StreamPosition:
        log = self.bus.logs.get(channel)
        return StreamPosition(0, "") if log is None else StreamPosition(log.top, log.epoch)

    async def append(
        self, channel: str, publication: Publication, *, key_user: str, key: str, namespace: Namespace
    ) -> AppendResult:
        if self.down:
            raise Unavailable("down")
        author = "" if publication.info is None else publication.info.user
        assert author or publication.info is None, "nobody may be taken for the platform"
        self.appends.append((author, key, key_user))
        try:
            event = events.parse(publication.data)
        except events.Malformed as error:
            raise refused(pb.Refusal(code=107, text=str(error))) from error
        if author and isinstance(event, events.Membership | events.Lifecycle | events.Purge | events.Erased):
            raise refused(pb.Refusal(code=103))
        why = decide(self.state(channel), event, author, _TIME_MS)
        if why is not None:
            raise refused(pb.Refusal(code=_CODES.get(why, 103), text=f"because {why}"))
        return self._append(channel, author, publication, flags_of(event), key_user, key)

    def _append(
        self, channel: str, author: str, publication: Publication, flags: int, key_user: str = "", key: str = ""
    ) -> AppendResult:
        publication.flags = flags
        state = self.states.setdefault(channel, Conversation())
        log = self.bus.log(channel)
        assert apply(state, Entry(log.top + 1, author, _TIME_MS, publication.data)) is None
        return self.bus.append(channel, publication, key_user, key, 100_000)

    async def check(self, channel: str, user: str) -> Access:
        assert user, "nobody is a member without an id"
        self.checks.append((channel, user))
        await self.gate.wait()
        if self.down:
            raise Unavailable("down")
        return self.answers.pop(0) if self.answers else self.access(channel, user)

    def access(self, channel: str, user: str) -> Access:
        """What is true now."""
        state, as_of = self.state(channel), self.position(channel)
        member = state.members.get(user)
        if member is not None and state.phase is not Phase.DELETED:
            return Access(True, True, member.history_from, as_of)
        is_there = state.phase not in (Phase.NONE, Phase.DELETED)
        reads = state.type is Type.OPEN and is_there and user not in state.banned
        return Access(reads, reads, 0, as_of)

    def does(self, channel: str, author: str, **event: Any) -> int:
        """An event of any kind by this author, as from a method; returns its offset."""
        known = events.parse(json.dumps(event).encode())
        info = ClientInfo(author, f"client-of-{author}") if author else None
        publication = Publication(json.dumps(event).encode(), info, time_ms=_TIME_MS)
        assert decide(self.state(channel), known, author, _TIME_MS) is None, event
        return self._append(channel, author, publication, flags_of(known)).position.offset

    def begin(self, *users: str, channel: str = GROUP, **settings: Any) -> None:
        """A group of these users; the first one is the owner."""
        owner, *others = users
        kind = "open" if channel == OPEN_ONE else "group"
        self.does(channel, owner, kind="conversation", op="create", type=kind, settings=settings)
        for user in others:
            self.does(channel, owner, kind="member", op="add", user=user)

    def says(self, channel: str, author: str, text: str = "hi") -> int:
        return self.does(channel, author, kind="message", text=text)
