"""Random steps in conversations, and what is unread after each of them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from random import Random
from typing import Any, NamedTuple

from services.persistence.chat.markers.record import FOR_GOOD_MS, Marker, Preferences, settings_of
from services.persistence.chat.unread.counts import Unread
from tests.chat.unread_oracle import OWNER, Truth
from tests.support.chat_calls import Replica, Site
from thalamus.common.v1.common_pb2 import Publication

USERS = [OWNER, "ann", "ben", "cid", "dot"]
STRANGER = "eve"
_STEPS = {
    "send": 30, "edit": 8, "delete": 7, "purge": 1, "react": 5, "read": 16, "mark unread": 5, "add": 5, "leave": 2,
    "remove": 2, "pin": 2, "rename": 1, "retention": 0.7, "mute": 2, "settle": 2, "restart": 0.3, "end": 0.1,
}  # fmt: skip
_ALONE = {"retention", "settle", "restart", "end"}  # steps that are no events, or the last one


class Asked(NamedTuple):
    """What a replica has answered, and what was known of the user's marker then."""

    user: str
    marker: int
    removed: int
    got: Unread


class Devices:
    """Three devices of a user, and what the marker should be."""

    def __init__(self) -> None:
        self.known = [Marker(), Marker(), Marker()]
        self.marker = Marker()

    async def propose(self, replica: Replica, user: str, channel: str, rng: Random, top: int, *, unread: bool) -> None:
        """Read, or mark as unread, on one device; it hears what the marker is then."""
        device = rng.randrange(3)
        generation, offset = self.known[device].generation, rng.randint(max(0, top - 15), top)
        proposed = Marker(generation + unread, max(0, offset - unread))
        self.marker = max(self.marker, proposed)
        epoch = (await replica.conversations.current(channel)).epoch
        for _ in range(rng.choice([1, 1, 2])):  # repeats
            _, self.known[device] = await replica.chat.markers.merge(user, channel, epoch, proposed)


class Conversation:
    """One conversation, what is known of it, and who asked what."""

    def __init__(self, site: Site, channel: str, history: str) -> None:
        self.site, self.channel, self.truth = site, channel, Truth(history)
        self.devices = {user: Devices() for user in [*USERS, STRANGER]}
        self.asked: list[Asked] = []
        self.is_ended = False

    async def catch_up(self) -> None:
        """Read on in the log."""
        rows = await self.site.rows.read(
            self.channel, since_offset=self.truth.top, upto=1 << 40, limit=1_000, reverse=False
        )
        for offset, publication in rows:
            if offset <= self.truth.top:
                continue
            one = Publication.FromString(publication)
            given = self.site.seen.get(one.id)
            author, data = (given.author, given.data) if given else (one.info.user, one.data)
            self.truth.add(offset, author, data)

    async def ask(self, replica: Replica, users: list[str]) -> None:
        """Ask what is unread for users, each by a call of its own."""
        for user in users:
            places = await replica.chat.markers.of_user(user, [self.channel])
            found = (await replica.chat.counts.of(user, places))[self.channel]
            self.asked.append(Asked(user, places[self.channel].marker.offset, self.truth.removed, found))

    def judge(self, seen: Counter[str]) -> None:
        """Compare what was answered with what the log says at the position of the answer."""
        states: dict[int, Any] = {}
        for user, marker, removed, got in self.asked:
            if got.as_of not in states:
                states[got.as_of] = self.truth.at(got.as_of)
            wanted = states[got.as_of].unread(user, max(marker, removed))
            seen["answers"] += 1
            seen["not zero"] += wanted != (0, 0)
            seen["mentions"] += wanted[1] > 0
            if got.at_least or got.pending:
                seen["unsure"] += 1
                continue
            assert (got.unread, got.mentions) == wanted, (
                f"{self.channel}: {user} above {marker} (removed {removed}): {got}, wanted {wanted};"
                f" the log: {[tuple(one) for one in self.truth.written]}"
            )
        self.asked.clear()


