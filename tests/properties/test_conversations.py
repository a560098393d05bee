"""Random operations on conversations in two replicas, against a naive fold (C02).

The replicas run in this process, on a real Redis and an SQLite file; the process that runs all of it is
tests/integration/chat/test_state_machine.py. After each schedule every replica's state of every conversation, with all
messages, is that which the naive fold makes of the log, and so is that of a replica which starts then. Meanwhile
Redis is emptied.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from services.persistence.chat.append import Appended
from services.persistence.chat.domain.fold import Entry
from services.persistence.chat.domain.state import PLATFORM
from services.shared.redis.pipeline import RedisPipeline
from tests.chat.random_log import USERS
from tests.support.chat import ChatSite, Replica, full_view, new_event
from tests.support.chat_play import Place, Play, many_steps
from tests.support.chat_site import Outcome
from tests.support.full import sized
from tests.support.persistence import Site

RUNS = sized(6, 500)
CONVERSATIONS = 4
STEPS = sized(100, 400)
AT_ONCE = 6
TROUBLES = sized(12, 60)


@pytest.fixture
async def chat(
    redis_conn: redis.asyncio.Redis, redis_pipeline: RedisPipeline, tmp_path: Path
) -> AsyncIterator[ChatSite]:
    made = ChatSite(Site(redis_conn, redis_pipeline, tmp_path / "log.sqlite3"))
    yield made
    await made.close()


class Door:
    """A replica, in the shape that `Play` uses."""

    def __init__(self, site: ChatSite, replica: Replica) -> None:
        self.site, self.replica = site, replica

    async def append(self, channel: str, author: str, event: bytes, *, key: str) -> Outcome:
        """Append an event of any kind; repeats while the outcome is unknown."""
        new = new_event(author, event, channel, key=key)
        async with asyncio.timeout(30):
            while True:
                result = await self.replica.appender.append(new)
                if isinstance(result, Appended):
                    return Outcome(result.offset, result.epoch, result.void.value if result.void else "")
                if result.code != 100:
                    return Outcome(code=result.code, why=result.why)
                await asyncio.sleep(0.01)

    async def log(self, channel: str, since: int = 0) -> list[Entry]:
        return [entry for entry in await self.site.log(channel) if entry.offset > since]


class DirectPlay(Play):
    """Events go to the appender of a replica, without methods."""

    def __init__(self, chat: ChatSite, rng: random.Random) -> None:
        self.chat = chat
        doors: Any = type("Doors", (), {"replicas": [Door(chat, replica) for replica in chat.replicas]})()
        super().__init__(doors, rng)

    async def begin(self, number: int, kind: str) -> None:
        users = self.rng.sample(USERS, 2)
        channel = f"conv:{kind[0]}.{number:026d}".translate(str.maketrans("0189", "abcd"))
        create = f'{{"kind":"conversation","op":"create","type":"{kind}"'
        create += f',"users":["{users[0]}","{users[1]}"]}}' if kind == "direct" else "}"
        author = users[0] if self.rng.random() < 0.8 else PLATFORM
        outcome = await self.replica.append(channel, author, create.encode(), key="")
        assert outcome.applies, outcome
        place = Place(channel)
        self.places.append(place)
        await place.catch_up(self.replica)

    async def _do(
        self, replica: Any, place: Place, author: str, event: dict[str, Any], data: bytes
    ) -> tuple[Outcome, str]:
        key = f"{self.rng.getrandbits(64):x}"
        return await replica.append(place.channel, author, data, key=key), event.get("kind", "nonsense")

    async def judge(self) -> None:
        late = self.chat.replica()
        for place in self.places:
            await place.catch_up(self.replica)
            wanted = place.view()
            for replica in self.chat.replicas:
                live = await replica.conversations.current(place.channel)
                found = await full_view(replica, live)
                for name, value in wanted.items():
                    if wanted["phase"] == "deleted" and (name == "messages" or (name == "n" and place.removed_upto)):
                        continue  # nobody is shown any, and the log is emptied
                    if name == "messages":
                        found[name] = {
                            at: {key: message[key] for key in message if key in value.get(at, message)}
                            for at, message in found[name].items()
                        }
                    if found[name] != value:
                        who = self.chat.replicas.index(replica)
                        self.wrong.append(f"{place.channel} replica {who} {name}: {found[name]}\n  should be {value}")
            self.wrong += place.wrong_answers()
        await late.close()
        self.chat.replicas.remove(late)
        assert not self.wrong, "\n".join(self.wrong[:6])


async def begun(chat: ChatSite, seed: int) -> DirectPlay:
    print(f"seed {seed}")
    play = DirectPlay(chat, random.Random(seed))
    for number in range(CONVERSATIONS):
        await play.begin(number, ["group", "group", "open", "direct"][number % 4])
    return play


@pytest.mark.parametrize("run", range(RUNS))
async def test_answers_and_states_are_the_fold_of_the_log(run: int, chat: ChatSite) -> None:
    for _ in range(2):
        chat.replica(run=True)
    play = await begun(chat, random.randrange(1 << 32))
    for _ in range(STEPS):
        await play.step(play.rng.choice(play.places), alone=True)
    await play.judge()
    await many_steps(play, STEPS, AT_ONCE)
    await play.judge()
    assert sum(play.applied.values()) > STEPS / 10, (play.applied, play.refused)
    assert sum(play.void.values()) < STEPS, play.void


@pytest.mark.parametrize("run", range(RUNS))
async def test_so_they_are_when_redis_is_emptied_meanwhile(run: int, chat: ChatSite, redis_url: str) -> None:
    for _ in range(2):
        chat.replica(run=True)
    play = await begun(chat, random.randrange(1 << 32))
    rng = random.Random(play.rng.random())

    async def trouble() -> None:
        for number in range(TROUBLES):
            await asyncio.sleep(rng.uniform(0.005, 0.05))
            with redis.Redis.from_url(redis_url) as client:  # it blocks: nothing else happens in between
                client.flushdb()
            for replica in chat.replicas:
                replica.process.incarnation = f"lost {number}"

    troubles = asyncio.create_task(trouble())
    while not troubles.done():
        await many_steps(play, 4 * AT_ONCE, AT_ONCE)
    await troubles
    await play.judge()
