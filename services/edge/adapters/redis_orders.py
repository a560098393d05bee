"""`OrderLog` on Redis: a stream that holds a minute of orders, each with the id of the one before it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import redis.asyncio
from redis import exceptions

from services.edge.domain.model import Order, OrderId, OrderPage
from services.shared.errors import CONNECTION_LOST, Unavailable
from services.shared.hotlog import keys
from services.shared.hotlog.scripts import Call, load, refuse, run

TIMEOUT_S = 2.8
KEPT_MS = 60_000
_KEPT = 10_000
_PAGE = 200
_ORDER = load(Path(__file__).parent / "order.lua")


class RedisOrders:
    """Repeats nothing by itself: an order that was given twice would be carried out twice."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client

    async def give(self, payload: bytes) -> int:
        call = Call(_ORDER, [keys.ORDERS], [keys.CONTROL, payload, _KEPT, KEPT_MS])
        (told,) = await run(self._client, [call], timeout_s=TIMEOUT_S)
        return int(refuse(told))

    async def read(self, after: OrderId) -> OrderPage:
        try:
            async with asyncio.timeout(TIMEOUT_S), self._client.pipeline(transaction=False) as pipeline:
                pipeline.xrevrange(keys.ORDERS, count=1)  # first: none of those that follow is newer than the page
                pipeline.xrange(keys.ORDERS, min=f"({_text(after)}", count=_PAGE)
                newest, found = await pipeline.execute()
        except (exceptions.RedisError, *CONNECTION_LOST) as error:
            raise Unavailable(f"Redis does not answer: {error}") from error
        orders = [_kept(order_id, fields) for order_id, fields in found]
        return OrderPage(orders, _id(newest[0][0]) if newest else (0, 0), len(found) < _PAGE)


def heard(payload: bytes) -> Order:
    """The order that stands in a pub/sub payload; raises ValueError."""
    order_id, previous, order = payload[len(keys.ORDER) :].split(b" ", 2)
    return _order(order_id, previous, order)


def _kept(order_id: Any, fields: Any) -> Order:
    """An entry that is no order is one that can't be read: who follows must get past it."""
    try:
        return _order(order_id, fields[b"previous"], fields[b"order"])
    except (KeyError, ValueError):
        return Order(_id(order_id), (0, 0), b"")


def _order(order_id: Any, previous: Any, payload: Any) -> Order:
    return Order(_id(order_id), _id(previous), bytes(payload))


def _id(text: bytes) -> OrderId:
    ms, _, number = text.partition(b"-")
    return int(ms), int(number)


def _text(order_id: OrderId) -> str:
    return f"{order_id[0]}-{order_id[1]}"
