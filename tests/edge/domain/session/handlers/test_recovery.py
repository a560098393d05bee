"""A client that gets what it missed page by page.

Nothing that goes wrong meanwhile leaves it without what is live.
"""

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
        publication = Publication(b"%d" % (top + 1), time_ms=int(cluster.clock.unix * 1_000))
        cluster.bus.append(CHANNEL, publication, "", "", 100)


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


# Whether a client recovers, and with what.


@pytest.mark.parametrize(
    ("settings", "wish", "publications"),
    [
        ({}, {"offset": 0}, [1, 2, 3, 4, 5, 6, 7, 8]),
        ({}, {"offset": 6}, [7, 8]),
        ({}, {"offset": 8}, []),
        ({}, {"offset": 9}, None),
        ({}, {"offset": 6, "epoch": ""}, [7, 8]),
        ({}, {"offset": 6, "epoch": "another"}, None),
        ({"recovery_limit": 8, "recovery_total": 0}, {"offset": 0}, [1, 2, 3, 4, 5, 6, 7, 8]),
        ({"recovery_limit": 7, "recovery_total": 0}, {"offset": 0}, None),
        ({"recovery_limit": 3, "recovery_total": 7}, {"offset": 0}, None),
        ({"recovery_limit": 3, "recovery_total": 8}, {"offset": 0}, [1, 2, 3]),
        ({"recovery_limit": 3, "recovery_total": 8}, {"offset": 5}, [6, 7, 8]),
    ],
    ids=repr,
)
@pytest.mark.parametrize("ring_size", [1, 100], ids=["from Redis", "from the ring"])
async def test_a_client_recovers_what_it_missed_or_nothing(
    ring_size: int, settings: dict[str, int], wish: dict[str, Any], publications: list[int] | None
) -> None:
    cluster = Cluster(default=OPEN)
    node = cluster.edge(ring_size=ring_size, **settings)
    reader = await connected(cluster, node)
    await reader.call(subscribe={"channel": CHANNEL, "recoverable": True})  # so that the ring has what comes
    client = await coming_back(cluster, node, **wish)
    (reply,) = [line["subscribe"] for line in client.lines if "subscribe" in line]
    assert reply.get("recovered", False) == (publications is not None)
    assert [one["offset"] for one in reply.get("publications", [])] == (publications or [])
    publish(cluster)
    await settle()
    behind = wish["offset"] + len(publications) if publications is not None else MISSED
    assert [one["offset"] for one in client.publications(CHANNEL)] == list(range(behind + 1, MISSED + 2))


async def test_what_the_ring_has_is_read_from_nowhere() -> None:
    cluster = Cluster(default=OPEN)
    node = cluster.edge(ring_size=100)
    reader = await connected(cluster, node)
    await reader.call(subscribe={"channel": CHANNEL, "recoverable": True})
    reads = cluster.bus.brokers[0].reads
    client = await coming_back(cluster, node)
    assert received(client) == list(range(1, MISSED + 1))
    assert cluster.bus.brokers[0].reads == reads


