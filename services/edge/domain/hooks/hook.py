"""One hook: asks its backend within bounds, and says what happens if that fails.

**Purpose.** A backend may be down, slow, or wrong. Then the commands that need it get a clear error, or go on without
it, and everything else on the edge goes on as before.

**Rules.**

1. A question has `timeout_s`, the wait for its turn included. At most `concurrency` questions are under way and
   `waiting` wait for their turn. What is beyond fails at once.
2. After a question without an answer in time, or without a connection, the hook is silent: every question fails at
   once, until the backend has answered a ping (`shared/rpc/breaker.py`). Any answer will do for that. If the backend
   has answered anything since the question began, it is not silent: else a client whose questions hang, and nobody
   else's, would cut off all others.
3. With `fail = "closed"` a failure is error 113 (it did not answer), 114 (it answered wrong) or 111 (too many wait).
   With `fail = "open"` the command goes on as if there were no hook.
4. Nothing is asked twice. A backend may have acted on a question whose answer was lost.

**Example.** A moderation backend hangs. The first message in `chat` fails after a second with 113. Those that follow
fail within a millisecond, and messages in other namespaces do not notice. The backend is started again: half a second
later it is asked again.

**Trade-offs.** Concurrency is per hook and edge process, not over the cluster: a backend must take the sum. A backend
that answers, but mostly after the deadline, is pinged, found alive, and asked again.

Decision: docs/decisions/0048-hooks.md.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable

from prometheus_client import Counter, Gauge, Histogram

from services.edge.domain.hooks.model import (
    FAILED_OPEN,
    Answer,
    Backend,
    CommandRefused,
    Failure,
    HookFailed,
    HookRequest,
)
from services.edge.domain.hooks.options import Fail, HookOptions
from services.shared.process.cancellation import is_being_cancelled
from services.shared.process.log_limit import RateLimitedLog
from services.shared.process.metrics import SECONDS_BUCKETS
from services.shared.rpc.breaker import Breaker

logger = logging.getLogger(__name__)

_LOG_EVERY_S = 10.0  # per hook, seconds
_SILENCING = frozenset({Failure.UNREACHABLE, Failure.TIMEOUT})
ANSWERED, REFUSED = "answered", "refused"  # outcomes beside those of `Failure`
CALLS = Counter("thalamus_edge_hook_calls", "Questions to a hook, by what came of them.", ["hook", "outcome"])
_SECONDS = Histogram(
    "thalamus_edge_hook_seconds",
    "Seconds from a question to a hook until its answer or failure.",
    ["hook"],
    buckets=SECONDS_BUCKETS,
)
_UNDER_WAY = Gauge("thalamus_edge_hook_under_way", "Questions to a hook that are not answered yet.", ["hook"])
_SILENT = Gauge("thalamus_edge_hook_silent", "1 while a hook is not asked, because it did not answer.", ["hook"])


class Hook:
    """Asks one backend. See the module."""

    def __init__(self, options: HookOptions, backend: Backend) -> None:
        name = options.name
        self.options = options
        self._backend = backend
        self._under_way = 0
        self._turns = asyncio.Semaphore(options.concurrency)
        self._heard_at = -math.inf  # when the backend answered last, monotonic seconds
        self._breaker = Breaker(f"hook {name}", self._probe)
        self._seconds = _SECONDS.labels(name)
        self._failed = RateLimitedLog(logger, logging.WARNING, every_s=_LOG_EVERY_S)
        for outcome in (ANSWERED, REFUSED, *Failure):
            CALLS.labels(name, str(outcome))
        _UNDER_WAY.labels(name).set_function(lambda: self._under_way)
        _SILENT.labels(name).set_function(lambda: self.is_silent)

    @property
    def is_silent(self) -> bool:
        """Whether the backend is not asked, because it did not answer."""
        return self._breaker.is_open

    async def ask(self, request: HookRequest, check: Callable[[Answer], None] | None = None) -> Answer:
        """Return the answer; `FAILED_OPEN` if the hook failed and fails open.

        `check` raises `HookFailed` for an answer that can't be used where it was asked for.

        Raises:
            CommandRefused: the hook refuses the command, or it failed and fails closed.
        """
        began = time.monotonic()
        self._under_way += 1
        try:
            if self._breaker.is_open:
                raise HookFailed(Failure.SILENT)
            if self._under_way > self.options.concurrency + self.options.waiting:
                raise HookFailed(Failure.OVERLOAD)
            # In a task of its own: the commands of a client may begin without one, which a deadline needs.
            answer = await asyncio.create_task(self._ask(request, check))
        except HookFailed as error:
            CALLS.labels(self.options.name, error.failure.value).inc()
            self._failed(
                "a hook failed",
                exc_info=error.__cause__ if error.failure is Failure.ERROR else None,
                hook=self.options.name,
                event=request.event.value,
                outcome=error.failure.value,
                error=str(error)[:200],
                fail=self.options.fail.value,
            )
            if self.options.fail is Fail.OPEN:
                return FAILED_OPEN
            raise error.error() from error
        finally:
            self._under_way -= 1
            self._seconds.observe(time.monotonic() - began)
        if answer.refuse is not None:
            CALLS.labels(self.options.name, REFUSED).inc()
            raise CommandRefused(answer.refuse)
        CALLS.labels(self.options.name, ANSWERED).inc()
        return answer

    async def _ask(self, request: HookRequest, check: Callable[[Answer], None] | None) -> Answer:
        asked_at: float | None = None
        try:
            async with asyncio.timeout(self.options.timeout_s), self._turns:
                asked_at = time.monotonic()
                answer = await self._backend.ask(request)
            self._heard_at = time.monotonic()
            if check is not None:
                check(answer)
            return answer
        except TimeoutError:
            if asked_at is None:  # the backend is busy with others, and has not failed
                raise HookFailed(Failure.OVERLOAD, "no turn in time") from None
            failure = HookFailed(Failure.TIMEOUT, f"no answer within {self.options.timeout_s:g} s")
        except asyncio.CancelledError:
            if is_being_cancelled():
                raise
            failure = HookFailed(Failure.ERROR, "an extension cancelled itself")
        except HookFailed as error:
            failure = error
        except Exception as error:  # whatever a backend or an extension does, only its commands fail
            failure = HookFailed(Failure.ERROR, f"{type(error).__name__}: {error}")
            failure.__cause__ = error
        if failure.failure not in _SILENCING:
            if failure.failure is not Failure.ERROR:
                self._heard_at = time.monotonic()
        elif asked_at is not None and self._heard_at < asked_at:
            self._breaker.failed()
        raise failure

    async def _probe(self) -> bool:
        is_heard = await self._backend.probe()
        if is_heard:
            self._heard_at = time.monotonic()
        return is_heard

    async def close(self) -> None:
        """Close the connections to the backend."""
        await self._breaker.end()
        await self._backend.close()
