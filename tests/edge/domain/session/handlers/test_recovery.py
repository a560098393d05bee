"""A client that gets what it missed page by page: nothing that goes wrong meanwhile leaves it without what is live."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from services.edge.domain.channels.log_reader import LogReader
from services.edge.domain.model import Publication
from services.edge.domain.session.node import Node
from services.edge.domain.session.session import Session
from tests.properties.manual_loop import ManualLoop
from tests.support.edge import OPEN, Client, Cluster, connected, settle

CHANNEL = "room"
MISSED = 8
AN_HOUR_S = 3_600.0


def in_no_time(test: Callable[[], Awaitable[None]]) -> None:
    with asyncio.Runner(loop_factory=ManualLoop) as runner:
        runner.run(test())  # type: ignore[arg-type]


def publish(cluster: Cluster, count: int = 1) -> None:
    for _ in range(count):
        top = cluster.bus.log(CHANNEL).top
        cluster.bus.append(CHANNEL, Publication(b"%d" % (top + 1)), "", "", 100)


async def coming_back(cluster: Cluster, node: Node, **wish: Any) -> Client:
    """A client that has missed more than its reply brings."""
    publish(cluster, MISSED)
    client = await connected(cluster, node)
    position = {"channel": CHANNEL, "recover": True, "recoverable": True, "epoch": cluster.bus.log(CHANNEL).epoch}
    await client.post(subscribe={**position, **wish})
    return client


def received(client: Client) -> list[int]:
    (reply,) = [line["subscribe"] for line in client.lines if "subscribe" in line]
    return [one["offset"] for one in [*reply["publications"], *client.publications(CHANNEL)]]


def test_a_log_that_can_not_be_read_for_an_hour_is_read_on_afterwards() -> None:
    async def test() -> None:
        cluster = Cluster(default=OPEN)
        node = cluster.edge(recovery_limit=3, ring_size=1)
        read = node.reader.page
        cut = asyncio.Event()

        async def page(*arguments: Any) -> list[Publication] | None:
            found = await read(*arguments)
            cluster.bus.down = not cut.is_set()  # behind the first page
            cut.set()
            return found

        node.reader.page = page  # type: ignore[method-assign,assignment]
        client = await coming_back(cluster, node)
        assert cluster.bus.down
        await asyncio.sleep(AN_HOUR_S)
        cluster.bus.down = False
        await asyncio.sleep(5)
        publish(cluster)
        await settle()
        assert received(client) == list(range(1, MISSED + 2))

    in_no_time(test)


def test_a_gap_whose_log_can_not_be_read_for_an_hour_is_closed_afterwards() -> None:
    async def test() -> None:
        cluster = Cluster(default=OPEN)
        node = cluster.edge()
        client = await connected(cluster, node)
        await client.call(subscribe={"channel": CHANNEL, "recoverable": True})
        broker = cluster.bus.brokers[0]
        broker.stalled = True
        publish(cluster)
        broker.stalled = False
        publish(cluster)  # the second is heard
        cluster.bus.down = True
        await asyncio.sleep(AN_HOUR_S)
        cluster.bus.down = False
        await asyncio.sleep(5)
        assert [one["offset"] for one in client.publications(CHANNEL)] == [1, 2]

    in_no_time(test)


async def test_who_can_not_get_the_rest_for_an_unforeseen_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(default=OPEN)
    node = cluster.edge(recovery_limit=3, ring_size=1)
    read = LogReader.page
    pages = 0

    async def page(*arguments: Any) -> list[Publication] | None:
        nonlocal pages
        pages += 1
        if pages > 1:
            raise ValueError("bytes that are no publication")
        return await read(*arguments)

    monkeypatch.setattr(LogReader, "page", page)
    client = await coming_back(cluster, node)
    await settle()
    assert [push["unsubscribe"]["code"] for push in client.pushes if "unsubscribe" in push] == [2500]
    assert not len(node.hub.channels[CHANNEL])


@pytest.mark.parametrize("recover", [False, True])
async def test_ones_own_join_comes_behind_the_reply(recover: bool) -> None:
    cluster = Cluster(default=OPEN)
    client = await coming_back(cluster, cluster.edge(recovery_limit=3, ring_size=1), recover=recover, join_leave=True)
    kinds = [next(iter(line.get("push", line).keys() - {"channel", "id"})) for line in client.lines]
    assert kinds.count("join") == 1
    assert kinds.index("join") > kinds.index("subscribe")


async def test_what_has_no_place_in_the_log_comes_while_the_rest_is_still_to_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(default=OPEN)
    node = cluster.edge(recovery_limit=3, ring_size=1)
    client = await connected(cluster, node)
    taken = asyncio.Event()

    async def until_taken(_: Session) -> None:
        await taken.wait()

    monkeypatch.setattr(Session, "until_replies_taken", until_taken)
    publish(cluster, MISSED)
    wish = {"channel": CHANNEL, "recover": True, "recoverable": True, "join_leave": True}
    await client.call(subscribe={**wish, "epoch": cluster.bus.log(CHANNEL).epoch})
    other = await connected(cluster, node)
    await other.call(subscribe={"channel": CHANNEL})
    cluster.bus.announce(CHANNEL, "", Publication(b'"not kept"'))
    cluster.bus.announce(CHANNEL, "", Publication(b'"not for it"', exclude_client=client.session.client))
    await other.hang_up()
    pushes = [
        push for push in client.pushes if push.get("join", {}).get("info", {}).get("client") != client.session.client
    ]
    assert [next(iter(push.keys() - {"channel"})) for push in pushes] == ["join", "pub", "leave"]
    taken.set()
    await settle()
    assert [one.get("offset", 0) for one in client.publications(CHANNEL)] == [0, *range(4, MISSED + 1)]
