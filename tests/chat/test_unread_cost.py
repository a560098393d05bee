"""A message, and what is unread, cost the same in groups of any size (C26).

Commands are counted by Redis, and requests by a proxy in front of DynamoDB, or by the database of SQLite.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis.asyncio

from services.persistence.chat.markers.record import Marker
from services.persistence.metrics import STORE_SECONDS
from tests.support import chat_calls
from tests.support.chat_calls import Replica, Site, dynamodb_site, sqlite_site
from tests.support.dynamodb_faults import dynamodb_faults
from tests.support.full import sized
from thalamus.chat.v1 import chat_pb2 as pb

SMALL = 10
LARGE = {"sqlite": sized(150, 10_000), "dynamodb": sized(25, 1_500)}  # moto is slow with much in a table
FOLLOWERS = {"sqlite": sized(300, 100_000), "dynamodb": sized(20, 5_000)}
MESSAGES = 12

_LEFT_OUT = {"cmdstat_info", "cmdstat_xtrim", "cmdstat_expire"}  # ours; a long log is cut; what is kept is renewed

Count = Callable[[], Counter[str]]


class Counted(NamedTuple):
    """A site of one replica, and what its store was asked so far."""

    store: str
    site: Site
    asked: Count


@pytest.fixture(params=["sqlite", "dynamodb"])
async def counted(
    request: pytest.FixtureRequest, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Counted]:
    options = pb.NamespaceOptions()
    options.CopyFrom(chat_calls.OPTIONS)
    options.group_max_members = 10_000
    monkeypatch.setattr(chat_calls, "OPTIONS", options)
    async with AsyncExitStack() as exits:
        if request.param == "dynamodb":
            proxy = exits.enter_context(dynamodb_faults(request.getfixturevalue("dynamodb"), seed=1))
            site = await exits.enter_async_context(dynamodb_site(redis_url, proxy.address, replicas=1))
            yield Counted(request.param, site, lambda: Counter(proxy.requests))
            return
        site = await exits.enter_async_context(sqlite_site(redis_url, tmp_path / "log.sqlite3", replicas=1))
        yield Counted(request.param, site, asked_of_sqlite)


def asked_of_sqlite() -> Counter[str]:
    """What SQLite did so far, by name."""
    (metric,) = STORE_SECONDS.collect()
    return Counter({one.labels["op"]: int(one.value) for one in metric.samples if one.name.endswith("_count")})


async def group(replica: Replica, members: int) -> str:
    settings = {"max_members": 10_000}
    made = await replica.call("owner", "conversations.create", settings=settings)
    channel = str(made["channel"])
    users = [f"m{number}" for number in range(members - 1)]
    await some_at_once(users, lambda user: replica.call("owner", "members.add", channel=channel, user=user))
    return channel


async def some_at_once(users: Sequence[str], work: Callable[[str], Awaitable[object]]) -> None:
    for start in range(0, len(users), 20):
        await asyncio.gather(*map(work, users[start : start + 20]))


async def open_conversation(replica: Replica, followers: int) -> str:
    """An open conversation that many have read in."""
    made = await replica.call("owner", "conversations.create", type="open", id="lobby")
    channel, epoch = str(made["channel"]), str(made["epoch"])
    users = [f"m{number}" for number in range(followers)]
    await some_at_once(users, lambda user: replica.chat.markers.merge(user, channel, epoch, Marker(0, 1)))
    return channel


@pytest.mark.timeout(sized(300, 3_600))
async def test_c26_a_message_and_what_is_unread_cost_the_same_for_any_size(
    counted: Counted, redis_conn: redis.asyncio.Redis
) -> None:
    site, (replica,) = counted.site, counted.site.replicas
    channels = [await group(replica, SMALL), await group(replica, LARGE[counted.store])]
    channels.append(await open_conversation(replica, FOLLOWERS[counted.store]))
    for channel in channels:
        await site.settle(channel)
    await replica.rest()  # from here on nothing is done but what is asked for

    async def spent() -> Counter[str]:
        stats: Any = await redis_conn.info("commandstats")
        commands = Counter({name: one["calls"] for name, one in stats.items() if name not in _LEFT_OUT})
        return commands + counted.asked()

    async def send(channel: str) -> None:
        await replica.call("owner", "messages.send", channel=channel, text="x", mention_all=True)

    async def ask(channel: str) -> None:
        places = await replica.chat.markers.of_user("m1", [channel])
        found = (await replica.chat.counts.of("m1", places))[channel]
        assert found.unread == found.mentions > 0

    costs: dict[str, list[Counter[str]]] = {}
    for name, work in {"message": send, "unread": ask, "message while somebody asks": send}.items():
        for channel in channels:
            await work(channel)  # the first time there may be something to load
            before = await spent()
            for _ in range(MESSAGES):
                await work(channel)
            costs.setdefault(name, []).append(await spent() - before)
    print(costs)
    for name, (small, *others) in costs.items():
        assert others == [small, small], f"{name}: {costs[name]}"
        assert small.total() >= MESSAGES
    assert costs["message"] == costs["message while somebody asks"]
    assert not {name for name in costs["unread"][0] if not name.startswith("cmdstat_")}, "the store is not asked"
