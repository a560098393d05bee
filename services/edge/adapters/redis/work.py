"""What waits for its round trip to Redis, and how it ends."""

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
    """`key`: the name of its idempotency key in Redis, or ""; without one it can't be repeated."""

    channel: str
    publication_id: bytes
    publication: bytes
    key: str
    history_size: int
    history_ttl_s: int
    future: asyncio.Future[AppendResult]


class Other(msgspec.Struct):
    """A script call, made for the life of Redis in which it runs; or a PUBLISH (`call` None)."""

    call: Callable[[Incarnation], Call] | None
    publish: tuple[str, bytes] | None
    future: asyncio.Future[Any]


def give_up_unkeyed(batch: list[Append | Other], error: Unavailable) -> None:
    """A repeat of these could not be told from the first: whether they were carried out stays unknown."""
    for work in batch:
        if isinstance(work, Append) and not work.key:
            settle(work.future, Unavailable(str(error)))


def settle(future: asyncio.Future[Any], result: Any) -> None:
    """With what it came to, unless its time was over."""
    if future.done():
        return
    if isinstance(result, exceptions.RedisError):
        future.set_exception(Unavailable(f"Redis refused: {result}"))
    elif isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
