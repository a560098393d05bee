"""Users who write in many languages, and what each of them must find.

All that is done is noted here as it is told, so what a search must find follows without the platform's code.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from services.shared.errors import ErrorCode
from tests.chat.naive_search import Said, Wish, newest_first, words_of
from tests.chat.texts import pieces
from tests.support.chat_calls import CallRefused, Replica, Site

_FILE = {"id": "f1", "name": "map.png"}


class Play:
    """Conversations of a site, and what was said in them."""

    def __init__(self, site: Site, rng: random.Random, users: int) -> None:
        self.site, self.rng = site, rng
        self.users = [f"user {number}" for number in range(users)]
        self.said: dict[str, dict[int, Said]] = {}
        self.members: dict[str, dict[str, int]] = {}  # channel → user → history is visible above
        self.texts: list[str] = []

    async def _call(self, user: str, method: str, /, **params: Any) -> dict[str, Any]:
        """Call a method of any replica, again while a busy machine makes it too slow."""
        key = f"{self.rng.getrandbits(64):x}"
        while True:
            try:
                return await self.replica.call(user, method, key, **params)
            except CallRefused as refused:
                if refused.code != ErrorCode.INTERNAL:
                    raise

    @property
    def replica(self) -> Replica:
        """Any replica."""
        return self.rng.choice(self.site.replicas)

    async def begin(self, groups: int, directs: int) -> None:
        """Create conversations; half of the groups show history from joining on."""
        for number in range(groups):
            owner, *others = self.rng.sample(self.users, self.rng.randint(2, min(8, len(self.users))))
            made = await self._call(
                owner,
                "conversations.create",
                name=f"Group {number}",
                users=others,
                settings={"history": "joined" if number % 2 else "all"},
            )
            await self._enter(made["channel"], owner, *others)
        for _ in range(directs):
            one, other = self.rng.sample(self.users, 2)
            made = await self._call(one, "messages.send", to=other, text="Hello, World")
            channel = made["channel"]
            self.said.setdefault(channel, {})[made["offset"]] = Said(channel, made["offset"], one, 0, "Hello, World")
            await self._enter(channel, one, other)

    async def go_on(self, count: int) -> None:
        """Do `count` things, at the same time in all conversations."""
        channels = sorted(self.said)
        self.texts = pieces(self.rng, max(200, count // 4)) + self.texts[:2_000]
        each = count // len(channels)
        await asyncio.gather(*(self._act(channel, each, random.Random(self.rng.random())) for channel in channels))

    async def _act(self, channel: str, count: int, rng: random.Random) -> None:
        for _ in range(count):
            act = rng.choices((self._say, self._edit, self._delete, self._purge, self._move), (80, 9, 5, 0.5, 3))[0]
            await act(channel, rng)

    async def _say(self, channel: str, rng: random.Random) -> None:
        user = rng.choice(sorted(self.members[channel]))
        text = rng.choice(self.texts)
        more: dict[str, Any] = {}
        if rng.random() < 0.1:
            more["attachments"] = [_FILE]
        if rng.random() < 0.1:
            more["mentions"] = rng.sample(self.users, 2)
        if rng.random() < 0.03:
            more["mention_all"] = True
        if rng.random() < 0.05:
            more["silent"] = True
        done = await self._call(user, "messages.send", channel=channel, text=text, **more)
        self.said[channel][done["offset"]] = Said(
            channel,
            done["offset"],
            user,
            0,
            text,
            len(more.get("attachments", ())),
            more.get("mentions", []),
            more.get("mention_all", False),
        )

    async def _edit(self, channel: str, rng: random.Random) -> None:
        one = self._any(channel, rng)
        if one is not None:
            text = rng.choice(self.texts)
            done = await self._call(one.author, "messages.edit", channel=channel, of=one.offset, text=text)
            assert done["applied"], done
            one.text, one.attachments, one.mentions, one.mention_all = text, 0, [], False

    async def _delete(self, channel: str, rng: random.Random) -> None:
        one = self._any(channel, rng)
        if one is not None:
            await self._call(one.author, "messages.delete", channel=channel, of=one.offset)
            del self.said[channel][one.offset]

    async def _purge(self, channel: str, rng: random.Random) -> None:
        user, upto = rng.choice(self.users), max(self.said[channel], default=1)
        await self._call("", "messages.purge", channel=channel, user=user, upto=upto)
        self.said[channel] = {at: one for at, one in self.said[channel].items() if one.author != user or at > upto}

    async def _move(self, channel: str, rng: random.Random) -> None:
        """Have somebody leave a group, or come."""
        members = self.members[channel]
        if ":g." not in channel:
            return
        if len(members) > 2 and rng.random() < 0.5:
            user = rng.choice(sorted(members))
            await self._call("", "members.remove", channel=channel, user=user)
            del members[user]
        elif len(members) < len(self.users):
            user = rng.choice(sorted(set(self.users) - set(members)))
            await self._call("", "members.add", channel=channel, user=user)
            await self._enter(channel, user)

    async def _enter(self, channel: str, *users: str) -> None:
        self.said.setdefault(channel, {})
        for user in users:
            found = await self._call(user, "conversations.get", channel=channel)
            self.members.setdefault(channel, {})[user] = found["me"]["from"]

    def _any(self, channel: str, rng: random.Random) -> Said | None:
        """Return any message whose author is still there."""
        there = [one for one in self.said[channel].values() if one.author in self.members[channel]]
        return rng.choice(there) if there else None

    # What must be found.

    async def note_times(self) -> None:
        """Note when messages were sent, as their rows say."""
        for channel, said in self.said.items():
            for entry in await self.site.log(channel):
                if entry.offset in said:
                    said[entry.offset].time_ms = entry.time_ms

    def visible(self, user: str) -> list[Said]:
        """All that a user may read, the newest first."""
        found = [
            one
            for channel, said in self.said.items()
            if user in self.members[channel]
            for one in said.values()
            if one.offset > self.members[channel][user]
        ]
        return sorted(found, key=newest_first)

    def wish(self) -> Wish:
        """Think of something to search for."""
        rng = self.rng
        all_said = [one for said in self.said.values() for one in said.values()]
        model = rng.choice(all_said)
        words = words_of(model.text)
        wish = Wish()
        if words:
            at = rng.randrange(len(words))
            part = words[at : at + rng.randint(2, 4)]
            kinds: list[Callable[[], None]] = [
                lambda: wish.words.append(words[at]),
                lambda: wish.words.extend(rng.sample(words, min(2, len(words)))),
                lambda: wish.phrases.append(" ".join(part)),
                lambda: wish.beginnings.append(words[at][: max(2, len(words[at]) // 2)]),
            ]
            rng.choice(kinds)()
        if rng.random() < 0.2:
            other = words_of(rng.choice(all_said).text)
            wish.without += [" ".join(other[: rng.randint(1, 2)])] if other else []
        if rng.random() < 0.15 or not words:
            wish.author = model.author
        if rng.random() < 0.1:
            wish.mentions = rng.choice(self.users)
        if rng.random() < 0.1:
            wish.has_attachment = True
        if rng.random() < 0.1:
            wish.since = rng.choice(all_said).time_ms
        if rng.random() < 0.1:
            wish.before = rng.choice(all_said).time_ms
        wish.beginnings = [one for one in wish.beginnings if len(one) > 1]
        if not (wish.words or wish.phrases or wish.beginnings):
            wish.author = wish.author or model.author
        return wish


async def search(replica: Replica, user: str, query: str, limit: int = 20, **more: Any) -> list[dict[str, Any]]:
    """Return all that a search finds, page by page; each page is full, but the last."""
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        answer = await replica.call(user, "messages.search", query=query, limit=limit, cursor=cursor, **more)
        assert "incomplete" not in answer
        found += answer["messages"]
        cursor = answer.get("cursor", "")
        if not cursor:
            return found
        assert len(answer["messages"]) == limit


def planted(rng: random.Random) -> str:
    """Return a word of which no other has the end."""
    return f"q{rng.getrandbits(48):012x}zz"
