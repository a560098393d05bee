"""Commands that are queued for a round trip to Redis, and their futures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from redis import exceptions

from services.edge.domain.model import AppendResult
from services.shared.errors import Unavailable
from services.shared.hotlog.scripts import Call
from services.shared.incarnation.calls import Incarnation


class Append(msgspec.Struct):
    """An append to the log of a `hot` channel.

    `key` is the Redis key of its idempotency key, or "". Without one the append can't be repeated safely.
    `author`: user id, "" for a backend; None: the feed does not tell of it.
    """

    channel: str
    publication_id: bytes
    publication: bytes
    key: str
    history_size: int
    history_ttl_s: int
    future: asyncio.Future[AppendResult]
    author: str | None = None


class OtherCommand(msgspec.Struct):
    """Any other command: a script call, or a PUBLISH.

    `call` makes the script call for the present incarnation of Redis; it is None for a PUBLISH.
    """

    call: Callable[[Incarnation], Call] | None
    publish: tuple[str, bytes] | None
    future: asyncio.Future[Any]


def give_up_unkeyed(batch: list[Append | OtherCommand], error: Unavailable) -> None:
    """Fail the appends without an idempotency key, whose outcome is unknown.

    They must not be repeated: Redis could not recognise the repeat.
    """
    for work in batch:
        if isinstance(work, Append) and not work.key:
            settle(work.future, Unavailable(str(error)))


def fail(group: list[Append], error: Unavailable) -> None:
    """Fail the appends that have no result yet."""
    for work in group:
        settle(work.future, error)


def settle(future: asyncio.Future[Any], result: Any) -> None:
    """Set the result or the exception of a future, unless it is done already.

    An error reply of Redis becomes `Unavailable`.
    """
    if future.done():
        return
    if isinstance(result, exceptions.RedisError):
        future.set_exception(Unavailable(f"Redis refused: {result}"))
    elif isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
