"""Inboxes are what the logs say, page by page and since an earlier call."""

from __future__ import annotations

import random

import pytest
import redis.asyncio

from services.persistence.chat.inbox import inbox
from tests.chat.inbox_play import Play
from tests.support.chat_calls import Site
from tests.support.full import sized

STEPS = sized(150, 10_000)


@pytest.mark.timeout(sized(300, 7_200))
@pytest.mark.parametrize("seed", [sized(12, 2_001)])
async def test_inboxes_are_what_brute_force_over_the_logs_says(
    site: Site, redis_conn: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(inbox, "_LISTED_MARGIN_MS", 0)  # replicas agree about the time
    made = await play(site, redis_conn, seed, STEPS)
    for what in ("whole", "since", "changed", "the same", "gone", "while things move"):
        assert made.seen[what] > 0, made.seen


@pytest.mark.timeout(sized(300, 7_200))
async def test_so_they_are_on_dynamodb(dynamodb_calls: Site, redis_conn: redis.asyncio.Redis) -> None:
    await play(dynamodb_calls, redis_conn, 2, sized(25, 1_000))


async def test_more_conversations_than_are_looked_at(site: Site, redis_conn: redis.asyncio.Redis) -> None:
    made = await play(site, redis_conn, 3, sized(60, 1_000), most=4)
    assert made.seen["truncated"] > 2


async def play(site: Site, conn: redis.asyncio.Redis, seed: int, steps: int, *, most: int = 1_000) -> Play:
    print(f"seed {seed}, {steps:,} steps")
    made = Play(site, random.Random(seed), conn, most=most)
    await made.run(steps)
    print(dict(made.done), dict(made.seen))
    assert made.seen["unsure"] <= made.seen["entries"] / 100
    return made
