"""What tests do to an edge's connection to Redis from inside."""

from __future__ import annotations

import asyncio
from typing import Any

from services.edge.adapters.redis.acknowledged import AcknowledgedPositions
from services.edge.adapters.redis.broker import RedisBroker


def generation(broker: RedisBroker) -> int:
    """The generation of `hot` logs that the edge uses."""
    return broker._gate.generation  # noqa: SLF001


def forget(broker: RedisBroker) -> None:
    """Let the edge forget what it acknowledged, as if that had been long ago."""
    empty = AcknowledgedPositions()
    broker._acknowledged = broker._incarnation._acknowledged = broker._sender._acknowledged = empty  # noqa: SLF001


def stop_watching(broker: RedisBroker) -> None:
    """End the watch of Redis without a farewell, as a killed edge does."""
    assert broker._incarnation._task is not None  # noqa: SLF001
    broker._incarnation._task.cancel()  # noqa: SLF001


def check_now(broker: RedisBroker) -> None:
    """Let the edge look at Redis now, as when it finds that writes are missing."""
    broker._incarnation.check_now()  # noqa: SLF001


def queue_of(broker: RedisBroker) -> Any:
    """What collects publications into batches, to replace its pause."""
    return broker._queue  # noqa: SLF001


def lose_subscriptions(broker: RedisBroker) -> None:
    """Unsubscribe from everything, as if Redis had forgotten it."""
    broker._subscriber._send("UNSUBSCRIBE", ())  # noqa: SLF001


async def sessions_written(broker: RedisBroker) -> None:
    """Wait until Redis has all that this edge says in the session table."""
    async with asyncio.timeout(30):
        while broker.session_table._pending:  # noqa: SLF001
            await asyncio.sleep(0.005)
