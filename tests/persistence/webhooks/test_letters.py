"""Letters: kept until an endpoint took them, and bounded."""

from __future__ import annotations

import asyncio
import json
import random

import pytest
import redis.asyncio

from services.persistence.webhooks.dispatcher import BATCH_BYTES, letters_of
from services.persistence.webhooks.letters import Letter, Letters, known_endpoints
from services.shared.errors import Unavailable
from services.shared.feed.events import Event, EventType
from services.shared.redis.client import redis_client
from services.shared.redis.pipeline import RedisPipeline
from tests.support.full import sized
from tests.support.redis import RedisServer


@pytest.fixture
def letters(redis_pipeline: RedisPipeline) -> Letters:
    return Letters(redis_pipeline, "crm")


def test_batches_are_bounded_in_bytes() -> None:
    """Large ones would be refused by many servers, and fill Redis meanwhile."""
    infos = [b'"' + b"x" * size + b'"' for size in (*[60_000] * 9, 600_000, 10, 10)]
    events = [
        Event(id=f"events0-{number}-0", type=EventType.CONNECT, time_ms=number, user="ann", conn_info=info)
        for number, info in enumerate(infos, 1)
    ]
    letters = letters_of("crm", events)
    assert [letter.events for letter in letters] == [4, 4, 1, 1, 2]
    assert max(len(letter.body) for letter in letters if letter.events > 1) <= BATCH_BYTES + 100
    bodies = [json.loads(letter.body)["events"] for letter in letters]
    assert [event["id"] for batch in bodies for event in batch] == [event.id for event in events]
    assert letters == letters_of("crm", events)
    assert len({letter.id for letter in letters}) == len(letters)


async def test_a_full_redis_hands_out_letters_and_notes_what_became_of_them(own_redis: RedisServer) -> None:
    """Else nothing that waits could ever make room."""
    pipeline = RedisPipeline(own_redis.url)
    letters = Letters(pipeline, "crm")
    for name in ("taken", "again", "dead"):
        await letters.store(Letter(id=name, body="{}", events=1))
    async with redis_client(own_redis.url) as client:
        await client.config_set("maxmemory", 1)
    claimed = {letter.id: letter for letter in (await letters.claim(3, 5)).letters}
    with pytest.raises(Unavailable):
        await letters.store(Letter(id="new", body="{}", events=1))
    await letters.done(claimed["taken"])
    await letters.again(claimed["again"], 0)
    await letters.dead(claimed["dead"], 9)
    left = await letters.claim(3, 5)
    assert (left.letters, left.waiting, left.dead) == ([claimed["again"]], 1, 1)
    await pipeline.aclose()


async def test_the_endpoints_of_letters_are_known_also_after_a_loss(
    redis_conn: redis.asyncio.Redis, redis_pipeline: RedisPipeline, letters: Letters
) -> None:
    await letters.store(Letter(id="msg_1", body="{}", events=1))
    await redis_conn.flushall()
    assert await known_endpoints(redis_pipeline) == []
    await letters.store(Letter(id="msg_2", body="{}", events=1))
    assert await known_endpoints(redis_pipeline) == ["crm"]


async def test_many_dead_letters_are_read_in_order(letters: Letters) -> None:
    names = [f"msg_{number:03}" for number in range(120)]
    for name in names:
        await letters.store(Letter(id=name, body="{}", events=1))
        await letters.dead(Letter(id=name, body="{}", events=1), 1_000)
    found = await letters.dead_ones()
    assert sorted(letter.id for letter, _ in found) == names
    assert [ms for _, ms in found] == sorted(ms for _, ms in found)


async def test_a_lease_that_ran_out_is_taken_over(redis_url: str, letters: Letters) -> None:
    letter = Letter(id="msg_1", body="{}", events=1)
    assert await letters.store(letter)
    assert not await letters.store(letter)
    assert (await letters.claim(5, 1.0)).letters == [letter]
    claimed = await letters.claim(5, 60.0)
    assert (claimed.letters, claimed.waiting) == ([], 1)
    assert claimed.next_s is not None
    assert 0 < claimed.next_s <= 1.0
    await asyncio.sleep(1.05)  # Redis' own clock
    assert (await letters.claim(5, 60.0)).letters == [letter]
    await letters.done(letter)
    await letters.again(letter, 0)  # a late one, of who lost its lease: it is gone
    assert (await letters.claim(5, 0.2)).waiting == 0


async def fail(letters: Letters, name: str, owner: str, most: int = 1_000) -> int:
    letter = Letter(id=name, body="{}", events=1, owner=owner)
    assert await letters.store(letter)
    return await letters.dead(letter, most)


async def test_an_owner_takes_no_places_of_others(redis_conn: redis.asyncio.Redis, letters: Letters) -> None:
    """Of too many of one owner the oldest go, also where there is room."""
    for number in range(3):
        await fail(letters, f"bob-{number}", "bob o")
    dropped = [await fail(letters, f"ann-{number:03}", "ann") for number in range(50)]
    assert dropped == [0] * 20 + [1] * 30
    await fail(letters, "all", "")
    left = {letter.id for letter, _ in await letters.dead_ones()}
    assert left == {f"bob-{number}" for number in range(3)} | {f"ann-{number:03}" for number in range(30, 50)} | {"all"}
    assert await redis_conn.hlen("t:webhooks:{crm}:letters") == len(left)


async def test_what_owners_have_is_what_is_dead(redis_conn: redis.asyncio.Redis, letters: Letters) -> None:
    """A model of it, after random failures, replays and drops."""
    seed, most, of_owner = 18, 40, 20
    print(f"seed {seed}")
    rng = random.Random(seed)
    dead: list[Letter] = []  # the oldest first; ids tell the order in the same millisecond
    for number in range(sized(600, 20_000)):
        if dead and rng.random() < 0.3:
            letter = rng.choice(dead)
            dead.remove(letter)
            assert await (letters.drop(letter) if rng.random() < 0.5 else letters.revive(letter))
            assert not await letters.drop(letter)
            continue
        owner = rng.choice(["ann", "ann", "ann", "bob", "cid", ""])
        letter = Letter(id=f"{number:06}", body="{}", events=1, owner=owner)
        dropped = await fail(letters, letter.id, owner, most)
        dead.append(letter)
        mine = [one for one in dead if one.owner == owner]
        over = mine[:1] if owner and len(mine) > of_owner else dead[: max(0, len(dead) - most)]
        assert dropped == len(over)
        dead = [one for one in dead if one not in over]
    assert [letter for letter, _ in await letters.dead_ones()] == dead
    kept: dict[bytes, bytes] = await redis_conn.hgetall("t:webhooks:{crm}:owners")  # type: ignore[assignment]
    found = {name.decode(): ids.decode().split() for name, ids in kept.items()}
    owners = {one.owner for one in dead} - {""}
    assert found == {owner: [one.id for one in dead if one.owner == owner] for owner in owners}
    await letters.forget()
    assert await redis_conn.keys("t:webhooks:{crm}:*") == []
