"""The queue between persistence and the store, on moto's SQS."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from prometheus_client import REGISTRY

from services.persistence.domain.draining import Handover, Sink
from services.persistence.domain.ports import Row
from services.persistence.queue import messages
from services.persistence.queue.messages import QueuedRows, UnreadableMessage, decode, encode
from services.persistence.queue.outbox import AWAY_S, OVERDUE_S, PAST_S, Outbox
from services.persistence.queue.settings import SqsSettings
from services.persistence.queue.sqs import RECEIPTS, Message, SqsQueue
from services.persistence.queue.storing import store_messages
from services.persistence.queue.watch import watch
from services.persistence.queue.worker import Worker
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.hotlog.keys import pair
from services.shared.process.cancellation import end_task
from services.shared.process.config import ConfigError
from tests.persistence.test_queued import begun, history, publish
from tests.support.full import sized
from tests.support.log import append
from tests.support.persistence import CHANNEL, Process, Site, Store, both, request
from tests.support.sqs import sqs_address as sqs_address
from tests.support.sqs import sqs_settings as sqs_settings
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import until


@pytest.fixture
async def queue(sqs_settings: SqsSettings) -> AsyncIterator[SqsQueue]:
    made = SqsQueue(sqs_settings)
    await made.prepare()
    yield made
    await made.close()


def row(offset: int, size: int = 3, channel: str = CHANNEL) -> Row:
    return Row(channel, offset, os.urandom(16), os.urandom(size), pair("ann", f"k{offset}"), 1, offset, 0)


def rows(first: int, last: int) -> list[Row]:
    return [row(offset) for offset in range(first, last + 1)]


class Unreliable:
    """A queue that sends 20 % twice, delivers in any order, and loses some answers."""

    def __init__(self, queue: SqsQueue, rng: random.Random) -> None:
        self._queue, self._rng = queue, rng

    async def send(self, bodies: Sequence[str]) -> list[bool]:
        doubled = [body for body in bodies if self._rng.random() < 0.2]
        taken = await self._queue.send(bodies)
        await self._queue.send(doubled)
        return [one and self._rng.random() < 0.95 for one in taken]  # the answer got lost: sent again

    async def receive(self) -> list[Message]:
        found = await self._queue.receive(wait_s=0, held_s=1)
        self._rng.shuffle(found)
        return found

    async def delete(self, done: Sequence[Message]) -> None:
        if self._rng.random() < 0.1:
            raise Unavailable("as if the queue had gone")
        await self._queue.delete(done)

    async def put_back(self, failed: Sequence[Message], after_s: int) -> None:
        await self._queue.put_back(failed, 0)


def with_sink(site: Site, sink: Sink, **options: Any) -> Process:
    return begun(site.process(sink=sink, **options))


async def test_a_message_says_what_it_was_made_of() -> None:
    rng = random.Random(7)
    made = [
        Row(CHANNEL, 5 + n, os.urandom(16), os.urandom(rng.randrange(50)), pair("ä\ud800", "k"), n, 2 * n, n)
        for n in range(9)
    ]
    assert decode(encode("epoch", made)) == QueuedRows(CHANNEL, "epoch", made)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "x",
        "[]",
        "{}",
        '{"v":2,"channel":"a","epoch":"e","rows":[]}',
        '{"v":1,"channel":"a","epoch":"e","rows":[]}',
        '{"v":1,"channel":"a","epoch":"e","rows":[[1,"00","!","k",0,0,0]]}',
        '{"v":1,"channel":"a","epoch":"e","rows":[[1,"00","","k",0,0,0],[3,"00","","k",0,0,0]]}',
        '{"v":1,"channel":"a","epoch":"e","rows":[[1,"00","","k",0,0,"0"]]}',
        '{"v":1,"channel":1,"epoch":"e","rows":[[1,"00","","k",0,0,0]]}',
        '{"v":1,"channel":"a","epoch":"e","rows":[[Infinity,"00","","k",0,0,0]]}',
        '{"v":1,"channel":"a","epoch":"e","rows":[[1000000000000000000000,"00","","k",0,0,0]]}',
        pytest.param("[" * 100_000, id="deep"),
    ],
)
async def test_what_is_no_message_is_said_to_be_none(body: str) -> None:
    with pytest.raises(UnreadableMessage):
        decode(body)


async def test_portions_fit_into_messages_and_lose_nothing() -> None:
    rng = random.Random(3)
    made = [row(n, rng.choice([10, 1_000, 60_000, 130_000, 300_000])) for n in range(1, 80)]
    parts = messages.portions(made)
    assert [one for part in parts for one in part] == made
    for part in parts:
        assert messages.fits(part) == (len(part[0].publication) < 300_000)
        if messages.fits(part):
            assert len(encode("e" * 24, part)) <= messages.MAX_BYTES


async def test_messages_in_any_order_are_stored_once_what_is_missing_is_there(site: Site) -> None:
    epoch = (await site.store.open(CHANNEL)).epoch
    made = rows(1, 30)
    bodies = {str(at): encode(epoch, made[at : at + 10]) for at in (0, 10, 20)}
    assert await store_messages(site.store, {"20": bodies["20"]}) == {"20"}
    assert await store_messages(site.store, {"20": bodies["20"], "0": bodies["0"], "x": "nothing"}) == {"20", "x"}
    assert await store_messages(site.store, {**bodies, "again": bodies["0"]}) == set()
    assert [offset for offset, _ in await site.stored()] == list(range(1, 31))
    assert await store_messages(site.store, {"old": encode("of before", rows(31, 32))}) == set()
    assert await store_messages(site.store, {"other": encode(epoch, rows(30, 31))}) == set()
    assert len(await site.stored()) == 30


async def test_messages_that_the_store_can_not_take_come_again(site: Site) -> None:
    store = Store(site.store)
    epoch = (await site.store.open(CHANNEL)).epoch
    store.answers[CHANNEL] = Unavailable("throttled")
    assert await store_messages(store, {"a": encode(epoch, rows(1, 2))}) == {"a"}


async def test_a_message_that_breaks_the_store_keeps_no_other_from_being_stored(site: Site) -> None:
    store = Store(site.store)
    epoch = (await site.store.open(CHANNEL)).epoch
    other = (await site.store.open("chat:other")).epoch

    async def breaks(what: Sequence[Row]) -> None:
        if what[0].channel == CHANNEL:
            raise ZeroDivisionError("nobody thought of this")

    store.before_write = breaks
    bodies = {"a": encode(epoch, rows(1, 2)), "b": encode(other, [row(1, channel="chat:other")])}
    assert await store_messages(store, bodies) == {"a"}
    assert (await site.store.open("chat:other")).top == 1


async def test_a_worker_goes_on_after_any_failure(site: Site) -> None:
    epoch = (await site.store.open(CHANNEL)).epoch
    body = encode(epoch, rows(1, 3))
    calls = 0

    class Breaking:
        async def receive(self) -> list[Message]:
            nonlocal calls
            calls += 1
            if calls <= 3:
                raise ZeroDivisionError("nobody thought of this")
            if calls > 4:
                await asyncio.Event().wait()
            return [Message("a", "a", body)]

        async def delete(self, done: Sequence[Message]) -> None: ...

        async def put_back(self, failed: Sequence[Message], after_s: int) -> None: ...

    working = asyncio.create_task(Worker(Breaking(), site.store, receivers=1, pause_s=0.0).run())

    async def is_stored() -> bool:
        return len(await site.stored()) == 3

    await until(is_stored)
    assert not working.done()
    await end_task(working)


async def test_without_the_queue_nothing_starts(sqs_settings: SqsSettings) -> None:
    missing = SqsQueue(SqsSettings(endpoint=sqs_settings.endpoint, queue=sqs_settings.queue))
    with pytest.raises(ConfigError, match="no queue"):
        await missing.prepare()
    await missing.close()


async def test_a_message_that_nobody_can_read_is_put_aside_after_five_receipts(queue: SqsQueue, site: Site) -> None:
    epoch = (await site.store.open(CHANNEL)).epoch
    await queue.send(["nobody can read this", encode(epoch, rows(1, 3))])
    seen = 0

    class Impatient(Unreliable):
        async def delete(self, done: Sequence[Message]) -> None:
            await queue.delete(done)

        async def receive(self) -> list[Message]:
            nonlocal seen
            found = await queue.receive(wait_s=0)
            seen += sum(one.body.startswith("nobody") for one in found)
            return found

    worker = Worker(Impatient(queue, random.Random()), site.store, receivers=1)

    async def is_aside() -> bool:
        await worker.step()
        return (await queue.counts())[1] == 1

    await worker.step()
    assert [offset for offset, _ in await site.stored()] == [1, 2, 3]
    await until(is_aside)
    assert seen == 5
    (dead,) = await queue.receive(dead=True, wait_s=0)
    assert dead.body == "nobody can read this"


async def test_what_no_worker_stores_persistence_stores_itself(queue: SqsQueue, site: Site) -> None:
    now = time.monotonic()
    outbox = Outbox(queue, site.store, clock=lambda: now)
    process = with_sink(site, outbox)
    await publish(process, "one")

    async def is_sent() -> bool:
        return (await queue.counts())[0] == 1

    await until(is_sent)
    assert await site.stored() == []
    now += OVERDUE_S
    await publish(process, "two")
    await until(lambda: len(process.store.writes) > 0)

    async def both_are_stored() -> bool:
        return len(await site.stored()) == 2

    await until(both_are_stored)


async def test_what_another_replica_saw_stored_is_not_late(queue: SqsQueue, site: Site) -> None:
    now = 0.0
    outbox = Outbox(queue, site.store, clock=lambda: now)
    epoch = (await site.store.open(CHANNEL)).epoch
    assert await outbox.hand_over(CHANNEL, epoch, rows(1, 3)) == ([], True)
    now += 10 * OVERDUE_S  # another replica has found 1 to 3 in the store, so nothing was handed over meanwhile
    assert await outbox.hand_over(CHANNEL, epoch, rows(4, 5)) == ([], True)
    now += OVERDUE_S
    late = rows(4, 5)
    assert await outbox.hand_over(CHANNEL, epoch, late) == (late, False)


async def test_a_channel_that_no_worker_stores_waits_once_and_not_for_each_part(queue: SqsQueue, site: Site) -> None:
    now = 0.0
    outbox = Outbox(queue, site.store, clock=lambda: now)
    epoch = (await site.store.open(CHANNEL)).epoch
    assert await outbox.hand_over(CHANNEL, epoch, rows(1, 3)) == ([], True)
    now += OVERDUE_S
    for first in range(1, 30, 3):  # the backlog, at once
        late = rows(first, first + 2)
        assert await outbox.hand_over(CHANNEL, epoch, late) == (late, False)
    assert await outbox.hand_over("chat:other", epoch, [row(1, channel="chat:other")]) == ([], True)
    now += PAST_S
    assert await outbox.hand_over(CHANNEL, epoch, rows(31, 33)) == ([], True)
    got = [decode(one.body).rows[0] for one in await queue.receive(wait_s=0)]
    assert sorted((one.channel, one.offset) for one in got) == [(CHANNEL, 1), (CHANNEL, 31), ("chat:other", 1)]


async def test_a_queue_that_takes_nothing_is_late_from_the_first_attempt_on(site: Site) -> None:
    class Full:
        async def send(self, bodies: Sequence[str]) -> list[bool]:
            return [False] * len(bodies)

    now = 0.0
    outbox = Outbox(Full(), site.store, clock=lambda: now)
    for _ in range(int(OVERDUE_S)):
        assert await outbox.hand_over(CHANNEL, "epoch", rows(4, 5)) == ([], True)
        now += 1.0
    late = rows(4, 6)
    assert await outbox.hand_over(CHANNEL, "epoch", late) == (late, False)


@both
async def test_an_sqs_that_takes_connections_and_does_not_answer_stops_no_storing(
    queue: SqsQueue, sqs_settings: SqsSettings, site: Site, apart: bool
) -> None:
    """By the clock of the outbox nothing is ever late."""
    address = urlsplit(sqs_settings.endpoint)
    assert address.hostname is not None
    assert address.port is not None
    async with TcpProxy(address.hostname, address.port) as proxy:
        behind = SqsQueue(replace(sqs_settings, endpoint=f"http://127.0.0.1:{proxy.port}"))
        process = with_sink(site, Outbox(behind, site.store, clock=lambda: 0.0), apart=apart)
        await publish(process, "sent")

        async def is_sent() -> bool:
            return (await queue.counts())[0] == 1

        await until(is_sent)
        proxy.stall()
        channels = [f"chat:{number}" for number in range(30)]
        for channel in channels:
            await publish(process, "while it hangs", channel=channel)

        async def all_are_stored() -> bool:
            return all([len(await site.stored(channel)) == 1 for channel in channels])

        await until(all_are_stored)
        proxy.flow()
        await process.close()
        site.processes.remove(process)
        await behind.close()


async def test_a_queue_that_does_not_answer_is_left_alone_and_tried_by_one_call(site: Site) -> None:
    class Hanging:
        calls, answers = 0, False

        async def send(self, bodies: Sequence[str]) -> list[bool]:
            self.calls += 1
            if not self.answers:
                raise Unavailable("it does not answer")
            return [True] * len(bodies)

    now, queue = 100.0, Hanging()
    outbox = Outbox(queue, site.store, clock=lambda: now)
    for first in (1, 4):
        some = rows(first, first + 2)
        assert await outbox.hand_over(CHANNEL, "epoch", some) == (some, False)
    assert queue.calls == 1
    now += AWAY_S
    for _ in range(2):
        assert await outbox.hand_over(CHANNEL, "epoch", some) == (some, False)
    assert queue.calls == 2, "one call tries it"
    queue.answers, now = True, now + AWAY_S
    assert await outbox.hand_over(CHANNEL, "epoch", some) == ([], True)
    assert await outbox.hand_over("chat:b", "epoch", [row(1, channel="chat:b")]) == ([], True)
    assert queue.calls == 4


async def test_what_the_queue_did_not_take_is_sent_again_with_all_behind_it(queue: SqsQueue, site: Site) -> None:
    refused: list[bool] = []

    class Refusing(Unreliable):
        async def send(self, bodies: Sequence[str]) -> list[bool]:
            if refused:
                return await queue.send(bodies)
            refused.extend(index == 1 for index in range(len(bodies)))
            taken = await queue.send([body for body, is_refused in zip(bodies, refused, strict=True) if not is_refused])
            return [taken[0], False, *taken[1:]]

    outbox = Outbox(Refusing(queue, random.Random()), site.store, clock=lambda: 0.0)
    state = await site.store.open(CHANNEL)
    made = [row(offset, 100_000) for offset in range(1, 4)]  # a message each
    for _ in range(2):
        assert await outbox.hand_over(CHANNEL, state.epoch, made) == ([], True)
    got = [decode(one.body).rows[0].offset for one in await queue.receive(wait_s=0)]
    assert sorted(got) == [1, 2, 3, 3]


async def test_what_is_too_large_for_a_message_is_stored_with_all_in_front_of_it(queue: SqsQueue, site: Site) -> None:
    process = with_sink(site, Outbox(queue, site.store, clock=lambda: 0.0))  # nothing is ever overdue
    await publish(process, "small")
    await publish(process, "x" * 300_000)

    async def both_are_stored() -> bool:
        return len(await site.stored()) == 2

    await until(both_are_stored)
    assert (await queue.counts())[1] == 0


async def test_messages_are_counted_for_the_metrics(queue: SqsQueue) -> None:
    def figures() -> tuple[float | None, float | None]:
        names = ("thalamus_queue_waiting_messages", "thalamus_queue_dead_messages")
        waiting, dead = map(REGISTRY.get_sample_value, names)
        return waiting, dead

    await queue.send(["nobody can read this", "nor this"])
    watching = asyncio.create_task(watch(queue, 0.01))
    await until(lambda: figures() == (2, 0))
    for _ in range(RECEIPTS + 1):
        await queue.put_back(await queue.receive(wait_s=0), 0)
    await until(lambda: figures() == (0, 2))
    await end_task(watching)


@pytest.mark.parametrize("seed", [1, 2])
async def test_each_is_stored_once_and_in_order_whatever_happens(queue: SqsQueue, site: Site, seed: int) -> None:
    """Writes fail, messages come twice and in any order, workers are killed."""
    print("seed", seed)
    rng = random.Random(seed)
    unreliable = Unreliable(queue, rng)
    process = with_sink(site, Outbox(unreliable, site.store), max_unstored=20_000)
    worker_store = Store(site.store)

    async def fail(what: Sequence[Row]) -> None:
        if rng.random() < 0.05:
            raise Unavailable("as if the store had gone")

    worker_store.before_write = fail

    def work() -> asyncio.Task[None]:
        return asyncio.create_task(Worker(unreliable, worker_store, receivers=2).run())

    total, sent = sized(400, 10_000), 0
    kills = sorted(rng.sample(range(total), 10))
    working = work()
    while sent < total:
        count = min(total - sent, rng.randint(1, 20))
        outcomes = await append(
            process.log, [request(str(sent + n), size=50)._replace(queued=True) for n in range(count)]
        )
        assert [getattr(outcome, "offset", outcome) for outcome in outcomes] == list(range(sent + 1, sent + count + 1))
        sent += count
        while kills and kills[0] < sent:
            kills.pop(0)
            await end_task(working)
            working = work()

    async def all_is_stored() -> bool:
        return (await site.store.open(CHANNEL)).top == total

    await until(all_is_stored, 120)
    await end_task(working)
    found: list[tuple[int, str]] = []
    while len(found) < total:
        page = await history(process, since_offset=len(found))
        assert page
        found += page
    assert found == [(n + 1, str(n)) for n in range(total)]
    assert (await process.log.open(CHANNEL)).top == total


class Taking:
    """A sink that takes all rows, and of which nothing comes out."""

    async def hand_over(self, channel: str, epoch: str, rows: Sequence[Row]) -> Handover:
        return Handover([], True)


@both
async def test_only_what_was_acknowledged_early_waits_for_the_queue_before_it_is_swept(site: Site, apart: bool) -> None:
    dying = with_sink(site, Taking(), apart=apart)
    await publish(dying, "early", channel="chat:early")
    await dying.crash("before it is stored", "plain")
    await dying.close()
    site.processes.remove(dying)
    other = with_sink(site, Taking(), apart=apart)
    assert await other.log.sweep(0.0, 100) == 1
    assert await site.stored() == [(1, "plain")]
    assert await site.stored("chat:early") == []
    later = {channel: 1.0 for channel, _ in await other.hot.settled(0.0, 100)}  # marks of long ago
    await site.client.zadd(keys.dirty(), later)
    assert await other.log.sweep(0.0, 100) == 1
    assert await site.stored("chat:early") == [(1, "early")]
