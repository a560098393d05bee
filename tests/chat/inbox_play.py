"""Random steps in several conversations, and inboxes after them.

What is told is compared with what brute force over the logs says. An entry must be right for the position that it
names, also while others write. In between nobody writes, and the whole inbox must be the newest one: all pages, and
what changed since an earlier call.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Collection
from random import Random
from typing import Any, NamedTuple

from services.persistence.chat.inbox.cursors import since_of
from services.persistence.chat.inbox.lists import Lists
from services.shared.hotlog import keys
from tests.chat.unread_oracle import OWNER, State, Truth
from tests.support.chat_calls import CallRefused, Replica, Site
from thalamus.common.v1.common_pb2 import Publication

USERS = [OWNER, "ann", "ben", "cid"]
_STEPS = {
    "send": 30, "edit": 6, "delete": 6, "purge": 1, "react": 4, "read": 8, "mark unread": 2, "add": 4, "leave": 2,
    "remove": 2, "rename": 2, "prefer": 5, "settle": 2, "restart": 1, "evict": 2, "end": 0.4, "begin": 1,
}  # fmt: skip


class Preferences(NamedTuple):
    """What a user wants of a conversation."""

    muted: bool = False
    archived: bool = False


class Asked(NamedTuple):
    """What was known when somebody asked: where the user's conversations were."""

    since: str
    positions: dict[str, int]


class Conversation:
    """What is known of one."""

    def __init__(self, channel: str, history: str) -> None:
        self.channel, self.truth = channel, Truth(history)
        self.times: dict[int, int] = {}  # offset → time of an event, Unix ms

    def is_of(self, user: str) -> bool:
        state = self.truth.at(self.truth.top)
        return user in state.since and not state.is_deleted

    def entry(self, user: str, position: int, marker: int) -> dict[str, Any]:
        """What an inbox says of it as of a position, but for marker and preferences."""
        state = self.truth.at(position)
        unread, mentions = state.unread(user, marker)
        entry = {
            "channel": self.channel,
            "role": "owner" if user == OWNER else "member",
            "name": self._name(position),
            "time": max(self.times[one.offset] for one in self.truth.written[:position] if _moves_up(one.event)),
            "offset": position,
            "n": sum(not one.silent and one.thread is None for one in state.messages.values()),
            "unread": unread,
            "mentions": mentions,
        }
        last = self._last(state, user)
        return entry if last is None else {**entry, "last": last}

    def _last(self, state: State, user: str) -> dict[str, Any] | None:
        live = [one for one in state.messages.values() if one.is_live and one.thread is None]
        if not live or live[-1].offset <= state.visible[user]:
            return None
        found = {"offset": live[-1].offset, "author": live[-1].author, "text": live[-1].text}
        found["time"] = self.times[live[-1].offset]
        return {**found, "edited": True} if live[-1].is_edited else found

    def _name(self, position: int) -> str:
        events = [one.event for one in self.truth.written[:position] if one.event["kind"] == "conversation"]
        names = [str(one["name"]) for one in events if one.get("op") == "update"]
        return names[-1] if names else ""


def _moves_up(event: dict[str, Any]) -> bool:
    counts = not event.get("silent") and event.get("thread") is None
    return event["kind"] in ("member", "conversation") or (event["kind"] == "message" and counts)


class _Noting:
    """Lists that note when they are written."""

    def __init__(self, lists: Lists, times_ms: dict[tuple[str, str], float]) -> None:
        self._lists, self._times_ms = lists, times_ms
        self._channels: dict[str, str] = {}  # mark → channel

    async def changing(self, channel: str, users: Collection[str], gone: Collection[str]) -> str:
        mark = await self._lists.changing(channel, users, gone)
        self._channels[mark] = channel
        self._note(mark, users)
        return mark

    async def changed(self, mark: str, users: Collection[str]) -> None:
        self._note(mark, users)
        await self._lists.changed(mark, users)

    def _note(self, mark: str, users: Collection[str]) -> None:
        self._times_ms |= dict.fromkeys([(self._channels[mark], user) for user in users], time.time() * 1_000)


