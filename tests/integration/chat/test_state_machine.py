"""Random operations on conversations, against a naive fold (C02, C06).

Two replicas of persistence as processes, on each store. What is answered must be what the log says: what was
acknowledged stands in it once, in order, and applies or is void as was told; who was refused could do nothing; and the
methods that read give the fold of the log, on every replica. Meanwhile replicas are killed and Redis is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest

from tests.support.chat_play import Play, many_steps
from tests.support.chat_site import ChatSite, chat_site
from tests.support.full import FULL, sized

RUNS = {"sqlite": sized(1, 30), "dynamodb": 1}  # the long version must end within 1,800 s on a busy machine
CONVERSATIONS = sized(6, 12)
STEPS = {"sqlite": sized(120, 1_000), "dynamodb": sized(30, 1_000)}
AT_ONCE = 8
KILLS = sized(3, 40)

STORES = ["sqlite", "dynamodb"]
pytestmark = pytest.mark.slow
stores = pytest.mark.parametrize("store", STORES)


@contextlib.asynccontextmanager
async def site_of(store: str, request: pytest.FixtureRequest, replicas: int = 2) -> AsyncIterator[ChatSite]:
    address = request.getfixturevalue("dynamodb") if store == "dynamodb" else ""
    async with chat_site(store, replicas, address=address) as site:
        yield site


async def begin(site: ChatSite, seed: int) -> Play:
    print(f"seed {seed}")
    play = Play(site, random.Random(seed))
    for number in range(CONVERSATIONS):
        await play.create(["group", "group", "group", "direct", "open"][number % 5])
    return play


@stores
async def test_c02_answers_are_the_fold_of_the_log(store: str, request: pytest.FixtureRequest) -> None:
    async with site_of(store, request) as site:
        steps = STEPS[store]
        for _ in range(RUNS[store]):
            play = await begin(site, random.randrange(1 << 32))
            for _ in range(steps):
                await play.step(play.rng.choice(play.places), alone=True)
            await play.judge()
            assert sum(play.applied.values()) > steps / 10, (play.applied, play.refused)
            await many_steps(play, steps, AT_ONCE)
            await play.judge()


@pytest.mark.parametrize("store", STORES if FULL else STORES[:1])
async def test_c06_whatever_dies_what_was_acknowledged_is_there_and_answers_are_its_fold(
    store: str, request: pytest.FixtureRequest
) -> None:
    async with site_of(store, request) as site:
        play = await begin(site, random.randrange(1 << 32))
        rng = random.Random(play.rng.random())
        ended = asyncio.Event()

        async def trouble() -> None:
            for number in range(KILLS):
                await asyncio.sleep(rng.uniform(0.05, 0.5))
                with site.patience.trouble():
                    if number % 3 == 2:
                        site.redis.kill()
                        if rng.random() < 0.5:
                            site.redis.wipe()
                        await asyncio.sleep(rng.uniform(0, 0.3))
                        site.redis.start(whole=False)
                    else:
                        replica = rng.choice(site.replicas)
                        replica.kill9()
                        await asyncio.sleep(rng.uniform(0, 0.3))
                        await replica.spawn()
            ended.set()

        async def load() -> None:
            while not ended.is_set():
                await many_steps(play, 4 * AT_ONCE, AT_ONCE)

        await asyncio.gather(trouble(), load())
        await play.judge()
        assert sum(play.applied.values()) > KILLS, play.refused
