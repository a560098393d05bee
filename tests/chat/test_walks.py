"""Nothing of a user is missed, whatever is moved meanwhile.

Open conversations are closed, opened again and renamed while all that a user wrote is exported or erased.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from services.persistence.chat import traces
from services.persistence.chat.methods import me
from tests.chat.naive_fold import NaiveFold
from tests.support.chat_calls import CallRefused, Site
from tests.support.full import sized

USER, OWNER = "the-user", "o1"
SEEDS = range(sized(4, 200))


class Moving:
    """Open conversations in which the user wrote, and that others move about."""

    def __init__(self, site: Site, seed: int) -> None:
        print(f"seed {seed}")
        self.site, self.rng, self.seed = site, random.Random(seed), seed
        self.channels: list[str] = []

    async def fill(self, count: int) -> None:
        for number in range(count):
            name = self._name()
            made = await self._call(OWNER, "conversations.create", type="open", id=f"{self.seed}-{number}", name=name)
            channel = str(made["channel"])
            self.channels.append(channel)
            await self._call(USER, "messages.send", channel=channel, text=channel)
            if self.rng.random() < 0.3:  # it is in the user's list, too
                await self._call(OWNER, "members.role", channel=channel, user=USER, role="moderator")
            for _ in range(self.rng.choice([0, 0, 1, 2])):
                await self._move(channel)

    async def step(self) -> None:
        """Move some of them."""
        for channel in self.rng.sample(self.channels, self.rng.choice([0, 1, 2])):
            await self._move(channel)

    async def _move(self, channel: str) -> None:
        op = self.rng.choice(["close", "reopen", "update"])
        params: dict[str, Any] = {"name": self._name()} if op == "update" else {}
        try:
            await self._call(OWNER, f"conversations.{op}", channel=channel, **params)
        except CallRefused as error:
            if error.code != 103:  # a closed one is renamed by nobody
                raise
        if self.rng.random() < 0.7:  # else the read model is written later
            await self.site.settle(channel)

    async def _call(self, user: str, method: str, /, **params: Any) -> dict[str, Any]:
        return await self.rng.choice(self.site.replicas).call(user, method, **params)

    def _name(self) -> str:
        return self.rng.choice("abcdefghijklmnopqrstuvwxyz")

    async def export(self) -> set[str]:
        """All pages, a message each; the conversations are moved in between."""
        found: set[str] = set()
        cursor: dict[str, Any] = {}
        while True:
            page = await self._call(USER, "me.export", limit=1, **cursor)
            found |= {one["text"] for one in page["messages"]}
            if "cursor" not in page:
                return found
            cursor = {"cursor": page["cursor"]}
            await self.step()

    async def erase(self) -> None:
        answer: dict[str, Any] = {}
        while not answer.get("done"):
            cursor = {"cursor": answer["cursor"]} if answer else {}
            answer = await self._call(USER, "me.erase", leave=False, **cursor)
            await self.step()

    async def left(self) -> list[str]:
        """Conversations in which the user still has a message."""
        found = []
        for channel in self.channels:
            naive = NaiveFold()
            for entry in await self.site.log(channel):
                naive.apply(*entry)
            messages = naive.view()["messages"].values()
            if any(one["state"] == "live" and one["author"] == USER for one in messages):
                found.append(channel)
        return found


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "_CHANNELS", 2)


async def _one_conversation_a_call(seed: int, site: Site, monkeypatch: pytest.MonkeyPatch, count: int = 8) -> None:
    moving = Moving(site, seed)
    await moving.fill(count)
    assert await moving.export() == set(moving.channels)
    with monkeypatch.context() as patched:
        patched.setattr(me, "_for_a_time", _OneThing)
        await moving.erase()
    assert await moving.left() == []
    for channel in moving.channels:
        await site.settle(channel)
        assert (await site.replicas[0].chat.upkeep.check(channel)).differences == []


class _OneThing:
    """In place of a time: a call begins one thing."""

    def __init__(self) -> None:
        self.begun = 0

    def has_time(self) -> bool:
        self.begun += 1
        return self.begun <= 3  # the conversation, its rows, and that there are no more

    async def __aenter__(self) -> Any:
        return self.has_time

    async def __aexit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("seed", SEEDS)
async def test_c36_nothing_is_missed_of_what_is_moved_meanwhile(
    site: Site, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: what is opened again leaves the list of what was moved."""
    await _one_conversation_a_call(seed, site, monkeypatch)


async def test_c36_it_is_so_on_dynamodb(dynamodb_calls: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await _one_conversation_a_call(1_000, dynamodb_calls, monkeypatch, 3)
