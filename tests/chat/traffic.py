"""Random calls on one conversation, and what readers must get.

`Traffic` writes and reads through several replicas at once, and notes every answer. `Truth` says, from the log alone,
what the answer should have been at the position that it names.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from random import Random
from typing import Any, NamedTuple

from tests.chat.naive_fold import NaiveFold
from tests.support.chat_calls import Entry, Replica, Site

USERS = [f"u{number}" for number in range(6)]
READERS = ["", *USERS, "stranger"]
Json = dict[str, Any]
_WRITES = {
    "messages.send": 30, "messages.edit": 12, "messages.delete": 8, "messages.purge": 1.5, "reactions.add": 12,
    "reactions.remove": 5, "pins.add": 4, "pins.remove": 2, "members.add": 6, "members.remove": 3, "members.role": 4,
    "members.ban": 1, "members.unban": 1, "members.silence": 1, "members.invite": 2, "conversations.join": 3,
    "conversations.leave": 2, "conversations.decline": 1, "conversations.update": 3, "conversations.close": 0.5,
    "conversations.reopen": 3,
}  # fmt: skip


class Answer(NamedTuple):
    """A page that somebody got."""

    user: str
    asked: Json
    got: Json


class Traffic:
    """What users do in one conversation."""

    def __init__(self, rng: Random, site: Site, channel: str) -> None:
        self.rng, self.site, self.channel = rng, site, channel
        self.top = 1
        self.pages: list[Answer] = []

    async def run(self, writes: int, reads: int, at_once: int = 3) -> None:
        """Several write and read at the same time."""
        tasks = [self._write_some(Random(self.rng.random()), writes // at_once) for _ in range(at_once)]
        tasks += [self._read_some(Random(self.rng.random()), reads // at_once) for _ in range(at_once)]
        await asyncio.gather(*tasks)

    async def _write_some(self, rng: Random, count: int) -> None:
        for _ in range(count):
            await self.write(rng)

    async def write(self, rng: Random) -> None:
        """One random change by a random user."""
        method = rng.choices(list(_WRITES), list(_WRITES.values()))[0]
        user = rng.choice([*USERS, *USERS, "u0", "u0", "u1", "", "stranger"])
        params = self._params(rng, method)
        if method in ("conversations.join", "conversations.leave", "conversations.decline") and not user:
            user = "u2"
        response = await self.replica(rng).ask(user, method, channel=self.channel, **params)
        assert response.refusal.code in (0, 103, 106, 107, 404, 409, 410), response
        if response.result:
            self.top = max(self.top, json.loads(response.result).get("offset", 0))

    def _params(self, rng: Random, method: str) -> Json:
        of = rng.randint(max(1, self.top - 12), self.top) if rng.random() < 0.8 else rng.randint(1, self.top + 2)
        match method.split("."):
            case ["messages", "send"]:
                made: Json = {"text": f"t{rng.random()}", "silent": rng.random() < 0.2}
                if rng.random() < 0.2:
                    made["thread"] = of
                if rng.random() < 0.2:
                    made["reply_to"] = of
                return made
            case ["messages", "edit"]:
                return {"of": of, "text": f"e{rng.random()}", "mentions": rng.sample(USERS, 1)}
            case ["messages", "delete"] | ["pins", _]:
                return {"of": of}
            case ["messages", "purge"]:
                upto = {"upto": rng.randint(1, self.top + 3)} if rng.random() < 0.6 else {}
                return {"user": rng.choice(USERS), **upto}
            case ["reactions", _]:
                return {"of": of, "name": rng.choice("xyz")}
            case ["members", op]:
                return {"user": rng.choice(USERS), **self._more(rng, op)}
            case ["conversations", "update"]:
                return {"settings": self._settings(rng)}
        return {}

    def _more(self, rng: Random, op: str) -> Json:
        if op == "role":
            return {"role": rng.choice(["reader", "member", "moderator", "admin"])}
        if op == "add" and rng.random() < 0.3:
            return {"from": rng.randint(0, self.top)}
        return {}

    def _settings(self, rng: Random) -> Json:
        return rng.choice(
            [
                {"history": "joined"},
                {"history": "all"},
                {"unique_reactions": True},
                {"unique_reactions": False},
                {"join": rng.choice(["anyone", "invited"])},
                {"rights": {"invite": rng.choice(["member", "reader"])}},
            ]
        )

    async def _read_some(self, rng: Random, count: int) -> None:
        for _ in range(count):
            await self.read(rng)

    async def read(self, rng: Random) -> None:
        """One random page for a random reader."""
        asked = self.random_page(rng) if rng.random() < 0.7 else self.random_thread(rng)
        await self.ask(self.replica(rng), rng.choice(READERS), asked)

    def random_page(self, rng: Random) -> Json:
        asked: Json = {"limit": rng.choice([1, 2, 3, 5, 25, 100])}
        where = rng.choice(["", "", "before", "after", "around"])
        if where:
            asked[where] = rng.randint(1, self.top + 3)
        return asked

    def random_thread(self, rng: Random) -> Json:
        asked: Json = {"limit": rng.choice([1, 2, 3, 25]), "thread": rng.randint(1, self.top + 1)}
        where = rng.choice(["", "before", "after"])
        if where:
            asked[where] = rng.randint(1, self.top + 3)
        return asked

    async def ask(self, replica: Replica, user: str, asked: Json) -> None:
        method = "messages.thread" if "thread" in asked else "messages.list"
        response = await replica.ask(user, method, channel=self.channel, **asked)
        assert response.refusal.code in (0, 103, *([404] if "thread" in asked else [])), response
        if response.result:
            self.pages.append(Answer(user, asked, json.loads(response.result)))

    def replica(self, rng: Random) -> Replica:
        return rng.choice(self.site.replicas)


class Truth:
    """What the log says, at every position."""

    def __init__(self, channel: str, log: Sequence[Entry]) -> None:
        self.channel, self.log = channel, log
        self._fold = NaiveFold()
        self._views: list[Json] = [self._fold.view()]
        self.void: dict[int, str] = {}
        for entry in log:
            why = self._fold.apply(*entry)
            if why is not None:
                self.void[entry.offset] = why
            self._views.append(self._views[-1] if why is not None else self._fold.view())

    def at(self, position: int) -> Json:
        """The state after the entry at this offset."""
        return self._views[position]

    def visible_from(self, user: str, position: int) -> int | None:
        """Offset above which a user sees messages; None: the user may not read."""
        state = self.at(position)
        if state["phase"] not in ("active", "closed"):
            return None
        if not user:
            return 0
        member = state["members"].get(user)
        return None if member is None else int(member["from"])

    def messages(self, user: str, position: int) -> list[Json]:
        """All messages that a user sees, oldest first, as the answer of a method has them."""
        above = self.visible_from(user, position)
        assert above is not None, f"{user} may not read at {position}"
        found = ((int(offset), one) for offset, one in self.at(position)["messages"].items())
        return [self._shown(offset, one, user) for offset, one in sorted(found) if offset > above]

    def _shown(self, offset: int, one: Json, user: str) -> Json:
        time_ms = self.log[offset - 1].time_ms
        if one["state"] == "deleted":
            return {"offset": offset, "deleted": True, "by": one["by"], "time": time_ms}
        kept = ("author", "text", "format", "attachments", "mentions", "mention_all", "meta", "reply_to", "thread")
        return {
            **{name: one[name] for name in (*kept, "rev", "replies", "pinned")},
            "channel": self.channel,
            "offset": offset,
            "id": f"{self.channel}/{offset}",
            "time": time_ms,
            "edited": one["rev"] != offset,
            "reactions": {name: {"count": len(who), "me": user in who} for name, who in one["reactions"].items()},
        }

    def page(self, user: str, asked: Json, position: int) -> Json:
        """The answer to `messages.list` or `messages.thread`, apart from `as_of`."""
        everything, limit = self.messages(user, position), asked["limit"]
        if "thread" in asked:
            assert asked["thread"] in [one["offset"] for one in everything], "there is no such message"
            everything = [one for one in everything if one.get("thread") == asked["thread"]]
            asked = asked if "before" in asked else {"after": 0, **asked}
        if "after" in asked:
            newer = [one for one in everything if one["offset"] > asked["after"]]
            page, rest = newer[:limit], ({"after": newer[limit - 1]["offset"]} if len(newer) > limit else {})
        elif "around" in asked:
            at, half = asked["around"], limit // 2
            older = [one for one in everything if one["offset"] < at]
            newer = [one for one in everything if one["offset"] >= at]
            page, rest = older[len(older) - min(half, len(older)) :] + newer[: limit - half], {}
            if len(older) > half:
                rest["before"] = page[0]["offset"] if half else min(at, position + 1)
            if len(newer) > limit - half:
                rest["after"] = page[-1]["offset"]
        else:
            older = [one for one in everything if one["offset"] < asked.get("before", 1 << 60)]
            page = older[-limit:]
            rest = {"before": page[0]["offset"]} if len(older) > limit else {}
        return {"messages": page, "more": bool(rest), **rest}

    def check(self, answer: Answer) -> None:
        """Compare an answer with what the log says."""
        got = dict(answer.got)
        position = got.pop("as_of")["offset"]
        wanted = self.page(answer.user, answer.asked, position)
        assert got == wanted, f"{answer.user} asked {answer.asked} as of {position}"