class Play:
    """Goes on with one conversation after the other."""

    def __init__(self, site: Site, rng: Random, *, length: int = 120) -> None:
        self.site, self.rng, self.length = site, rng, length
        self.done: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()

    async def run(self, steps: int) -> None:
        """Take so many steps; after each of them everybody's counts are compared."""
        left = steps
        while left > 0:
            conversation = await self._begin()
            while left > 0 and conversation.truth.top < self.length and not conversation.is_ended:
                left -= await self._some(conversation)

    async def _begin(self) -> Conversation:
        history = self.rng.choice(["all", "joined"])
        users = self.rng.sample(USERS[1:], 2)
        settings = {"history": history, "versions": self.rng.choice(["keep", "erase"])}
        made = await self._replica().call(OWNER, "conversations.create", users=users, settings=settings)
        conversation = Conversation(self.site, made["channel"], history)
        await conversation.catch_up()
        return conversation

    async def _some(self, conversation: Conversation) -> int:
        """Take a step alone, or some at once while others ask; return how many."""
        if self.rng.random() < 0.75:
            await self._step(conversation, self._kind())
            count = 1
        else:
            count = self.rng.randint(2, 4)
            kinds = [kind for kind in (self._kind() for _ in range(count)) if kind not in _ALONE]
            asking = [conversation.ask(self._replica(), [self.rng.choice(USERS)]) for _ in range(3)]
            await asyncio.gather(*(self._step(conversation, kind) for kind in kinds), *asking)
        await conversation.catch_up()
        for replica in self.rng.sample(self.site.replicas[:2], self.rng.choice([1, 1, 2])):
            await conversation.ask(replica, [*USERS, STRANGER])
            (own,) = (one for one in conversation.asked[-len(USERS) - 1 :] if one.user == OWNER)
            device = conversation.devices[OWNER]  # markers of others are forgotten when they leave
            assert conversation.is_ended or own.marker == device.marker.offset, f"{own}, wanted {device.marker}"
        conversation.judge(self.seen)
        return count

    def _kind(self) -> str:
        return self.rng.choices(list(_STEPS), list(_STEPS.values()))[0]

    def _replica(self) -> Replica:
        return self.rng.choice(self.site.replicas[:2])

    async def _step(self, conversation: Conversation, kind: str) -> None:
        rng, truth, channel = self.rng, conversation.truth, conversation.channel
        user, replica = rng.choice(USERS), self._replica()
        state = truth.at(truth.top)
        target = rng.choice(list(state.messages.values())[-10:]) if state.messages else None
        if rng.random() < 0.6 and state.since:
            user = rng.choice(list(state.since))
        of = target.offset if target else 1
        author = target.author if target and rng.random() < 0.8 else user
        params: dict[str, Any] = {"channel": channel}
        match kind:
            case "read" | "mark unread":
                device = conversation.devices[user]
                await device.propose(replica, user, channel, rng, truth.top, unread=kind == "mark unread")
                self.done[kind] += 1
                return
            case "mute":  # counts do not depend on it
                muted = settings_of(Preferences(muted_until_ms=rng.choice([None, FOR_GOOD_MS])))
                epoch = (await replica.conversations.current(channel)).epoch
                await replica.chat.markers.change(
                    user, channel, epoch, lambda record: record._replace(settings=muted, version=record.version + 1)
                )
                self.done[kind] += 1
                return
            case "settle":
                await self.site.settle(channel)
                self.done[kind] += 1
                return
            case "restart":  # nothing is in memory
                for one in self.site.replicas[:2]:
                    one.conversations.forget(channel)
                self.done[kind] += 1
                return
            case "retention":
                await self.site.settle(channel)
                truth.removed = max(truth.removed, rng.randint(0, truth.top))
                if truth.removed:
                    await replica.log.remove_history(channel, truth.removed)
                self.done[kind] += 1
                return
            case "send":
                method, params = "messages.send", params | self._content()
                params |= {"silent": True} if rng.random() < 0.15 else {}
                params |= {"thread": of} if of > max(1, truth.removed) and rng.random() < 0.15 else {}
            case "edit":
                user, method, params = author, "messages.edit", params | {"of": of} | self._content()
            case "delete":
                user = rng.choice([author, OWNER])
                method, params = "messages.delete", params | {"of": of}
            case "purge":
                user, whose = rng.choice([(OWNER, user), (user, user)])
                method, params = "messages.purge", params | {"user": whose}
                params |= {"upto": rng.randint(1, truth.top)} if rng.random() < 0.5 else {}
            case "react":
                op = rng.choice(["add", "remove"])
                method, params = f"reactions.{op}", params | {"of": of, "name": rng.choice("xy")}
            case "pin":
                user, method, params = OWNER, "pins.add", params | {"of": of}
            case "rename":
                user, method, params = OWNER, "conversations.update", params | {"name": rng.choice("ab")}
            case "add" | "remove":
                whom = rng.choice(USERS[1:])
                user, method, params = OWNER, f"members.{kind}", params | {"user": whom}
            case "leave":
                user = rng.choice(USERS[1:])
                method = "conversations.leave"
            case _:
                user, method, conversation.is_ended = OWNER, "conversations.delete", True
        response = await replica.ask(user, method, **params)
        assert response.refusal.code in (0, 103, 404, 409, 410), response
        if not response.refusal.code:
            self.done[kind if json.loads(response.result).get("applied") else f"{kind}, void"] += 1

    def _content(self) -> dict[str, Any]:
        rng = self.rng
        made: dict[str, Any] = {"text": rng.choice(["x", "y", "é"])}
        if rng.random() < 0.35:
            made["mentions"] = rng.sample([*USERS, STRANGER], rng.randint(1, 3))
        if rng.random() < 0.12:
            made["mention_all"] = True
        return made
