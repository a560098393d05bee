"""Random operations on conversations, and what a naive fold makes of their logs.

Operations go by `ChatService`, to any replica. What was answered is compared with the log that is there afterwards.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

from services.persistence.chat.domain.fold import Entry, apply
from services.persistence.chat.domain.state import Conversation
from tests.chat.naive_fold import NaiveFold, event_of
from tests.chat.random_log import USERS, random_event
from tests.support.chat_site import ChatSite, Outcome, Replica

BY_PUBLISH = ("message", "edit", "delete", "reaction", "pin")
_BEFORE_MS = 3_000  # a decision may take a silence or ban for so much longer than it is,
_BEHIND_MS = 4_500  # and a window for so much shorter: nothing that is accepted may become void by its time


@dataclass
class Place:
    """A conversation: its log as far as it was read, and what was answered."""

    channel: str
    state: Conversation = field(default_factory=Conversation)
    naive: NaiveFold = field(default_factory=NaiveFold)
    log: dict[int, Entry] = field(default_factory=dict)
    top: int = 0
    removed_upto: int = 0  # history up to here went with the conversation before it was read
    voids: dict[int, str | None] = field(default_factory=dict)  # offset → why, as the naive fold says
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    told: dict[int, tuple[str, str, bytes]] = field(default_factory=dict)  # offset → void, author, data

    async def catch_up(self, replica: Replica) -> None:
        """Read on, and fold."""
        async with self.lock:
            for entry in await replica.log(self.channel, since=self.top):
                if entry.offset != self.top + 1:
                    event = event_of(entry.data) or {}
                    is_end = (event.get("kind"), event.get("op")) == ("conversation", "delete")
                    assert is_end, f"{self.channel}: a hole from {self.top + 1} to {entry.offset}"
                    self.removed_upto = entry.offset - 1
                self.top, self.log[entry.offset] = entry.offset, entry
                apply(self.state, entry)
                why = self.naive.apply(entry.offset, entry.author, entry.time_ms, entry.data)
                self.voids[entry.offset] = why

    def view(self) -> dict[str, Any]:
        """The state by the naive fold."""
        return self.naive.view()

    def wrong_answers(self) -> list[str]:
        """What was told and is not so."""
        wrong = []
        for offset, (void, author, data) in self.told.items():
            entry = self.log.get(offset)
            if entry is None and offset > self.removed_upto:
                wrong.append(f"{self.channel}: offset {offset} was acknowledged and is lost")
            if entry is None or is_erased(entry):
                continue
            if entry.author != author or not _is_same_event(entry.data, data):
                wrong.append(f"{self.channel}: {offset} is {entry}, not {author!r} {data!r}")
            if (self.voids[offset] or "") != void and not self._was_erased_before(offset):
                wrong.append(f"{self.channel}: {offset} was told {void!r}, the fold says {self.voids[offset]!r}")
        return wrong

    def _was_erased_before(self, offset: int) -> bool:
        """Whether something up to an offset was erased already when it was read.

        That was for a later event. What applied in between can't be told by this log any more; from then on it can.
        """
        events = [event_of(entry.data) or {} for at, entry in self.log.items() if at <= offset and is_erased(entry)]
        return any(event.get("by", event.get("next", 0)) > offset for event in events)


class Play:
    """Some conversations, and users who do things in them."""

    def __init__(self, site: ChatSite, rng: Random) -> None:
        self.site, self.rng = site, rng
        self.places: list[Place] = []
        self.refused: Counter[str] = Counter()
        self.applied: Counter[str] = Counter()
        self.void: Counter[str] = Counter()
        self.wrong: list[str] = []

    @property
    def replica(self) -> Replica:
        return self.rng.choice(self.site.replicas)

    async def create(self, kind: str) -> Place:
        """Create a conversation of a type by one of its users."""
        users = self.rng.sample(USERS, 2)
        params: dict[str, Any] = {"type": kind, **({"users": users[1:]} if kind != "open" else {})}
        made = await self.replica.call("conversations.create", users[0], key=uuid.uuid4().hex, **params)
        assert not made.code, made
        place = Place(made.result["channel"])
        self.places.append(place)
        await place.catch_up(self.replica)
        return place

    async def step(self, place: Place, *, alone: bool) -> None:
        """Do one thing.

        `alone`: nobody else does anything here meanwhile, so what is to be refused is known.
        """
        now = int(time.time() * 1_000)
        offset = place.top + 1
        author, data = random_event(self.rng, place.state, offset, now)
        event = event_of(data) or {}
        if (event.get("kind"), event.get("op")) == ("conversation", "create"):
            return
        replica = self.replica
        outcome, name = await self._do(replica, place, author, event, data)
        if outcome.offset:
            self._note(place, outcome, author, data)
        if outcome.offset or not alone:
            self.applied[name] += outcome.applies
            self.void[name] += bool(outcome.void)
        if not outcome.offset:
            self.refused[f"{name} {outcome.code} {outcome.why}"] += 1
            if alone:
                self._judge_refusal(place, outcome, author, event, now)
        elif alone and outcome.void and len(self.site.replicas) == 1:  # another replica may not know that yet
            self.wrong.append(f"{place.channel}: {outcome} was numbered though it was known to be void: {data!r}")
        if alone:
            await place.catch_up(self.replica)

    async def _do(
        self, replica: Replica, place: Place, author: str, event: dict[str, Any], data: bytes
    ) -> tuple[Outcome, str]:
        kind = event.get("kind", "nonsense")
        if kind in BY_PUBLISH and self.rng.random() < 0.5:
            return await replica.append(place.channel, author, data, key=uuid.uuid4().hex), f"publish {kind}"
        found = as_call(event)
        if found is None:
            return await replica.append(place.channel, author, data, key=uuid.uuid4().hex), f"publish {kind}"
        method, params = found
        called = await replica.call(method, author, key=uuid.uuid4().hex, channel=place.channel, **params)
        if called.code:
            return Outcome(code=called.code, why=called.why), method
        result = called.result
        if not result.get("applied"):
            return Outcome(offset=result.get("offset", 0), void=result["why"], why=result["why"]), method
        return Outcome(offset=result["offset"], epoch=result["epoch"]), method

    def _note(self, place: Place, outcome: Outcome, author: str, data: bytes) -> None:
        before = place.told.setdefault(outcome.offset, (outcome.void, author, data))
        if before[1:] != (author, data):
            self.wrong.append(f"{place.channel}: offset {outcome.offset} was given twice, to {before} and {data!r}")

    def _judge_refusal(self, place: Place, outcome: Outcome, author: str, event: dict[str, Any], now: int) -> None:
        """What is refused must be void, give or take what is done about time."""
        if not event or event["kind"] not in (*BY_PUBLISH, "purge", "member", "conversation"):
            return  # nonsense, `erased`, the application's by whom it may be
        if outcome.code in (106, 107, 111):
            return  # bounds that the fold does not know
        if only_before_numbering(place.naive.view(), author, event):
            return
        offset = place.top + 1
        whys = {place.naive.why(offset, author, at, event) for at in (now - _BEFORE_MS, now, now + _BEHIND_MS)}
        if whys == {None}:
            self.wrong.append(f"{place.channel}: {outcome} though it applies: {author!r} {event}")

    async def judge(self) -> None:
        """Compare what was answered with what is there."""
        for place in self.places:
            await place.catch_up(self.site.replicas[0])
            self.wrong += place.wrong_answers()
            for replica in self.site.replicas:
                self.wrong += await differences(replica, place)
        assert not self.wrong, "\n".join(self.wrong[:10])


def as_call(event: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return the method that makes such an event, and its parameters."""
    kind, op = event.get("kind"), event.get("op", "")
    params = {key: value for key, value in event.items() if key not in ("kind", "op")}
    match kind:
        case "message":
            return "messages.send", params
        case "edit" | "delete" | "purge":
            return f"messages.{kind}", params
        case "reaction":
            return f"reactions.{op}", params
        case "pin":
            return f"pins.{op}", params
        case "member" if op in ("join", "leave", "decline"):
            return f"conversations.{op}", {}
        case "member" if params.get("user"):
            allowed = {"add": ("role", "from"), "invite": ("role",), "role": ("role",)}
            allowed |= {"ban": ("until",), "silence": ("until",)}
            kept = {key: params[key] for key in ("user", *allowed.get(op, ())) if params.get(key) is not None}
            return (f"members.{op}", kept) if op != "role" or "role" in kept else None
        case "conversation" if op in ("close", "reopen", "delete"):
            return f"conversations.{op}", {}
        case "conversation" if op == "update" and params:
            return "conversations.update", {key: params[key] for key in ("name", "settings") if key in params}
    return None


