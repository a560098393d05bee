"""Clients of both encodings in one channel see the same, in one order.

And recover with the other encoding.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from typing import Any

import pytest
from centrifuge import Client, ReplyError, StreamPosition, SubscriptionEventHandler

from tests.support.stack import Stack
from tests.support.waiting import until

_LIMIT_S = 15.0
_COUNT = 40


class _Received(SubscriptionEventHandler):  # type: ignore[misc]  # the SDK has no types
    def __init__(self) -> None:
        self.publications: list[tuple[int, Any]] = []
        self.joined: set[str] = set()

    async def on_publication(self, ctx: Any) -> None:
        data = ctx.pub.data
        self.publications.append((ctx.pub.offset, json.loads(data) if isinstance(data, bytes) else data))

    async def on_join(self, ctx: Any) -> None:
        self.joined.add(ctx.info.user)


async def _client(stack: Stack, edge: int, user: str, *, protobuf: bool) -> Client:
    client = Client(stack.ws_urls[edge], token=stack.token(user), use_protobuf=protobuf)
    await client.connect()
    await client.ready(timeout=_LIMIT_S)
    return client


async def _subscribe(client: Client, channel: str, **options: Any) -> tuple[Any, _Received]:
    events = _Received()
    subscription = client.new_subscription(channel, events=events, **options)
    await subscription.subscribe()
    await subscription.ready(timeout=_LIMIT_S)
    return subscription, events


async def _leave(*clients: Client) -> None:
    """Disconnect, and wait until the SDK has closed its sockets.

    It does so in the background.
    """
    for client in clients:
        await client.disconnect()
    closing = [task for task in asyncio.all_tasks() if "_close_conn" in repr(task)]
    if closing:
        await asyncio.wait(closing, timeout=_LIMIT_S)


@pytest.mark.parametrize("namespace", ["chat", "live", "tick"])
async def test_both_encodings_see_the_same_in_one_order(stack: Stack, namespace: str) -> None:
    channel = f"{namespace}:both-{secrets.token_hex(4)}"
    clients = [
        await _client(stack, edge, f"user-{edge}-{protobuf}", protobuf=protobuf)
        for edge in (0, 1)
        for protobuf in (False, True)
    ]
    made = [await _subscribe(client, channel) for client in clients]

    async def publish(index: int) -> None:
        for number in range(_COUNT):
            value = {"by": index, "n": number, "text": "größe\n\u2028 😀"}
            await made[index][0].publish(json.dumps(value).encode() if index % 2 else value)

    await asyncio.gather(*map(publish, range(len(made))))
    await until(lambda: all(len(events.publications) >= _COUNT * len(made) for _, events in made))
    if namespace == "tick":  # no log and so no order of the whole channel, but one for each publisher
        for _, events in made:
            for index in range(len(made)):
                own = [data["n"] for _, data in events.publications if data["by"] == index]
                assert own == list(range(_COUNT))
    else:
        assert all(events.publications == made[0][1].publications for _, events in made)
        offsets = [offset for offset, _ in made[0][1].publications]
        assert offsets == list(range(offsets[0], offsets[0] + len(offsets)))
    await _leave(*clients)


@pytest.mark.parametrize("protobuf", [False, True])
async def test_a_position_is_good_in_the_other_encoding(stack: Stack, protobuf: bool) -> None:
    channel = f"chat:change-{secrets.token_hex(4)}"
    publisher = await _client(stack, 0, "alice", protobuf=not protobuf)
    feed, _ = await _subscribe(publisher, channel)
    first = await _client(stack, 1, "bob", protobuf=protobuf)
    await _subscribe(first, channel)
    position = await first.history(channel, limit=0)
    await _leave(first)
    values = [{"n": number} for number in range(_COUNT)]
    for value in values:
        await feed.publish(value if protobuf else json.dumps(value).encode())
    second = await _client(stack, 1, "bob", protobuf=not protobuf)

    async def since(_: Any) -> StreamPosition:
        return StreamPosition(offset=position.offset, epoch=position.epoch)

    _, events = await _subscribe(second, channel, recoverable=True, get_state=since)
    await until(lambda: len(events.publications) >= _COUNT)
    assert [data for _, data in events.publications] == values
    await _leave(publisher, second)


async def test_data_that_is_not_json_is_refused_where_the_namespace_wants_json(stack: Stack) -> None:
    client = await _client(stack, 0, "alice", protobuf=True)
    subscription, events = await _subscribe(client, f"chat:bytes-{secrets.token_hex(4)}")
    for data in (b"\x00\xff", b"1},", b"", b"{"):
        with pytest.raises(ReplyError) as error:
            await subscription.publish(data)
        assert error.value.code == 107
    await subscription.publish(b'{"sound": true}')
    await until(lambda: events.publications)
    assert events.publications[0][1] == {"sound": True}
    await _leave(client)
