"""Brings the events of the feed to one endpoint.

**Purpose.** A backend hears of everything once it can, at least once, without slowing down anybody.

**Rules.** Events are read in batches of at most 100, stored as letters (`letters.py`), and only then acknowledged. At
most `concurrency` letters are under way. New events are read while one more letter could be sent, so batches grow by
themselves when the endpoint is slow; and while fewer than `max_waiting` letters wait, so that an endpoint which is away
fills nothing: what it misses stays in the feed, which tells a gap once it had to forget.

A letter that fails is sent again after 1 s, 2 s, 4 s … 5 min, each less a random part, and not before the time that the
endpoint asked for. Meanwhile others go on. After `tries` it is a dead letter.

**Example.** Of three replicas, one takes events 1 to 30, another one 31 and 32. Both send at the same time, so 31 may
arrive before 30: receivers order by the number of each event, which counts per channel or user.

**Trade-offs.** No order between requests: to wait for each other, all would wait for the one that fails.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from services.persistence.webhooks.endpoints import Endpoint
from services.persistence.webhooks.letters import Letter, Letters, letter_id
from services.persistence.webhooks.metrics import DEAD, DIED, DROPPED, EVENTS, LAG, REQUESTS, SECONDS, WAITING
from services.persistence.webhooks.sender import Answer, Outcome, Sender
from services.shared.errors import Unavailable
from services.shared.feed.events import Event
from services.shared.feed.reader import FeedReader
from services.shared.process.backoff import Backoff, RandomSource
from services.shared.process.cancellation import end_task
from services.shared.process.log_limit import RateLimitedLog

logger = logging.getLogger(__name__)

BATCH = 100  # events of one request
BATCH_BYTES = 256 * 1024  # of one request, unless one event alone is larger: many servers refuse what is over 1 MB
LEASE_S = 5.0  # how much longer a lease is than a request may take, seconds
_IDLE_S = 1.0  # longest pause between two looks at what is due, seconds
_BUSY_S = 0.2  # the same while requests are under way: one that fails is due soon
_PAUSES_S = (1.0, 300.0)  # first and longest pause before a letter is sent again
_REDIS_PAUSES_S = (0.1, 2.0)  # the same before Redis is asked again
_RANDOM = random.Random()


def pause_s(tries: int, rng: RandomSource = _RANDOM) -> float:
    """Return how long a letter that failed so many times rests, seconds."""
    backoff = Backoff(*_PAUSES_S, rng=rng)
    for _ in range(tries - 1):
        backoff.next_s()
    return backoff.next_s()


def letters_of(endpoint: str, events: Sequence[Event]) -> list[Letter]:
    """Return these events as letters of at most 100 events and 256 KiB each."""
    batches: list[tuple[list[str], list[str]]] = []  # ids of events, their texts
    size = 0
    for event in events:
        text = msgspec.json.encode(event.as_json()).decode()
        size += len(text)
        if not batches or len(batches[-1][0]) == BATCH or size > BATCH_BYTES:
            batches.append(([], []))
            size = len(text)
        batches[-1][0].append(event.id)
        batches[-1][1].append(text)
    return [
        Letter(id=letter_id(endpoint, ids), body=f'{{"events":[{",".join(texts)}]}}', events=len(ids))
        for ids, texts in batches
    ]


class Dispatcher:
    """Reads events for one endpoint and sends them.

    Any number of processes may do so at once.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        reader: FeedReader,
        letters: Letters,
        sender: Sender,
        *,
        pause: Callable[[int], float] = pause_s,
    ) -> None:
        """Take the parts; reads nothing yet.

        `pause` says how long a letter rests after so many failures, seconds.
        """
        self._endpoint, self._reader, self._letters, self._sender = endpoint, reader, letters, sender
        self._pause = pause
        self._lease_s = endpoint.timeout_s + LEASE_S
        self._under_way: dict[asyncio.Task[None], Letter] = {}
        self._one_ended = asyncio.Event()
        self._newest_ms = 0  # time of the newest event that was read
        self._failed = RateLimitedLog(logger, logging.WARNING)
        self.answers = False  # whether Redis answered the last time
        name = endpoint.name
        for outcome in Outcome:
            REQUESTS.labels(name, outcome)
        for metric in (SECONDS, EVENTS, WAITING, LAG, DEAD, DIED, DROPPED):
            metric.labels(name)

    async def run(self) -> None:
        """Read and send until cancelled. While Redis does not answer, try again."""
        backoff = Backoff(*_REDIS_PAUSES_S)
        while True:
            try:
                await self._step()
                self.answers = True
                backoff.reset()
            except Unavailable as error:
                if not backoff.failures:
                    told = {"endpoint": self._endpoint.name, "error": str(error)}
                    logger.warning("Redis does not answer: no events are read", extra=told)
                self.answers = False
                await asyncio.sleep(backoff.next_s())

    async def drain(self, grace_s: float) -> None:
        """Wait for what is under way; let others send what does not end in time."""
        tasks = dict(self._under_way)
        if tasks:
            await asyncio.wait(tasks, timeout=grace_s)
        for task, letter in tasks.items():
            if not task.done():
                await end_task(task)
                try:
                    await self._letters.again(letter, 0.0)
                except Unavailable:
                    return  # the leases run out by themselves

    async def _step(self) -> None:
        """Send what is due; if more could be sent, read new events."""
        free = self._endpoint.concurrency - len(self._under_way)
        if free <= 0:
            self._show_lag()
            await self._wait_for_one(_IDLE_S)
            return
        claimed = await self._letters.claim(free, self._lease_s)
        WAITING.labels(self._endpoint.name).set(claimed.waiting)
        DEAD.labels(self._endpoint.name).set(claimed.dead)
        for letter in claimed.letters:
            self._send(letter)
        if len(claimed.letters) == free:
            return
        wait_s = _BUSY_S if self._under_way else _IDLE_S
        wait_s = wait_s if claimed.next_s is None else min(wait_s, claimed.next_s)
        if claimed.waiting >= self._endpoint.max_waiting:
            self._show_lag()
            await self._wait_for_one(wait_s)
            return
        await self._read(wait_s)

    async def _read(self, wait_s: float) -> None:
        """Store the next events as letters; wait for the first one at most so long."""
        events = await self._reader.next(BATCH, wait_s)
        if not events:
            LAG.labels(self._endpoint.name).set(0)
            return
        self._newest_ms = max(event.time_ms for event in events)
        self._show_lag()
        wanted = [event for event in events if self._endpoint.wants(event.type, event.channel)]
        for letter in letters_of(self._endpoint.name, wanted):
            await self._letters.store(letter)
        await self._reader.done(events)

    def _show_lag(self) -> None:
        if self._newest_ms:
            LAG.labels(self._endpoint.name).set(max(0.0, time.time() - self._newest_ms / 1000))

    async def _wait_for_one(self, wait_s: float) -> None:
        """Wait until a request has ended, at most so long."""
        self._one_ended.clear()
        try:
            async with asyncio.timeout(wait_s):
                await self._one_ended.wait()
        except TimeoutError:
            pass

    def _send(self, letter: Letter) -> None:
        task = asyncio.create_task(self._deliver(letter))
        self._under_way[task] = letter
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._under_way[task]
        self._one_ended.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("sending failed", exc_info=error)

    async def _deliver(self, letter: Letter) -> None:
        """Send a letter once, and keep what became of it."""
        name = self._endpoint.name
        began = time.monotonic()
        answer = await self._sender.send(letter)
        SECONDS.labels(name).observe(time.monotonic() - began)
        REQUESTS.labels(name, answer.outcome).inc()
        try:
            if answer.outcome is Outcome.TAKEN:
                EVENTS.labels(name).inc(letter.events)
                await self._letters.done(letter)
            else:
                await self._keep(msgspec.structs.replace(letter, tries=letter.tries + 1, error=answer.error), answer)
        except Unavailable as error:  # its lease runs out, and it is sent again
            self._failed("Redis does not answer: a batch will be sent again", endpoint=name, error=str(error))

    async def _keep(self, letter: Letter, answer: Answer) -> None:
        """Let a letter that failed be sent again, or give it up."""
        told: dict[str, Any] = {"endpoint": self._endpoint.name, "id": letter.id}
        told |= {"tries": letter.tries, "error": answer.error}
        if letter.tries < self._endpoint.tries:
            pause = max(self._pause(letter.tries), min(answer.retry_after_s, _PAUSES_S[1]))
            await self._letters.again(letter, pause)
            self._failed("an endpoint did not take a batch; it is sent again", **told)
            return
        dropped = await self._letters.dead(letter, self._endpoint.max_dead)
        DIED.labels(self._endpoint.name).inc()
        DROPPED.labels(self._endpoint.name).inc(dropped)
        logger.warning("a batch was given up: `thalamus webhooks replay` sends it", extra={**told, "dropped": dropped})
