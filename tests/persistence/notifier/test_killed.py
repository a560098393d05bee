"""C62: a notifier that dies at any step leaves no user without, and no second id."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from typing import Any

import pytest
import redis.asyncio

from services.persistence.chat.devices.device import Device
from services.persistence.notifier.ports import Note
from services.persistence.webhooks.http import Answer
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.hotlog.scripts import Call, Command
from services.shared.redis.pipeline import RedisPipeline
from tests.support.chat_calls import Site
from tests.support.full import sized
from tests.support.push import Backend, Run, WhoIsThere, make_due

ROUNDS = sized(1, 20)
USERS = ["bob", "cid"]
LONGEST = sized(4, 2)  # steps from one death to the next


class Died(BaseException):
    """The process is gone."""


class Fate:
    """Dies at a step; `after`: its effect is there already."""

    def __init__(self, at: int, *, after: bool) -> None:
        self.at, self.after, self.steps = at, after, 0

    def before(self) -> bool:
        """Count a step; return whether to die behind it."""
        self.steps += 1
        if self.steps > self.at or (self.steps == self.at and not self.after):
            raise Died
        return self.steps == self.at


class DyingPipeline(RedisPipeline):
    """Redis of a process that dies."""

    fate: Fate

    async def execute(self, commands: Sequence[Command], *, timeout_s: float) -> list[Any]:
        dies = self.fate.before()
        done = await super().execute(commands, timeout_s=timeout_s)
        if dies:
            raise Died
        return done

    async def run(self, calls: Sequence[Call], *, timeout_s: float) -> list[Any]:
        dies = self.fate.before()
        done = await super().run(calls, timeout_s=timeout_s)
        if dies:
            raise Died
        return done


class DyingWay:
    """A way out of a process that dies."""

    def __init__(self, way: Any, fate: Fate) -> None:
        self._way, self._fate = way, fate
        self.platform, self.concurrency = way.platform, 1

    async def send(self, request_id: str, note: Note, device: Device | None) -> Answer:
        dies = self._fate.before()
        answer: Answer = await self._way.send(request_id, note, device)
        if dies:
            raise Died
        return answer

    async def close(self) -> None:
        await self._way.close()


class Process(Run):
    """A notifier that dies as its fate says."""

    def __init__(
        self, url: str, conn: redis.asyncio.Redis, site: Site, backend: Backend, fate: Fate | None = None
    ) -> None:
        way: Any = backend.way() if fate is None else DyingWay(backend.way(), fate)
        super().__init__(url, conn, site, [way], WhoIsThere())
        self.notifier.reader._claim_after_s = 0.03  # noqa: SLF001
        if fate is not None:
            for pipeline in (self.redis, self.notifier.reader._pipeline):  # noqa: SLF001
                pipeline.__class__ = DyingPipeline
                pipeline.fate = fate  # type: ignore[attr-defined]

    async def live(self) -> None:
        """Work until nothing is left, or it dies."""
        for _ in range(3):
            await self.read()
            await self.pass_time()
            await self.decide()
            await self.send()
            await self.look_again()
            await self.send()

    async def send(self) -> None:
        for courier in self.notifier.couriers:
            while (await courier.step(), courier.sending.under_way)[1]:
                for task in list(courier.sending.under_way):
                    await asyncio.wait([task])
                    if not task.cancelled() and isinstance(task.exception(), Died):
                        raise Died

    async def close(self) -> None:
        for courier in self.notifier.couriers:
            tasks = list(courier.sending.under_way)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await super().close()

    async def pass_time(self) -> None:
        await super().pass_time()
        await make_due(self.conn, "t:push:{webhook}:due", 0)


async def pending(conn: redis.asyncio.Redis) -> bool:
    """Whether anything is left to be done."""
    left = [await conn.zcard(name) for name in (keys.push("due"), "t:push:{webhook}:due")]
    for shard in range(keys.FEED_SHARDS):
        if await conn.exists(keys.commits(shard)):
            for group in await conn.xinfo_groups(keys.commits(shard)):
                left.append(group["pending"] + (group["lag"] or 0))
    return any(left)


@pytest.mark.parametrize("site", ["sqlite"], indirect=True)
async def test_c62_whichever_step_is_the_last_everybody_is_told_under_one_id(
    redis_url: str, redis_conn: redis.asyncio.Redis, site: Site, backend: Backend
) -> None:
    seed = 62
    print(f"seed {seed}")
    rng, a = random.Random(seed), site.replicas[0]
    first = Process(redis_url, redis_conn, site, backend)
    await first.begin()
    await first.close()
    channel = (await a.call("ann", "conversations.create", users=USERS))["channel"]
    repeated = deaths = 0
    for number in range(ROUNDS):
        print(f"round {number}: {deaths} deaths, {repeated} repeats", flush=True)
        for after in (False, True):
            at, is_over = 0, False
            while not is_over:
                at += rng.randint(1, LONGEST)
                offset = (await a.call("ann", "messages.send", channel=channel, text="hi"))["offset"]
                dying = Process(redis_url, redis_conn, site, backend, Fate(at, after=after))
                try:
                    await dying.live()
                    is_over = True
                except (Died, BaseExceptionGroup):
                    deaths += 1
                except Unavailable:  # on a busy machine Redis is late; the process would go on
                    pass
                await dying.close()
                other = Process(redis_url, redis_conn, site, backend)
                async with asyncio.timeout(60):
                    while True:
                        with contextlib.suppress(Unavailable):
                            await other.live()
                        if not await pending(redis_conn):
                            break
                        await asyncio.sleep(0.01)
                await other.close()
                notes = [note for note in backend.take() if note["offset"] == offset]
                assert {(note["kind"], note["user"]) for note in notes} == {("message", user) for user in USERS}, at
                assert len({note["request"] for note in notes}) == len({note["id"] for note in notes}) == 2, at
                repeated += len(notes) - 2
    print(f"{deaths} deaths, {repeated} repeats")
    assert deaths >= 16 * ROUNDS
    assert repeated > 0, "no death came between sending and noting it"
