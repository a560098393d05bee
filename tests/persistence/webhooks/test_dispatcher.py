"""Dispatchers bring every event to a real receiver, whatever that does."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio

from services.persistence.webhooks.dispatcher import BATCH, letters_of
from services.persistence.webhooks.letters import Letter, Letters
from services.persistence.webhooks.sending import pause_s
from services.shared.errors import Unavailable
from services.shared.feed.events import EventType
from services.shared.feed.reader import FeedReader
from services.shared.hotlog import keys
from services.shared.redis.client import redis_client
from services.shared.redis.pipeline import RedisPipeline
from tests.support.full import sized
from tests.support.redis import RedisServer
from tests.support.waiting import until
from tests.support.webhook_receiver import Manner, Request, WebhookReceiver, at_random
from tests.support.webhooks import OTHER_SECRET, SECRET, dispatching, endpoint, tell


@pytest.fixture
async def receiver() -> AsyncIterator[WebhookReceiver]:
    async with WebhookReceiver(SECRET) as running:
        yield running
        assert running.wrong == []


@pytest.fixture
def letters(redis_pipeline: RedisPipeline) -> Letters:
    return Letters(redis_pipeline, "crm")


def told(receiver: WebhookReceiver) -> list[tuple[str, str]]:
    """Kind and user of what was taken, without gaps."""
    return [(event["type"], event["user"]) for event in receiver.events.values() if event["type"] != "gap"]


async def begun(receiver: WebhookReceiver) -> None:
    """Wait until the group has begun: it is told a gap."""
    await until(lambda: any(event["type"] == "gap" for event in receiver.events.values()))


async def test_an_event_arrives_signed_in_the_documented_shape(
    redis_conn: redis.asyncio.Redis, redis_url: str, receiver: WebhookReceiver, tmp_path: Path
) -> None:
    async with dispatching(redis_url, endpoint(receiver.url, tmp_path)):
        await begun(receiver)
        number = await tell(redis_conn, "connect", "ann", "c1")
        await until(lambda: told(receiver))
    request = receiver.requests[-1]
    (event,) = request.events
    assert {**event, "id": "", "time": 0} == {
        "id": "",
        "type": "connect",
        "number": number,
        "user": "ann",
        "client": "c1",
        "time": 0,
    }
    assert event["id"].startswith(f"events{keys.feed_shard('/uann')}-")
    assert abs(event["time"] / 1000 - time.time()) < 60
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"].startswith("thalamus/")


async def test_during_a_rotation_either_secret_is_right(
    redis_conn: redis.asyncio.Redis, redis_url: str, receiver: WebhookReceiver, tmp_path: Path
) -> None:
    async with dispatching(redis_url, endpoint(receiver.url, tmp_path, OTHER_SECRET, SECRET)):
        await begun(receiver)
        receiver.secret = OTHER_SECRET
        await tell(redis_conn, "connect", "ann")
        await until(lambda: told(receiver))
    assert receiver.requests[-1].headers["webhook-signature"].count("v1,") == 2


async def test_an_endpoint_gets_the_types_and_channels_it_asks_for(
    redis_conn: redis.asyncio.Redis, redis_url: str, receiver: WebhookReceiver, tmp_path: Path
) -> None:
    wanted = endpoint(
        receiver.url, tmp_path, events=frozenset({EventType.JOIN, EventType.CONNECT}), channels=("room:*",)
    )
    async with dispatching(redis_url, wanted):
        await begun(receiver)
        await tell(redis_conn, "join", "ann", channel="other:1")
        await tell(redis_conn, "leave", "ann", channel="room:1")
        await tell(redis_conn, "disconnect", "ann")
        await tell(redis_conn, "join", "ann", channel="room:1")
        await tell(redis_conn, "connect", "ann")
        await until(lambda: len(told(receiver)) == 2)
        await tell(redis_conn, "connect", "bob")  # what came before this is told, or never will be
        await until(lambda: ("connect", "bob") in told(receiver))
    assert sorted(told(receiver)) == [("connect", "ann"), ("connect", "bob"), ("join", "ann")]


async def test_batches_hold_at_most_a_hundred_events(
    redis_conn: redis.asyncio.Redis, redis_url: str, receiver: WebhookReceiver, tmp_path: Path
) -> None:
    async with dispatching(redis_url, endpoint(receiver.url, tmp_path)):
        await begun(receiver)
    for each in range(250):
        await tell(redis_conn, "connect", f"u{each}")
    before = len(receiver.requests)
    async with dispatching(redis_url, endpoint(receiver.url, tmp_path)):
        await until(lambda: len(told(receiver)) == 250)
    sizes = [len(request.events) for request in receiver.requests[before:]]
    assert max(sizes) == BATCH
    assert len(sizes) <= 4


@pytest.mark.parametrize("manner", [Manner.FAIL, Manner.REDIRECT, Manner.GARBAGE, Manner.HANG, Manner.LOSE])
async def test_what_is_no_2xx_is_sent_again_with_the_same_id_and_body(
    redis_conn: redis.asyncio.Redis, redis_url: str, receiver: WebhookReceiver, tmp_path: Path, manner: Manner
) -> None:
    timeout_s = 1.0 if manner is Manner.HANG else 30.0
    async with dispatching(redis_url, endpoint(receiver.url, tmp_path, timeout_s=timeout_s)):
        await begun(receiver)
        receiver.choose = lambda _: manner if len(receiver.of(manner)) < 2 else Manner.TAKE
        await tell(redis_conn, "connect", "ann")
        await until(lambda: receiver.requests[-1].manner is Manner.TAKE and len(receiver.of(manner)) == 2)
        await asyncio.sleep(0.2)
    tries = receiver.requests[-3:]
    assert [one.manner for one in tries] == [manner, manner, Manner.TAKE]
    assert len({(one.id, one.body) for one in tries}) == 1
    assert {one.path for one in receiver.requests} == {"/hook"}  # no redirect was followed
    assert told(receiver) == [("connect", "ann")]


async def test_a_busy_endpoint_is_left_alone_for_as_long_as_it_asks(
    redis_conn: redis.asyncio.Redis, redis_url: str, receiver: WebhookReceiver, tmp_path: Path
) -> None:
    came: list[float] = []

    def choose(_: Request) -> Manner:
        came.append(time.monotonic())
        return Manner.TAKE if receiver.of(Manner.BUSY) else Manner.BUSY

    async with dispatching(redis_url, endpoint(receiver.url, tmp_path), pause=lambda _: 0.01):
        await begun(receiver)
        receiver.choose = choose
        await tell(redis_conn, "connect", "ann")
        await until(lambda: told(receiver))
    refused, taken = came
    assert taken - refused >= 0.9


async def test_a_large_answer_is_not_read_to_its_end(
    redis_conn: redis.asyncio.Redis, redis_url: str, receiver: WebhookReceiver, tmp_path: Path
) -> None:
    receiver.choose = lambda _: Manner.LARGE
    async with dispatching(redis_url, endpoint(receiver.url, tmp_path)):
        await begun(receiver)
        await tell(redis_conn, "connect", "ann")
        await until(lambda: told(receiver) and receiver.cut == len(receiver.requests))
    assert len(receiver.requests) == len({one.id for one in receiver.requests})  # taken at the first try


async def test_a_dead_letter_blocks_nobody_and_is_replayed_with_its_old_id(
    redis_conn: redis.asyncio.Redis, redis_url: str, receiver: WebhookReceiver, tmp_path: Path, letters: Letters
) -> None:
    async with dispatching(redis_url, endpoint(receiver.url, tmp_path, tries=3, concurrency=1)):
        await begun(receiver)
        receiver.choose = lambda request: Manner.FAIL if b'"bad"' in request.body else Manner.TAKE
        number = await tell(redis_conn, "connect", "bad")
        await until(lambda: receiver.of(Manner.FAIL))
        await tell(redis_conn, "connect", "ann")
        await until(lambda: ("connect", "ann") in told(receiver))
        await until(lambda: len(receiver.of(Manner.FAIL)) == 3)
        while not (dead := await letters.dead_ones()):
            await asyncio.sleep(0.01)
        assert [(one.tries, one.events, one.error) for one, _ in dead] == [(3, 1, "status 500")]
        receiver.choose = lambda _: Manner.TAKE
        await asyncio.sleep(0.2)
        assert ("connect", "bad") not in told(receiver)
        assert await letters.revive(dead[0][0])
        await until(lambda: ("connect", "bad") in told(receiver))
    assert receiver.requests[-1].id == receiver.of(Manner.FAIL)[0].id
    assert receiver.requests[-1].events[0]["number"] == number
    assert await letters.dead_ones() == []


async def test_dead_letters_are_bounded_and_the_oldest_go_first(
    redis_conn: redis.asyncio.Redis, redis_url: str, receiver: WebhookReceiver, tmp_path: Path, letters: Letters
) -> None:
    async def newest_is(user: str) -> bool:
        dead = await letters.dead_ones()
        return bool(dead) and user in dead[-1][0].body

    async with dispatching(redis_url, endpoint(receiver.url, tmp_path, tries=1, max_dead=2)):
        await begun(receiver)
        receiver.choose = lambda _: Manner.FAIL
        for each in range(4):
            await tell(redis_conn, "connect", f"u{each}")
            await until(lambda each=each: newest_is(f"u{each}"))  # type: ignore[misc]
    bodies = [one.body for one, _ in await letters.dead_ones()]
    assert ["u2" in bodies[0], "u3" in bodies[1], len(bodies)] == [True, True, 2]


async def test_an_endpoint_that_is_away_has_a_bounded_backlog_and_gets_the_rest_later(
    redis_conn: redis.asyncio.Redis, redis_url: str, receiver: WebhookReceiver, tmp_path: Path, letters: Letters
) -> None:
    away = endpoint(receiver.url, tmp_path, max_waiting=3, concurrency=2, tries=50)
    async with dispatching(redis_url, away, pause=lambda _: 0.05):
        await begun(receiver)
        receiver.choose = lambda _: Manner.FAIL
        for each in range(30):
            await tell(redis_conn, "connect", f"u{each}")
            await asyncio.sleep(0.02)
        assert (await letters.claim(0, 1)).waiting <= 3
        receiver.choose = lambda _: Manner.TAKE
        await until(lambda: len(told(receiver)) == 30)
    assert (await letters.claim(0, 1)).waiting == 0


async def test_an_endpoint_that_hangs_delays_no_other_one(
    redis_conn: redis.asyncio.Redis, redis_url: str, receiver: WebhookReceiver, tmp_path: Path
) -> None:
    async with WebhookReceiver(SECRET) as healthy:
        hanging = endpoint(receiver.url, tmp_path, timeout_s=30)
        async with (
            dispatching(redis_url, hanging),
            dispatching(redis_url, endpoint(healthy.url, tmp_path, name="other")),
        ):
            await begun(receiver)
            await begun(healthy)
            receiver.choose = lambda _: Manner.HANG
            for each in range(20):
                await tell(redis_conn, "connect", f"u{each}")
            await until(lambda: len(told(healthy)) == 20, 20)
            assert receiver.of(Manner.HANG)
            assert told(receiver) == []


async def test_a_stopped_dispatcher_lets_another_one_send_at_once(
    redis_conn: redis.asyncio.Redis, redis_url: str, receiver: WebhookReceiver, tmp_path: Path
) -> None:
    slow = endpoint(receiver.url, tmp_path, timeout_s=60)
    async with dispatching(redis_url, slow):
        await begun(receiver)
        receiver.choose = lambda _: Manner.HANG
        await tell(redis_conn, "connect", "ann")
        await until(lambda: receiver.of(Manner.HANG))
    receiver.choose = lambda _: Manner.TAKE
    async with dispatching(redis_url, slow):
        await until(lambda: told(receiver))
    assert receiver.requests[-1].id == receiver.of(Manner.HANG)[0].id


async def test_redis_comes_back_and_nothing_is_lost(
    own_redis: RedisServer, receiver: WebhookReceiver, tmp_path: Path
) -> None:
    async with dispatching(own_redis.url, endpoint(receiver.url, tmp_path)) as dispatcher:
        await begun(receiver)
        receiver.choose = lambda _: Manner.FAIL
        async with redis_client(own_redis.url) as client:
            await tell(client, "connect", "ann")
            await until(lambda: receiver.of(Manner.FAIL))
            await client.waitaof(1, 0, 2000)
        own_redis.kill()
        await until(lambda: not dispatcher.answers)
        receiver.choose = lambda _: Manner.TAKE
        own_redis.start()
        async with redis_client(own_redis.url) as client:
            await tell(client, "connect", "bob")
        await until(lambda: len(told(receiver)) == 2)
        assert dispatcher.answers


async def test_events_that_could_not_be_stored_are_read_again(
    redis_conn: redis.asyncio.Redis,
    redis_url: str,
    receiver: WebhookReceiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, refused = Letters.store, 0

    async def refuse_once(letters: Letters, letter: Letter) -> bool:
        nonlocal refused
        refused += "ann" in letter.body
        if refused == 1:
            raise Unavailable("out of memory")
        return await store(letters, letter)

    async with dispatching(redis_url, endpoint(receiver.url, tmp_path)):
        await begun(receiver)
        monkeypatch.setattr(Letters, "store", refuse_once)
        await tell(redis_conn, "connect", "ann")
        await until(lambda: told(receiver))
    assert refused == 2


async def test_events_that_are_read_twice_are_one_letter(
    redis_conn: redis.asyncio.Redis, redis_url: str, receiver: WebhookReceiver, tmp_path: Path
) -> None:
    """A process stored its letter and was killed before it acknowledged the events."""
    to = endpoint(receiver.url, tmp_path)
    async with dispatching(redis_url, to):
        await begun(receiver)
    await tell(redis_conn, "connect", "ann")
    killed = FeedReader(redis_url, f"webhooks.{to.name}", types=to.events, claim_after_s=0.2)
    events = await killed.next()
    pipeline = RedisPipeline(redis_url)
    for letter in letters_of(to.name, events):
        await Letters(pipeline, to.name).store(letter)
    await killed.close()
    async with dispatching(redis_url, to, claim_after_s=0.2):
        await until(lambda: told(receiver))
        await asyncio.sleep(0.5)
    await pipeline.aclose()
    assert len({one.id for one in receiver.requests if b"ann" in one.body}) == 1


def test_pauses_double_up_to_five_minutes_and_are_random_below() -> None:
    rng = random.Random(1)
    longest = [max(pause_s(tries, rng) for _ in range(200)) for tries in (1, 2, 3, 9, 20)]
    shortest = [min(pause_s(tries, rng) for _ in range(200)) for tries in (1, 2, 3, 9, 20)]
    for got, wanted in zip(longest, (1, 2, 4, 256, 300), strict=True):
        assert 0.95 * wanted <= got <= wanted
    for got, wanted in zip(shortest, (1, 2, 4, 256, 300), strict=True):
        assert 0.5 * wanted <= got <= 0.55 * wanted


async def test_a_receiver_that_sorts_and_drops_repeats_has_the_true_history(
    redis_conn: redis.asyncio.Redis, redis_url: str, tmp_path: Path, letters: Letters
) -> None:
    """Three dispatchers come and go; the receiver fails in every way."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    shares = {Manner.FAIL: 0.1, Manner.HANG: 0.02, Manner.LOSE: 0.05, Manner.REDIRECT: 0.02, Manner.GARBAGE: 0.02}
    true: dict[str, list[tuple[int, str, str]]] = {}

    async with WebhookReceiver(SECRET) as receiver:
        to = endpoint(receiver.url, tmp_path, timeout_s=0.3, tries=3)
        async with dispatching(redis_url, to):
            await begun(receiver)
        receiver.choose = at_random(rng, {**shares, Manner.LARGE: 0.01})

        async def come_and_go() -> None:
            chance = random.Random(rng.random())
            while True:
                async with dispatching(redis_url, to, pause=lambda tries: chance.uniform(0, 0.05 * tries)):
                    await asyncio.sleep(chance.uniform(0.1, 1.5))

        going = [asyncio.create_task(come_and_go()) for _ in range(3)]
        for each in range(sized(400, 5_000)):
            user, kind, client = f"u{rng.randrange(20)}", rng.choice(("connect", "disconnect")), f"c{each}"
            number = await tell(redis_conn, kind, user, client)
            true.setdefault(user, []).append((number, kind, client))
            if rng.random() < 0.3:
                await asyncio.sleep(rng.uniform(0, 0.01))

        async def all_dead_or_done() -> None:
            while (await letters.claim(0, 1)).waiting or sum(map(len, receiver.history().values())) < len_known():
                await asyncio.sleep(0.05)
                for letter, _ in await letters.dead_ones():
                    assert await letters.revive(letter)

        def len_known() -> int:
            return sum(map(len, true.values()))

        async with asyncio.timeout(sized(60, 600)):
            await all_dead_or_done()
        for task in going:
            task.cancel()
        await asyncio.gather(*going, return_exceptions=True)
        assert receiver.wrong == []
        found = {
            user: [(event["number"], event["type"], event["client"]) for event in events]
            for user, events in receiver.history().items()
        }
        assert found == true
        assert all(receiver.of(manner) for manner in shares)
