"""What subscribers see of a channel, beside its roster, whatever its clients do.

From the edge's entries to Redis and back, with a real presence.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pytest
import redis.asyncio

from services.edge.adapters.presence_client import PresenceClient
from services.edge.domain.channels.channel import Subscription
from services.edge.domain.model import ClientInfo
from services.edge.domain.presence.client_presence import ClientPresence, MadeBy
from services.shared.hotlog import keys
from services.shared.namespaces import Mode, Namespace
from tests.presence.test_edge_client import CHANNEL
from tests.presence.test_edge_connections import client, server
from thalamus.common.v1 import common_pb2

__all__ = ["client", "server"]  # fixtures
CHAT = Namespace(name="chat", presence=True, join_leave=Mode.FORCE, presence_grace_s=0.0)
STEPS = 60
Seen = dict[str, tuple[bytes, bytes]]  # client → its conn_info and chan_info


@dataclass
class Person:
    """A client, and its subscription."""

    name: str
    presence: ClientPresence
    subscription: Subscription | None = None

    def step(self, rng: random.Random, number: int) -> None:
        """Do something at random."""
        match rng.choice(["enter", "update", "leave", "subscribe", "unsubscribe", "rename"]):
            case "enter":
                data = rng.choice([b"", b"1", b'{"a":1}'])
                self.presence.enter(CHANNEL, CHAT, MadeBy.CLIENT, data, self.subscription)
            case "update" if self.presence.get(CHANNEL):
                self.presence.update(CHANNEL, b'{"b":%d}' % number, replace=rng.random() < 0.5)
            case "leave":
                self.presence.leave(CHANNEL)
            case "subscribe" if self.subscription is None:
                info = ClientInfo(self.name, self.name, b"", rng.choice([b"", b'{"g":1}']))
                made: Any = SimpleNamespace(channel=CHANNEL, info=info, announces=True)
                self.subscription = cast(Subscription, made)
                self.presence.subscribed(CHAT, self.subscription, enters=rng.random() < 0.7)
            case "unsubscribe" if self.subscription is not None:
                over, self.subscription = self.subscription, None
                self.presence.subscription_over(CHANNEL, over, lambda: rng.random() < 0.5)
            case "rename":
                self.presence.set_who(ClientInfo(self.name, self.name, b"%d" % number))


def take(seen: Seen, payload: bytes) -> None:
    """Set clients by joins and updates, and remove them by leaves."""
    if payload[:1] in (keys.JOINS, keys.UPDATES):
        for info in common_pb2.ClientInfos.FromString(payload[1:]).infos:
            seen[info.client] = (info.conn_info, info.chan_info)
    else:
        seen.pop(common_pb2.ClientInfo.FromString(payload[1:]).client, None)


@pytest.mark.parametrize("seed", range(8))
async def test_who_sets_clients_by_joins_and_removes_them_by_leaves_sees_the_roster(
    client: PresenceClient, redis_conn: redis.asyncio.Redis, seed: int
) -> None:
    rng = random.Random(seed)
    people = [Person(name, ClientPresence(client)) for name in ("ann", "bob", "cy", "dee")]
    for one in people:
        one.presence.set_who(ClientInfo(one.name, one.name))
    seen: Seen = {}
    async with redis_conn.pubsub() as pubsub:
        await pubsub.subscribe(keys.pub(CHANNEL))
        await pubsub.get_message(timeout=60)  # the confirmation
        for number in range(STEPS):
            rng.choice(people).step(rng, number)
            if rng.random() < 0.2:
                await asyncio.sleep(0.004)  # some changes go together, some one by one
        for one in people:
            assert await client.written(CHANNEL, one.name)
        while (message := await pubsub.get_message(ignore_subscribe_messages=True, timeout=0.2)) is not None:
            take(seen, message["data"])
    assert seen == {info.client: (info.conn_info, info.chan_info) for info in await client.members(CHANNEL)}
    assert set(seen) == {one.name for one in people if one.presence.get(CHANNEL)}