def _kind(entry: Entry) -> str:
    return str((event_of(entry.data) or {}).get("kind", ""))


def is_erased(entry: Entry) -> bool:
    """Whether the platform has replaced what was written: nothing more is known of it."""
    event = event_of(entry.data) or {}
    return event.get("kind") == "erased" or bool(event.get("erased"))


def _is_same_event(stored: bytes, sent: bytes) -> bool:
    """Whether a log holds what was sent."""
    there, said = json.loads(stored), event_of(sent) or {}
    return all(there.get(name) == said.get(name) for name in ("kind", "op", "of"))


async def differences(replica: Replica, place: Place) -> list[str]:
    """What a replica answers the platform, and the naive fold says differently."""
    view, found = place.view(), []
    if view["phase"] in ("none", "deleted"):
        return []
    messages = await all_messages(replica, place.channel)
    for offset, message in view["messages"].items():
        found += _message_differences(message, messages.pop(int(offset), None), f"{place.channel}/{offset}")
    found += [f"{place.channel}/{offset}: there is no such message" for offset in messages]
    called = await replica.call("conversations.get", "", channel=place.channel)
    for name in ("type", "name", "phase", "owner", "n"):
        if called.result.get(name) != view[name]:
            found.append(f"{place.channel} {name}: {called.result.get(name)!r} instead of {view[name]!r}")
    listed = (await replica.call("members.list", "", channel=place.channel, limit=1_000)).result["members"]
    roles = {member["user"]: member["role"] for member in listed if member.get("role")}
    if roles != {user: member["role"] for user, member in view["members"].items()}:
        found.append(f"{place.channel} members: {roles} instead of {view['members']}")
    return found