@pytest.mark.parametrize(("stale", "recovered"), [(2, True), (3, False)])
async def test_a_read_that_began_before_the_client_joined_is_made_again(
    stale: int, recovered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three times at most; what it brings beyond the join is left to the pushes."""
    cluster = Cluster(default=OPEN)
    node = cluster.edge(ring_size=1)
    read = LogReader.missed
    reads = 0

    async def missed(*arguments: Any) -> Any:
        nonlocal reads
        reads += 1
        page = await read(*arguments)
        assert page is not None
        if reads > stale:
            return page
        return page._replace(publications=page.publications[:-1], top=page.top._replace(offset=MISSED - 1))

    monkeypatch.setattr(LogReader, "missed", missed)
    client = await coming_back(cluster, node)
    (reply,) = [line["subscribe"] for line in client.lines if "subscribe" in line]
    assert reads == 3
    assert reply.get("recovered", False) == recovered
    publish(cluster)
    assert [one["offset"] for one in client.publications(CHANNEL)] == [MISSED + 1]


async def test_a_log_that_lacks_one_of_them_recovers_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(default=OPEN)
    node = cluster.edge(ring_size=1)
    read = LogReader.missed

    async def missed(*arguments: Any) -> Any:
        page = await read(*arguments)
        assert page is not None
        return page._replace(publications=page.publications[1:])

    monkeypatch.setattr(LogReader, "missed", missed)
    client = await coming_back(cluster, node)
    (reply,) = [line["subscribe"] for line in client.lines if "subscribe" in line]
    assert "recovered" not in reply
    assert "publications" not in reply


# While the rest is still to come.


async def waiting(cluster: Cluster, node: Node) -> Client:
    """A client that came back and has not taken its replies.

    The rest of what it missed waits.
    """
    client = await connected(cluster, node)
    read = node.reader.page

    async def first_page(*arguments: Any) -> list[Publication] | None:
        node.reader.page = read  # type: ignore[method-assign]
        client.connection.replies_wait = True
        return await read(*arguments)

    node.reader.page = first_page  # type: ignore[method-assign,assignment]
    publish(cluster, MISSED - cluster.bus.log(CHANNEL).top)
    wish = {"channel": CHANNEL, "recover": True, "recoverable": True, "epoch": cluster.bus.log(CHANNEL).epoch}
    await client.call(subscribe=wish)
    return client


async def taken(client: Client) -> None:
    client.connection.replies_wait = False
    client.session.replies_taken()
    await settle()


async def test_no_page_is_sent_before_the_replies_are_taken() -> None:
    cluster = Cluster(default=OPEN)
    client = await waiting(cluster, cluster.edge(recovery_limit=3, ring_size=1))
    publish(cluster)
    assert received(client) == [1, 2, 3]
    await taken(client)
    assert received(client) == list(range(1, MISSED + 2))


async def test_a_page_that_was_read_waits_for_the_replies_too() -> None:
    cluster = Cluster(default=OPEN)
    node = cluster.edge(recovery_limit=3, ring_size=1)
    client = await waiting(cluster, node)
    read = node.reader.page

    async def page(*arguments: Any) -> list[Publication] | None:
        found = await read(*arguments)
        client.connection.replies_wait = True  # a reply of another channel
        return found

    node.reader.page = page  # type: ignore[method-assign,assignment]
    await taken(client)
    assert received(client) == [1, 2, 3]
    node.reader.page = read  # type: ignore[method-assign]
    await taken(client)
    assert received(client) == list(range(1, MISSED + 1))


@pytest.mark.parametrize("how", ["unsubscribe", "hang up"])
async def test_who_leaves_meanwhile_gets_no_page(how: str) -> None:
    cluster = Cluster(default=OPEN)
    node = cluster.edge(recovery_limit=3, ring_size=1)
    client = await waiting(cluster, node)
    if how == "unsubscribe":
        client.session.end_subscription(client.session.subscriptions[CHANNEL], 2000)
    else:
        await client.hang_up()
    await settle()
    assert how != "hang up" or asyncio.all_tasks() == {asyncio.current_task()}, "nothing waits for it any more"
    before, reads = list(client.lines), cluster.bus.brokers[0].reads
    await taken(client)
    assert client.lines == before
    assert cluster.bus.brokers[0].reads == reads, "nor is one read for it"


@pytest.mark.parametrize(("more", "told"), [(3, False), (4, True)])
async def test_who_falls_too_far_behind_meanwhile_is_told(more: int, told: bool) -> None:
    cluster = Cluster(default=OPEN)
    client = await waiting(cluster, cluster.edge(recovery_limit=3, recovery_total=MISSED, ring_size=1))
    publish(cluster, more)  # it has 3 of 8
    await taken(client)
    assert [push["unsubscribe"]["code"] for push in client.pushes if "unsubscribe" in push] == [2500] * told
    assert received(client) == ([1, 2, 3] if told else list(range(1, MISSED + more + 1)))


async def test_whose_rest_was_removed_meanwhile_is_told() -> None:
    cluster = Cluster(default=OPEN)
    client = await waiting(cluster, cluster.edge(recovery_limit=3, ring_size=1))
    del cluster.bus.log(CHANNEL).entries[:5]
    await taken(client)
    assert [push["unsubscribe"]["code"] for push in client.pushes if "unsubscribe" in push] == [2500]
    assert not client.publications(CHANNEL)


async def test_whose_first_page_can_not_be_had_begins_at_the_newest_position(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(default=OPEN)

    async def none(*_: Any) -> None:
        return None

    monkeypatch.setattr(LogReader, "page", none)
    client = await coming_back(cluster, cluster.edge(recovery_limit=3, ring_size=1))
    (reply,) = [line["subscribe"] for line in client.lines if "subscribe" in line]
    assert "recovered" not in reply
    assert reply["offset"] == MISSED
    publish(cluster)
    await settle()
    assert [one["offset"] for one in client.publications(CHANNEL)] == [MISSED + 1]
    assert not [push for push in client.pushes if "unsubscribe" in push]
