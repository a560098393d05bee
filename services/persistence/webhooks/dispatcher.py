"""Brings the events of the feed to one endpoint.

**Purpose.** A backend hears of everything once it can, at least once, without slowing down anybody.

**Rules.** Events are read in batches of at most 100, stored as letters (`letters.py`), and only then acknowledged. At
most `concurrency` letters are under way. New events are read while one more letter could be sent, so batches grow by
themselves when the endpoint is slow; and while fewer than `max_waiting` letters wait, so that an endpoint which is away
fills nothing: what it misses stays in the feed, which tells a gap once it had to forget.

A letter that fails is sent again, as `sending.py` says; meanwhile others go on.

**Example.** Of three replicas, one takes events 1 to 30, another one 31 and 32. Both send at the same time, so 31 may
arrive before 30: receivers order by the number of each event, which counts per channel or user.

**Trade-offs.** No order between requests: to wait for each other, all would wait for the one that fails.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from services.persistence.webhooks.endpoints import Endpoint
from services.persistence.webhooks.http import Answer, Outcome
from services.persistence.webhooks.letters import Letter, Letters, letter_id
from services.persistence.webhooks.metrics import DEAD, DIED, DROPPED, EVENTS, LAG, REQUESTS, SECONDS, WAITING
from services.persistence.webhooks.sender import Sender
from services.persistence.webhooks.sending import Limits, Metrics, Sending, pause_s
from services.shared.errors import Unavailable
from services.shared.feed.events import Event
from services.shared.feed.reader import FeedReader
from services.shared.process.backoff import Backoff
from services.shared.process.log_limit import RateLimitedLog

logger = logging.getLogger(__name__)

BATCH = 100  # events of one request
BATCH_BYTES = 256 * 1024  # of one request, unless one event alone is larger: many servers refuse what is over 1 MB
LEASE_S = 5.0  # how much longer a lease is than a request may take, seconds
_IDLE_S = 1.0  # longest pause between two looks at what is due, seconds
_BUSY_S = 0.2  # the same while requests are under way: one that fails is due soon
_OUTCOMES = frozenset(Outcome) - {Outcome.GONE, Outcome.INVALID}  # which count as refused here
_REDIS_PAUSES_S = (0.1, 2.0)  # the same before Redis is asked again


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
        name = endpoint.name
        self.sending = Sending(
            letters,
            self._deliver,
            Limits(endpoint.concurrency, endpoint.timeout_s + LEASE_S, endpoint.tries, endpoint.max_dead),
            Metrics(WAITING.labels(name), DEAD.labels(name), DIED.labels(name), DROPPED.labels(name)),
            pause,
        )
        self._newest_ms = 0  # time of the newest event that was read
        self._failed = RateLimitedLog(logger, logging.WARNING)
        self.answers = False  # whether Redis answered the last time
        for outcome in _OUTCOMES:
            REQUESTS.labels(name, outcome)
        for metric in (SECONDS, EVENTS, LAG):
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

    async def _step(self) -> None:
        """Send what is due; if more could be sent, read new events."""
        free = self.sending.free
        if free <= 0:
            self._show_lag()
            await self.sending.wait_for_one(_IDLE_S)
            return
        claimed = await self.sending.begin()
        if len(claimed.letters) == free:
            return
        wait_s = _BUSY_S if self.sending.under_way else _IDLE_S
        wait_s = wait_s if claimed.next_s is None else min(wait_s, claimed.next_s)
        if claimed.waiting >= self._endpoint.max_waiting:
            self._show_lag()
            await self.sending.wait_for_one(wait_s)
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

    async def _deliver(self, letter: Letter) -> None:
        """Send a letter once, and keep what became of it."""
        name = self._endpoint.name
        began = time.monotonic()
        answer = await self._sender.send(letter.id, letter.body)
        SECONDS.labels(name).observe(time.monotonic() - began)
        REQUESTS.labels(name, answer.outcome).inc()
        try:
            if answer.outcome is Outcome.TAKEN:
                EVENTS.labels(name).inc(letter.events)
                await self._letters.done(letter)
            else:
                await self._keep(letter, answer)
        except Unavailable as error:  # its lease runs out, and it is sent again
            self._failed("Redis does not answer: a batch will be sent again", endpoint=name, error=str(error))

    async def _keep(self, letter: Letter, answer: Answer) -> None:
        """Let a letter that failed be sent again, or give it up."""
        failed = await self.sending.failed(letter, answer.error, retry_after_s=answer.retry_after_s)
        told: dict[str, Any] = {"endpoint": self._endpoint.name, "id": letter.id}
        told |= {"tries": failed.letter.tries, "error": answer.error}
        if not failed.is_dead:
            self._failed("an endpoint did not take a batch; it is sent again", **told)
            return
        told["dropped"] = failed.dropped
        logger.warning("a batch was given up: `thalamus webhooks replay` sends it", extra=told)