async def all_messages(replica: Replica, channel: str, user: str = "") -> dict[int, dict[str, Any]]:
    """All messages of a conversation by pages of `messages.list`, by offset."""
    found: dict[int, dict[str, Any]] = {}
    page: dict[str, Any] = {}
    while True:
        called = await replica.call("messages.list", user, channel=channel, limit=7, **page)
        assert not called.code, called
        shown = called.result["messages"]
        found |= {message["offset"]: message for message in shown}
        if not called.result["more"]:
            return found
        page = {"before": min([called.result.get("before") or 1 << 53, *(m["offset"] for m in shown)])}


def _message_differences(wanted: dict[str, Any], found: dict[str, Any] | None, where: str) -> list[str]:
    if found is None:
        return [f"{where}: missing, should be {wanted}"]
    if wanted["state"] == "deleted":
        by = wanted.get("by", found.get("by"))
        is_same = found.get("deleted") and found.get("by") == by and "text" not in found
        return [] if is_same else [f"{where}: {found} should be deleted by {by}"]
    pairs = [("author", "author"), ("text", "text"), ("rev", "rev"), ("time", "time_ms"), ("format", "format")]
    pairs += [("attachments", "attachments"), ("mentions", "mentions"), ("meta", "meta"), ("reply_to", "reply_to")]
    pairs += [("thread", "thread"), ("replies", "replies"), ("pinned", "pinned"), ("mention_all", "mention_all")]
    empty = {None, False, "", "plain"}

    def normal(value: Any) -> Any:
        return None if (isinstance(value, str | int | bool | None) and value in empty) or value in ([], {}) else value

    lines = [
        f"{where} {ours}: {found.get(ours)!r} should be {wanted[theirs]!r}"
        for ours, theirs in pairs
        if theirs in wanted and normal(found.get(ours)) != normal(wanted[theirs])
    ]
    counts = {name: reaction["count"] for name, reaction in (found.get("reactions") or {}).items()}
    if counts != {name: len(users) for name, users in wanted["reactions"].items()}:
        lines.append(f"{where} reactions: {counts} should be {wanted['reactions']}")
    return lines


async def many_steps(play: Play, count: int, at_once: int) -> None:
    """Let so many do something at once, until so much was done."""
    left = iter(range(count))

    async def some() -> None:
        for _ in left:
            place = play.rng.choice(play.places)
            await play.step(place, alone=False)
            if play.rng.random() < 0.3:
                await place.catch_up(play.replica)

    await asyncio.gather(*(some() for _ in range(at_once)))


def only_before_numbering(state: dict[str, Any], author: str, event: dict[str, Any]) -> bool:
    """Whether a rule refuses the event that the fold lacks; see admission.py."""
    member = state["members"].get(author)
    if event["kind"] == "purge":
        return bool(author) and member is None and state["type"] != "open"  # a method knows who was there
    named = event.get("thread") if event["kind"] == "message" else event.get("of")
    return named is not None and member is not None and int(named) <= member["from"]