class Play:
    """Goes on with all conversations; `most`: how many of a user are looked at."""

    def __init__(self, site: Site, rng: Random, redis: Any, *, most: int = 1_000) -> None:
        self.site, self.rng, self.redis, self.most = site, rng, redis, most
        self.conversations: dict[str, Conversation] = {}
        self.preferences: dict[tuple[str, str], Preferences] = {}  # (user, channel)
        self.asked: dict[str, list[Asked]] = {user: [] for user in USERS}
        self.done: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        self.listed_ms: dict[tuple[str, str], float] = {}  # (channel, user) → when the user's list was written last
        for replica in site.replicas:
            replica.chat.inbox.lists.most = most
            replica.conversations.writer.list_watcher = _Noting(replica.chat.inbox.lists, self.listed_ms)

    async def run(self, steps: int) -> None:
        """Take so many steps; everybody's inbox is compared again and again."""
        for _ in range(5):
            await self._step("begin")
        for _ in range(steps):
            if self.rng.random() < 0.7:
                await self._step(self._kind())
            else:
                await self._at_once()
            await self._catch_up()
            if self.rng.random() < 0.4:
                await self._check(self.rng.choice(USERS))
        for user in USERS:
            await self._check(user)

    # Comparing.

    async def _check(self, user: str) -> None:
        """Ask for all pages, or for what changed, while nobody writes."""
        true = {one for one, known in self.conversations.items() if known.is_of(user)}
        asked = self.rng.choice(self.asked[user]) if self.asked[user] and self.rng.random() < 0.6 else None
        pages = await self._pages(user, {"since": asked.since} if asked else {})
        entries = [one for page in pages for one in page["conversations"]]
        told = {one["channel"] for one in entries if "removed" not in one}
        removed = {one["channel"] for one in entries if "removed" in one}
        assert len(entries) == len(told) + len(removed), entries
        if self.most < len(self.conversations):
            assert all(page.get("truncated", False) == (len(true) > self.most) for page in pages), (true, pages)
            if len(true) > self.most:
                assert asked or len(told) == self.most
                assert told <= true
                self.seen["truncated"] += 1
                return
        for one in entries:
            if "removed" not in one:
                self._judge(one, user, is_newest=True)
        order = [(-one["time"], one["channel"]) for one in entries if "removed" not in one]
        assert order == sorted(order)
        if asked is None:
            assert (told, removed) == (true, set())
            assert pages[0]["all"]
            self.seen["whole"] += 1
        else:
            assert not pages[0]["all"]
            self._judge_changes(user, asked, true, told, removed)
        positions = {one: self.conversations[one].truth.top for one in true}
        self.asked[user].append(Asked(pages[0]["since"], positions))

    def _judge_changes(self, user: str, asked: Asked, true: set[str], told: set[str], removed: set[str]) -> None:
        before = asked.positions
        changed = {one for one in true if before.get(one) != self.conversations[one].truth.top}
        listed = since_of(asked.since).listed
        recent = {one for one in self.conversations if self.listed_ms.get((one, user), 0) >= listed}
        what = f"{user} since {asked}: {told}, removed {removed}; changed: {changed}"
        assert changed <= told <= changed | (recent & true), what
        gone = set(before) - true
        what += f", gone: {gone}, listed since: {recent}"
        assert gone <= removed <= gone | (recent - true), what
        self.seen["since"] += 1
        self.seen["changed"] += len(changed)
        self.seen["the same"] += len(true - told)
        self.seen["gone"] += len(gone)

    async def _pages(self, user: str, params: dict[str, Any], meanwhile: Any = None) -> list[dict[str, Any]]:
        """Ask for all pages, each of any replica."""
        limit = self.rng.choice([1, 2, 3, 100])
        pages = [await self._page(user, limit=limit, **params)]
        while "cursor" in pages[-1]:
            if meanwhile is not None:
                await meanwhile()
            pages.append(await self._page(user, limit=limit, cursor=pages[-1]["cursor"]))
            assert pages[-1]["since"] == pages[0]["since"]
        return pages

    async def _page(self, user: str, **params: Any) -> dict[str, Any]:
        """Ask for one, again where the store was too slow."""
        for _ in range(5):
            try:
                return await self._replica().call(user, "inbox.list", **params)
            except CallRefused as refused:
                if refused.code != 100:
                    raise
        return await self._replica().call(user, "inbox.list", **params)

    def _judge(self, got: dict[str, Any], user: str, *, is_newest: bool) -> None:
        """Compare an entry with what the log says at its position."""
        known = self.conversations[got["channel"]]
        position = got["as_of"]["offset"]
        wanted = known.entry(user, position, got["marker"]["offset"])
        if is_newest:
            assert position == known.truth.top, (got, wanted)
            prefers = self.preferences.get((user, known.channel), Preferences())
            wanted |= {"muted": prefers.muted, "archived": prefers.archived}
        unsure = {"unread", "mentions"} if got.get("at_least") or got.get("pending") else set()
        found = {name: got.get(name) for name in wanted}
        assert {**found, **{name: wanted[name] for name in unsure}} == wanted, (user, got, wanted, known.truth.written)
        assert ("last" in got) == ("last" in wanted), (user, got, wanted, known.truth.written)
        self.seen["entries"] += 1
        self.seen["unsure"] += bool(unsure)
        self.seen["unread"] += wanted["unread"] > 0

    async def _at_once(self) -> None:
        """Somebody reads page by page, while things move; the rest is told since."""
        user = self.rng.choice(USERS)

        async def move() -> None:
            kinds = [kind for kind in (self._kind() for _ in range(self.rng.randint(1, 3))) if kind != "end"]
            await asyncio.gather(*(self._step(kind) for kind in kinds))

        pages, _ = await asyncio.gather(self._pages(user, {}, move), move())
        await self._catch_up()
        entries = [one for page in pages for one in page["conversations"]]
        names = [one["channel"] for one in entries]
        assert len(names) == len(set(names))
        if any(page.get("truncated") for page in pages):
            return
        for one in entries:
            self._judge(one, user, is_newest=False)
        later = [one for page in await self._pages(user, {"since": pages[0]["since"]}) for one in page["conversations"]]
        newest = {one["channel"]: one for one in [*entries, *later]}
        for one in newest.values():
            if "removed" not in one:
                self._judge(one, user, is_newest=False)
                known = self.conversations[one["channel"]]
                assert one["offset"] == known.truth.top, (user, one, names, later, known.truth.written)
        there = {name for name, one in newest.items() if "removed" not in one}
        assert there == {one for one, known in self.conversations.items() if known.is_of(user)}
        self.seen["while things move"] += 1

    async def _catch_up(self) -> None:
        """Read on in the logs."""
        for known in self.conversations.values():
            rows = await self.site.rows.read(
                known.channel, since_offset=known.truth.top, upto=1 << 40, limit=1_000, reverse=False
            )
            for offset, publication in rows:
                one = Publication.FromString(publication)
                given = self.site.seen.get(one.id)
                author, data = (given.author, given.data) if given else (one.info.user, one.data)
                known.truth.add(offset, author, data)
                known.times[offset] = one.time_ms

    # Steps.

    def _kind(self) -> str:
        return self.rng.choices(list(_STEPS), list(_STEPS.values()))[0]

    def _replica(self) -> Replica:
        return self.rng.choice(self.site.replicas[:2])

    async def _step(self, kind: str) -> None:
        rng, replica = self.rng, self._replica()
        if kind == "begin":
            history, users = rng.choice(["all", "joined"]), rng.sample(USERS[1:], 2)
            settings = {"history": history, "versions": rng.choice(["keep", "erase"])}
            made = await replica.call(OWNER, "conversations.create", users=users, settings=settings)
            self.conversations[made["channel"]] = Conversation(made["channel"], history)
            self.done[kind] += 1
            return
        known = rng.choice(list(self.conversations.values()))
        channel, truth = known.channel, known.truth
        state = truth.at(truth.top)
        user = rng.choice(list(state.since) if state.since and rng.random() < 0.7 else USERS)
        target = rng.choice(list(state.messages.values())[-10:]) if state.messages else None
        of = target.offset if target else 1
        author = target.author if target and rng.random() < 0.8 else user
        params: dict[str, Any] = {"channel": channel}
        moved: str | None = None
        match kind:
            case "settle":
                await self.site.settle(channel)
                return
            case "restart":  # nothing is in memory
                for one in self.site.replicas[:2]:
                    one.conversations.forget(channel)
                return
            case "evict":  # Redis has forgotten what it may forget
                await self.redis.delete(keys.inbox_list(user))
                await self.redis.delete(keys.inbox_head(channel))
                return
            case "send":
                method = "messages.send"
                params |= self._content()
                params |= {"silent": True} if rng.random() < 0.15 else {}
                params |= {"thread": of} if of > 1 and rng.random() < 0.15 else {}
            case "edit":
                user, method, params = author, "messages.edit", params | {"of": of} | self._content()
            case "delete":
                user = rng.choice([author, OWNER])
                method, params = "messages.delete", params | {"of": of}
            case "purge":
                user, method, params = OWNER, "messages.purge", params | {"user": user}
            case "react":
                method, params = "reactions.add", params | {"of": of, "name": rng.choice("xy")}
            case "read" | "mark unread":
                method = "markers.read" if kind == "read" else "markers.unread"
                params |= {"offset": rng.randint(1, max(1, truth.top))}
            case "prefer":
                method = "conversations.preferences"
                params |= {rng.choice(["muted", "archived"]): rng.random() < 0.5}
            case "rename":
                user, method, params = OWNER, "conversations.update", params | {"name": rng.choice("ab")}
            case "add" | "remove":
                moved = rng.choice(USERS[1:])
                user, method, params = OWNER, f"members.{kind}", params | {"user": moved}
            case "leave":
                user = moved = rng.choice(USERS[1:])
                method = "conversations.leave"
            case _:
                user, method = OWNER, "conversations.delete"
        response = await replica.ask(user, method, **params)
        assert response.refusal.code in (0, 103, 107, 404, 409, 410), response
        if response.refusal.code:
            return
        answer = json.loads(response.result)
        if kind == "prefer":
            self.preferences[user, channel] = Preferences(answer["muted"], answer["archived"])
        if moved and kind != "add":
            self.preferences.pop((moved, channel), None)
        self.done[kind] += 1

    def _content(self) -> dict[str, Any]:
        rng = self.rng
        made: dict[str, Any] = {"text": rng.choice("xyz") * rng.choice([1, 5, 30])}
        if rng.random() < 0.3:
            made["mentions"] = rng.sample(USERS, rng.randint(1, 2))
        return made
