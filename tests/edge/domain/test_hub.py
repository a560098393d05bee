"""Open channels: what is opened, repaired, told and closed.

Real sessions; logs and pub/sub in memory.

Rules have the numbers of the module.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.edge.domain.model import ClientInfo, HistoryPage, Publication
from services.edge.domain.session.node import Node
from services.edge.domain.timings import DELIVERY_SECONDS
from services.shared.errors import Unavailable
from services.shared.namespaces import Durability, Mode, Namespace
from tests.support.edge import OPEN, Client, Cluster, connected, replace_namespace, settle
from tests.support.memory import MemoryBroker, MemoryLog

FORCED = replace_namespace(OPEN, recovery=Mode.FORCE)
STORED = replace_namespace(FORCED, durability=Durability.STORED)
PLAIN = replace_namespace(OPEN, durability=Durability.NONE, recovery=Mode.OFF, positioning=Mode.OFF)
CHANNEL = "a"
both = pytest.mark.parametrize("namespace", [FORCED, STORED], ids=["hot", "stored"])


class Site:
    """One edge and its pub/sub; publications come into the log from elsewhere."""

    def __init__(self, namespace: Namespace = FORCED, **settings: Any) -> None:
        self.cluster = Cluster(default=namespace)
        self.node: Node = self.cluster.edge(commands_per_s=0, **settings)
        self.namespace = self.cluster.namespaces.find(CHANNEL) or namespace
        assert isinstance(self.node.broker, MemoryBroker)
        self.broker = self.node.broker
        self.hub = self.node.hub

    @property
    def log(self) -> MemoryLog:
        return self.cluster.bus.log(CHANNEL)

    def publish(self, *numbers: int, lost: bool = False) -> None:
        """Into the log; `lost`: pub/sub does not bring it here."""
        self.broker.stalled = lost
        for number in numbers:
            publication = Publication(b"%d" % number, time_ms=int(self.cluster.clock.unix * 1_000))
            self.cluster.bus.append(CHANNEL, publication, "", "", 1_000)
        self.broker.stalled = False

    async def subscriber(self, user: str = "ann", **request: Any) -> Client:
        client = await connected(self.cluster, self.node, user)
        await client.call(subscribe={"channel": CHANNEL, **request})
        return client

    def hold_reads(self) -> asyncio.Event:
        """Reads of the log wait for the event."""
        go, read = asyncio.Event(), self.broker.read

        async def held(channel: str, **options: Any) -> HistoryPage | None:
            await go.wait()
            return await read(channel, **options)

        self.broker.read = held  # type: ignore[method-assign]
        return go


def got(client: Client) -> list[Any]:
    return [one["data"] for one in client.publications(CHANNEL)]


async def recovered(site: Site, user: str, epoch: str) -> list[Any]:
    """What a client gets that has seen nothing yet."""
    client = await connected(site.cluster, site.node, user)
    reply = await client.call(subscribe={"channel": CHANNEL, "recover": True, "offset": 0, "epoch": epoch})
    assert reply["recovered"]
    return [one["data"] for one in reply["publications"]]


def gaps(client: Client) -> list[int]:
    return [push["unsubscribe"]["code"] for push in client.pushes if "unsubscribe" in push]


# Rule 1: a channel is opened once, and nothing is missed meanwhile.


@both
async def test_rule_1_a_channel_is_opened_once_however_many_wait(namespace: Namespace) -> None:
    site = Site(namespace)
    calls: list[str] = []
    subscribe = site.broker.subscribe

    async def counted(channel: str) -> None:
        calls.append(channel)
        await asyncio.sleep(0)
        await subscribe(channel)

    site.broker.subscribe = counted  # type: ignore[method-assign]
    opened = await asyncio.gather(*(site.hub.open(CHANNEL, site.namespace) for _ in range(5)))
    opened.append(await site.hub.open(CHANNEL, site.namespace))
    assert calls == [CHANNEL]
    assert len(set(map(id, opened))) == len(site.hub) == 1


@both
async def test_rule_1_what_comes_between_the_subscription_and_the_newest_position_is_handed_out_once(
    namespace: Namespace,
) -> None:
    site = Site(namespace)
    site.publish(1)
    go, in_redis = asyncio.Event(), site.node.reader.top

    async def held(*arguments: Any) -> Any:
        found = await in_redis(*arguments)
        await go.wait()
        return found

    site.node.reader.top = held  # type: ignore[method-assign, assignment]
    opening = asyncio.create_task(site.hub.open(CHANNEL, site.namespace))
    await settle()
    site.publish(2, 3)
    go.set()
    channel = await opening
    assert channel.log is not None
    assert channel.log.delivered == 3


async def test_rule_1_a_channel_without_a_log_has_no_position() -> None:
    site = Site(PLAIN)
    assert (await site.hub.open(CHANNEL, site.namespace)).log is None
    assert not site.cluster.bus.logs


@both
async def test_a_channel_that_can_not_be_opened_is_told_and_leaves_no_subscription(namespace: Namespace) -> None:
    site = Site(namespace)
    top = site.node.reader.top

    async def fails(*_: Any) -> Any:
        raise Unavailable("away")

    site.node.reader.top = fails  # type: ignore[method-assign, assignment]
    with pytest.raises(Unavailable):
        await site.hub.open(CHANNEL, site.namespace)
    await settle()
    assert (len(site.hub), site.broker.subscribed) == (0, set())
    site.node.reader.top = top  # type: ignore[method-assign]
    await site.hub.open(CHANNEL, site.namespace)
    assert site.broker.subscribed == {CHANNEL}


@both
async def test_a_reconnect_while_a_channel_is_opened_costs_nothing(namespace: Namespace) -> None:
    site = Site(namespace)
    site.publish(1)
    top = site.node.reader.top

    async def lost_meanwhile(*arguments: Any) -> Any:
        found = await top(*arguments)
        site.publish(2, lost=True)
        site.hub.reconnected()
        return found

    site.node.reader.top = lost_meanwhile  # type: ignore[method-assign, assignment]
    channel = await site.hub.open(CHANNEL, site.namespace)
    await settle()
    assert channel.log is not None
    assert channel.log.delivered == 2


async def test_joining_a_channel_that_was_closed_meanwhile_is_refused() -> None:
    site = Site()
    client = await site.subscriber()
    channel = site.hub.channels[CHANNEL]
    (subscription,) = channel.subscriptions
    site.hub.was_reset(CHANNEL, "another")
    with pytest.raises(Unavailable):
        site.hub.join(channel, subscription)
    site.hub.leave(subscription)  # nothing is left to leave
    assert gaps(client) == [2500]


async def test_a_channel_opens_without_a_repair_where_pubsub_was_not_reconnected_meanwhile() -> None:
    site = Site()
    site.publish(1)
    await site.hub.open(CHANNEL, site.namespace)
    await settle()
    assert site.broker.reads == 0


async def test_what_comes_while_a_channel_is_opened_is_bounded() -> None:
    site = Site(join_buffer_size=2)
    go, subscribe = asyncio.Event(), site.broker.subscribe

    async def held(channel: str) -> None:
        await subscribe(channel)
        await go.wait()

    site.broker.subscribe = held  # type: ignore[method-assign]
    opening = asyncio.create_task(site.hub.open(CHANNEL, PLAIN))
    await settle()
    for number in (1, 2, 3):
        site.hub.publication(CHANNEL, "", Publication(b"%d" % number))
    received = site.hub.publications_received
    go.set()
    await opening
    assert site.hub.publications_received - received == 2, "the third was dropped"


async def test_a_channel_that_failed_to_open_keeps_nothing_of_what_comes_afterwards() -> None:
    site = Site()
    site.cluster.bus.down = True
    with pytest.raises(Unavailable):
        await site.hub.open(CHANNEL, site.namespace)
    site.cluster.bus.down = False
    site.hub.publication(CHANNEL, "epoch1", Publication(b"7", offset=7))
    channel = await site.hub.open(CHANNEL, site.namespace)
    assert channel.log is not None
    assert channel.log.delivered == 0


@pytest.mark.parametrize(
    ("durability", "options", "kept"),
    [
        (Durability.HOT, {"history_size": 2}, 2),
        (Durability.HOT, {"history_size": 100}, 4),
        (Durability.STORED, {"history_size": 2}, 4),
        (Durability.STORED, {"retention_messages": 3}, 3),
        (Durability.STORED, {"retention_messages": 9}, 4),
    ],
    ids=["hot-small", "hot-large", "stored", "retention-small", "retention-large"],
)
async def test_the_ring_of_a_hot_log_is_no_larger_than_the_log(
    durability: Durability, options: dict[str, Any], kept: int
) -> None:
    site = Site(replace_namespace(FORCED, durability=durability, **options), ring_size=4)
    await site.subscriber()
    site.publish(*range(1, 9))
    log = site.hub.channels[CHANNEL].log
    assert log is not None
    assert [log.since(8 - count, site.cluster.clock.unix) is not None for count in (kept, kept + 1)] == [True, False]


@pytest.mark.parametrize(("durability", "kept"), [(Durability.HOT, False), (Durability.STORED, True)])
async def test_the_ring_of_a_hot_log_is_no_older_than_the_log(durability: Durability, kept: bool) -> None:
    site = Site(replace_namespace(FORCED, durability=durability, history_ttl_s=10))
    await site.subscriber()
    site.publish(1)
    log = site.hub.channels[CHANNEL].log
    assert log is not None
    assert log.since(0, site.cluster.clock.unix + 9) is not None
    assert (log.since(0, site.cluster.clock.unix + 11) is not None) == kept


async def test_the_ring_of_a_stored_log_gives_nothing_that_is_older_than_its_retention() -> None:
    site = Site(replace_namespace(FORCED, durability=Durability.STORED, retention_days=2))
    await site.subscriber()
    site.publish(1)
    log = site.hub.channels[CHANNEL].log
    assert log is not None
    assert log.since(0, site.cluster.clock.unix + 2 * 86_400 - 10) is not None
    assert log.since(0, site.cluster.clock.unix + 2 * 86_400 + 10) is None


# Rules 2 to 4: repairs.


@both
async def test_rule_2_a_jump_in_the_offsets_is_repaired_in_order(namespace: Namespace) -> None:
    site = Site(namespace)
    client = await site.subscriber()
    site.publish(1)
    site.publish(2, 3, lost=True)
    site.publish(4)
    await settle()
    assert got(client) == [1, 2, 3, 4]
    assert (site.hub.gaps, site.hub.resyncs, gaps(client)) == (1, 0, [])


@pytest.mark.parametrize("lost", [False, True], ids=["by pub/sub", "by a repair"])
async def test_what_was_erased_is_had_from_the_log_alone_behind_what_erased_it(lost: bool) -> None:
    """C32: the ring has nothing of before, and who recovers gets all of the log."""
    site = Site(STORED, recovery_limit=100)
    first = await site.subscriber()
    site.publish(1, 2, 3)
    await settle()
    epoch = site.log.epoch
    entries = site.log.entries
    entries[1] = Publication(b"0", offset=2, time_ms=entries[1].time_ms)
    reads = site.node.reader.reads
    assert (await recovered(site, "eve", epoch), site.node.reader.reads) == ([1, 2, 3], reads), "nobody has told it"
    site.broker.stalled = lost
    site.cluster.bus.append(CHANNEL, Publication(b"4", flags=4, time_ms=entries[2].time_ms), "", "", 1_000)
    site.broker.stalled = False
    site.publish(5)
    await settle()
    assert got(first) == [1, 2, 3, 4, 5]
    assert await recovered(site, "bob", epoch) == [1, 0, 3, 4, 5]
    assert site.node.reader.reads > reads


@both
async def test_rule_2_a_reconnect_of_pubsub_repairs_every_channel(namespace: Namespace) -> None:
    site = Site(namespace)
    client = await site.subscriber()
    site.publish(1, 2, lost=True)
    await settle()
    assert got(client) == []
    site.hub.reconnected()
    await settle()
    assert got(client) == [1, 2]


@both
async def test_rule_2_a_quiet_channel_is_compared_and_an_active_one_only_the_next_time(namespace: Namespace) -> None:
    site = Site(namespace)
    client = await site.subscriber()
    site.publish(1)
    site.publish(2, lost=True)
    site.hub.check_tops()
    await settle()
    assert got(client) == [1]
    site.hub.check_tops()
    await settle()
    assert got(client) == [1, 2]


async def test_rule_2_a_comparison_that_redis_does_not_answer_is_made_the_next_time() -> None:
    site = Site()
    client = await site.subscriber()
    site.publish(1, lost=True)
    site.cluster.bus.down = True
    site.hub.check_tops()
    await settle()
    site.cluster.bus.down = False
    assert got(client) == []
    site.hub.check_tops()
    await settle()
    assert got(client) == [1]


async def test_one_comparison_runs_at_a_time_and_a_channel_that_is_level_is_not_read() -> None:
    site = Site()
    await site.subscriber()
    asked, go, tops = 0, asyncio.Event(), site.broker.tops

    async def held(channels: Any) -> Any:
        nonlocal asked
        asked += 1
        await go.wait()
        return await tops(channels)

    site.broker.tops = held  # type: ignore[method-assign]
    reads = site.broker.reads
    for _ in range(3):
        site.hub.check_tops()
        await settle()
    assert asked == 1
    go.set()
    await settle()
    site.hub.check_tops()
    await settle()
    assert (asked, site.broker.reads) == (2, reads)


async def test_rule_3_one_repair_runs_per_channel_and_reads_once_more_if_asked_meanwhile() -> None:
    site = Site()
    client = await site.subscriber()
    go = site.hold_reads()
    reads = site.broker.reads
    site.publish(1, lost=True)
    for _ in range(4):
        site.hub.reconnected()
        await settle()
    site.publish(2, lost=True)
    go.set()
    await settle()
    assert got(client) == [1, 2]
    assert site.broker.reads - reads <= 2


async def test_rule_4_a_read_that_fails_is_repeated_until_it_succeeds() -> None:
    site = Site()
    client = await site.subscriber()
    site.publish(1, lost=True)
    site.cluster.bus.down = True
    site.hub.reconnected()
    await settle()
    site.cluster.bus.down = False
    async with asyncio.timeout(30):
        while got(client) != [1]:
            await asyncio.sleep(0.02)
    assert gaps(client) == []


async def test_a_repair_hands_out_what_is_readable_and_reads_on_until_the_channel_is_level() -> None:
    site = Site()
    client = await site.subscriber()
    read, calls = site.broker.read, 0

    async def behind(channel: str, **options: Any) -> HistoryPage | None:
        nonlocal calls
        calls += 1
        found = await read(channel, **options)
        if found is None or calls > 4:
            return found
        return HistoryPage(found.publications[:1], found.top._replace(offset=1))

    site.publish(1, 2, lost=True)
    site.broker.read = behind  # type: ignore[method-assign]
    site.publish(3)
    async with asyncio.timeout(30):
        while got(client) != [1, 2, 3]:
            await asyncio.sleep(0.01)
    assert gaps(client) == []


@both
async def test_catching_up_repairs_at_once_and_says_if_it_can_not(namespace: Namespace) -> None:
    site = Site(namespace)
    client = await site.subscriber()
    site.publish(1, lost=True)
    await site.hub.catch_up(site.hub.channels[CHANNEL], 1.0)
    assert got(client) == [1]
    site.cluster.bus.down = True
    with pytest.raises(Unavailable):
        await site.hub.catch_up(site.hub.channels[CHANNEL], 0.01)


async def reopened_during_a_repair(site: Site) -> tuple[Client, asyncio.Event]:
    """A client of a channel that was closed and opened again during a repair.

    The repair of the closed one still reads.
    """
    first = await site.subscriber()
    site.publish(1, lost=True)
    go = site.hold_reads()
    site.hub.reconnected()
    await settle()
    await first.call(unsubscribe={"channel": CHANNEL})
    await site.cluster.advance(2.0)
    assert len(site.hub) == 0
    return await site.subscriber("bob"), go


async def test_rule_3_a_repair_asked_for_while_one_of_the_closed_channel_runs_begins_after_it() -> None:
    site = Site(channel_linger_s=1.0)
    client, go = await reopened_during_a_repair(site)
    site.publish(2, lost=True)
    site.hub.reconnected()
    await settle()
    assert got(client) == []
    go.set()
    await settle()
    assert got(client) == [2]


async def test_rule_3_nobody_asked_nothing_is_repaired_after_that_of_a_closed_channel() -> None:
    site = Site(channel_linger_s=1.0)
    client, go = await reopened_during_a_repair(site)
    reads = site.broker.reads
    go.set()
    await settle()
    assert (site.broker.reads - reads, got(client), gaps(client)) == (1, [], [])


async def test_catching_up_waits_for_the_repair_of_the_channel_that_is_open_now() -> None:
    site = Site(channel_linger_s=1.0)
    client, go = await reopened_during_a_repair(site)
    site.publish(2, lost=True)
    catching_up = asyncio.create_task(site.hub.catch_up(site.hub.channels[CHANNEL], 1.0))
    await settle()
    assert not catching_up.done()
    go.set()
    await catching_up
    assert got(client) == [2]


async def test_a_comparison_leaves_a_channel_alone_that_was_opened_again_meanwhile() -> None:
    site = Site(channel_linger_s=1.0)
    client = await site.subscriber()
    go, tops = asyncio.Event(), site.broker.tops

    async def held(channels: Any) -> Any:
        found = await tops(channels)
        await go.wait()
        return found

    site.broker.tops = held  # type: ignore[method-assign]
    site.hub.check_tops()
    await settle()
    await client.call(unsubscribe={"channel": CHANNEL})
    await site.cluster.advance(2.0)
    await client.call(subscribe={"channel": CHANNEL})
    site.publish(1)
    reads = site.broker.reads
    go.set()
    await settle()
    assert (site.broker.reads, got(client)) == (reads, [1])


@both
async def test_a_comparison_asks_for_what_is_readable_of_each_log(namespace: Namespace) -> None:
    site = Site(namespace)
    await site.subscriber()
    asked: list[Any] = []
    tops = site.broker.tops

    async def noted(channels: Any) -> Any:
        asked.extend(channels)
        return await tops(channels)

    site.broker.tops = noted  # type: ignore[method-assign]
    site.hub.check_tops()
    await settle()
    assert asked == [(CHANNEL, namespace is STORED)]


# Rules 5 and 6: what can't be repaired is told.


async def lose(site: Site, how: str) -> None:
    site.publish(1, 2, 3, lost=True)
    if how == "a hole":
        site.log.entries = site.log.entries[1:]
    elif how == "another epoch":
        site.log.epoch = "another"
    elif how == "too much":
        site.publish(*range(4, 20), lost=True)
    site.hub.reconnected()
    await settle()


losses = pytest.mark.parametrize("how", ["a hole", "another epoch", "too much"])


@both
@losses
async def test_rule_5_what_the_log_can_not_give_is_told_to_each_subscriber_once(namespace: Namespace, how: str) -> None:
    site = Site(namespace, recovery_limit=10)
    clients = [await site.subscriber(user) for user in ("ann", "bob")]
    await lose(site, how)
    for client in clients:
        assert (gaps(client), got(client), client.closed) == ([2500], [], None)
    assert (len(site.hub), site.hub.resyncs, site.broker.subscribed) == (0, 1, set())
    await clients[0].call(subscribe={"channel": CHANNEL})
    site.publish(99)
    assert (got(clients[0]), got(clients[1])) == ([99], [])


async def test_rule_5_a_server_side_subscription_ends_with_its_connection() -> None:
    site = Site()
    client = Client(site.cluster, site.node)
    await client.call(connect={"token": site.cluster.token("ann", channels=[CHANNEL])})
    await lose(site, "a hole")
    assert client.closed is not None
    assert client.closed[0] == 3010


async def test_rule_5_who_asked_for_no_position_is_put_on_the_channel_again() -> None:
    site = Site(OPEN)
    client = await site.subscriber()
    await lose(site, "a hole")
    assert gaps(client) == []
    site.publish(99)
    assert got(client) == [99]


async def test_rule_5_the_start_of_another_log_is_told_and_that_of_the_same_is_not() -> None:
    site = Site()
    client = await site.subscriber()
    site.hub.was_reset(CHANNEL, site.log.epoch)
    site.hub.was_reset("another channel", "e")
    assert gaps(client) == []
    site.hub.was_reset(CHANNEL, "another")
    assert gaps(client) == [2500]


async def test_a_publication_of_another_epoch_is_not_handed_out() -> None:
    site = Site()
    client = await site.subscriber()
    site.hub.publication(CHANNEL, "another", Publication(b"1", offset=1))
    assert (got(client), gaps(client)) == ([], [2500])


@pytest.mark.parametrize(("namespace", "new"), [(FORCED, True), (STORED, False)], ids=["hot", "stored"])
async def test_rule_6_a_hot_log_that_went_back_gets_another_epoch_first(namespace: Namespace, new: bool) -> None:
    site = Site(namespace)
    client = await site.subscriber()
    site.publish(1, 2, 3)
    epoch = site.log.epoch
    site.log.entries, site.log.top = site.log.entries[:1], 1
    site.hub.reconnected()
    await settle()
    assert gaps(client) == [2500]
    assert (site.log.epoch != epoch) == new


async def test_rule_6_a_hot_log_with_a_hole_keeps_its_epoch() -> None:
    site = Site()
    client = await site.subscriber()
    epoch = site.log.epoch
    await lose(site, "a hole")
    assert (gaps(client), site.log.epoch) == ([2500], epoch)


async def test_rule_6_a_log_that_has_begun_anew_keeps_its_new_epoch() -> None:
    site = Site()
    client = await site.subscriber()
    site.publish(1, 2)
    site.log.epoch, site.log.entries, site.log.top = "another", [], 0
    site.hub.reconnected()
    await settle()
    assert (gaps(client), site.log.epoch) == ([2500], "another")


async def test_rule_6_a_log_that_can_not_be_asked_is_told_as_a_gap_all_the_same() -> None:
    site = Site()
    client = await site.subscriber()
    site.publish(1, 2)
    site.log.entries, site.log.top = [], 1

    async def away(_: str) -> Any:
        raise Unavailable("away")

    site.broker.top = away  # type: ignore[method-assign, assignment]
    site.hub.reconnected()
    await settle()
    assert gaps(client) == [2500]


# Rule 7: the end of a channel.


async def test_rule_7_a_channel_without_subscribers_is_closed_after_its_linger_time() -> None:
    site = Site(channel_linger_s=1.0)
    client = await site.subscriber()
    site.publish(1)
    await client.call(unsubscribe={"channel": CHANNEL})
    await site.cluster.advance(0.8)
    assert len(site.hub) == 1
    await site.hub.open(CHANNEL, site.namespace)  # whoever opens it has the whole time to join
    await site.cluster.advance(0.8)
    assert len(site.hub) == 1
    await site.cluster.advance(0.4)
    assert (len(site.hub), site.broker.subscribed, site.hub.deliveries) == (0, set(), 1)


async def test_rule_7_a_channel_that_is_joined_again_stays() -> None:
    site = Site(channel_linger_s=1.0)
    client = await site.subscriber()
    await client.call(unsubscribe={"channel": CHANNEL})
    await site.cluster.advance(0.5)
    await client.call(subscribe={"channel": CHANNEL})
    await site.cluster.advance(5.0)
    site.publish(1)
    assert got(client) == [1]


async def test_rule_7_a_channel_that_nobody_joined_is_closed_too() -> None:
    site = Site(channel_linger_s=1.0)
    await site.hub.open(CHANNEL, site.namespace)
    await site.cluster.advance(0.8)
    assert len(site.hub) == 1
    await site.cluster.advance(0.4)
    assert (len(site.hub), site.broker.subscribed) == (0, set())


async def test_rule_7_one_of_two_who_leaves_closes_no_channel() -> None:
    site = Site(channel_linger_s=1.0)
    first, second = await site.subscriber(), await site.subscriber("bob")
    await first.call(unsubscribe={"channel": CHANNEL})
    await site.cluster.advance(2.0)
    site.publish(1)
    assert (got(second), len(site.hub)) == ([1], 1)


async def test_rule_7_opening_a_channel_with_subscribers_begins_no_linger_time() -> None:
    site = Site(channel_linger_s=1.0)
    client = await site.subscriber()
    await site.hub.open(CHANNEL, site.namespace)
    await site.cluster.advance(2.0)
    site.publish(1)
    assert got(client) == [1]


@pytest.mark.parametrize("again", ["opened", "opening"])
async def test_rule_7_a_channel_that_is_opened_again_keeps_its_subscription(again: str) -> None:
    site = Site(channel_linger_s=1.0)
    await site.hub.open(CHANNEL, site.namespace)
    site.cluster.clock.now += 1.0
    site.hub.close_unused(site.cluster.clock.now)  # the unsubscribe is only begun
    assert len(site.hub) == 0
    if again == "opening":
        go, top = asyncio.Event(), site.node.reader.top

        async def held(*arguments: Any) -> Any:
            await go.wait()
            return await top(*arguments)

        site.node.reader.top = held  # type: ignore[method-assign, assignment]
        opening = asyncio.create_task(site.hub.open(CHANNEL, site.namespace))
        await settle()
        go.set()
        await opening
    else:
        site.hub.channels[CHANNEL] = await site.hub.open(CHANNEL, site.namespace)
    await settle()
    assert site.broker.subscribed == {CHANNEL}


async def test_deliveries_are_those_of_open_and_of_closed_channels() -> None:
    site = Site(channel_linger_s=1.0)
    client, other = await site.subscriber(), await site.subscriber("bob")
    site.publish(1, 2)
    assert site.hub.deliveries == 4
    for one in (client, other):
        await one.call(unsubscribe={"channel": CHANNEL})
    await site.cluster.advance(2.0)
    await client.call(subscribe={"channel": CHANNEL})
    site.publish(3)
    assert site.hub.deliveries == 5
    site.hub.was_reset(CHANNEL, "another")
    assert (len(site.hub), site.hub.deliveries) == (0, 5)


async def test_a_repair_of_a_channel_that_is_closed_meanwhile_hands_out_nothing() -> None:
    site = Site()
    client = await site.subscriber()
    site.publish(1, lost=True)
    go = site.hold_reads()
    site.hub.reconnected()
    await settle()
    await client.call(unsubscribe={"channel": CHANNEL})
    await site.cluster.advance(2.0)
    go.set()
    await settle()
    assert (len(site.hub), got(client)) == (0, [])


async def test_an_unsubscribe_that_fails_breaks_nothing() -> None:
    site = Site()
    client = await site.subscriber()

    async def away(_: str) -> None:
        raise Unavailable("away")

    site.broker.unsubscribe = away  # type: ignore[method-assign, assignment]
    await client.call(unsubscribe={"channel": CHANNEL})
    await site.cluster.advance(2.0)
    assert len(site.hub) == 0


# Messages of pub/sub.


async def test_a_publication_without_an_offset_goes_past_the_log() -> None:
    site = Site()
    client = await site.subscriber()
    site.hub.publication(CHANNEL, "", Publication(b"1"))
    site.publish(2)
    assert got(client) == [1, 2]
    site.hub.publication("nobody is here", "", Publication(b"3"))
    assert site.hub.publications_received == 3


async def test_times_are_tags_where_the_namespace_says_so() -> None:
    site = Site(replace_namespace(FORCED, time_in_tags=True))
    client = await site.subscriber()
    site.publish(1)
    (publication,) = client.publications(CHANNEL)
    assert publication["tags"] == {"time": f"{int(site.cluster.clock.unix * 1_000)}"}


async def test_tags_for_times_are_made_only_where_the_namespace_says_so() -> None:
    site = Site()
    client = await site.subscriber()
    site.publish(1)
    assert "tags" not in client.publications(CHANNEL)[0]


async def test_a_publication_with_an_offset_in_a_channel_without_a_log_is_handed_out() -> None:
    site = Site(PLAIN)
    client = await site.subscriber()
    site.hub.publication(CHANNEL, "epoch", Publication(b"1", offset=5))
    assert got(client) == [1]


async def test_joins_and_leaves_are_told_to_those_who_asked() -> None:
    site = Site()
    client = await site.subscriber(join_leave=True)
    site.hub.joined(CHANNEL, [ClientInfo("bob", "c8"), ClientInfo("bob", "c9")])
    site.hub.left(CHANNEL, ClientInfo("bob", "c9"))
    told = [(kind, push[kind]["info"]["client"]) for push in client.pushes for kind in push if kind != "channel"]
    assert told[1:] == [("join", "c8"), ("join", "c9"), ("leave", "c9")]


async def test_how_long_a_publication_took_is_measured_where_it_says_when_it_was_made() -> None:
    site = Site()
    await site.subscriber()
    unix_ms = int(site.cluster.clock.unix * 1_000)
    total, count = DELIVERY_SECONDS.total, DELIVERY_SECONDS.cumulative()[-1][1]
    site.hub.publication(CHANNEL, "", Publication(b"1", time_ms=unix_ms - 2_000))
    site.hub.publication(CHANNEL, "", Publication(b"2", time_ms=unix_ms + 9_000))  # the clocks of two edges differ
    site.hub.publication(CHANNEL, "", Publication(b"3"))
    assert DELIVERY_SECONDS.total - total == pytest.approx(2.0)
    assert DELIVERY_SECONDS.cumulative()[-1][1] - count == 2


async def test_joins_and_leaves_of_channels_that_are_not_open_are_nobodys() -> None:
    site = Site()
    client = await site.subscriber()
    before = len(client.lines)
    site.hub.joined("another", [ClientInfo("bob", "c9")])
    site.hub.left("another", ClientInfo("bob", "c9"))
    assert len(client.lines) == before


async def test_an_unused_channel_whose_log_was_begun_anew_is_closed_once() -> None:
    site = Site(channel_linger_s=10.0)
    client = await site.subscriber()
    await client.call(unsubscribe={"channel": CHANNEL})
    site.hub.was_reset(CHANNEL, "another")
    assert CHANNEL not in site.hub.channels
    site.hub.close_unused(site.cluster.clock.now + 10)
    await settle()
    assert CHANNEL not in site.broker.subscribed


async def test_an_ephemeral_event_is_dropped_while_its_channel_is_repaired() -> None:
    """What is missing may be that a subscriber was removed."""
    site = Site()
    client = await site.subscriber()
    site.cluster.bus.ephemeral(CHANNEL, Publication(b"1"))
    go = site.hold_reads()
    site.publish(2, lost=True)
    site.publish(3)
    await settle()
    site.cluster.bus.ephemeral(CHANNEL, Publication(b"4"))
    go.set()
    await settle()
    site.cluster.bus.ephemeral(CHANNEL, Publication(b"5"))
    await settle()
    assert got(client) == [1, 2, 3, 5]
    assert ["offset" in one for one in client.publications(CHANNEL)] == [False, True, True, False]
    site.hub.ephemeral("nobody is here", Publication(b"6"))


async def test_an_edge_that_tells_its_own_subscribers_learns_that_a_channel_is_being_repaired() -> None:
    site = Site()
    client = await site.subscriber()
    assert site.hub.tell(CHANNEL, b"1")
    go = site.hold_reads()
    site.publish(2, lost=True)
    site.publish(3)
    await settle()
    assert not site.hub.tell(CHANNEL, b"4")
    go.set()
    await settle()
    assert site.hub.tell(CHANNEL, b"5")
    assert got(client) == [1, 2, 3, 5]


async def test_an_ephemeral_event_is_in_no_ring_and_no_log() -> None:
    site = Site()
    await site.subscriber()
    for number in range(1, 4):
        site.publish(number)
        site.cluster.bus.ephemeral(CHANNEL, Publication(b'"event"'))
    assert await recovered(site, "bob", site.log.epoch) == [1, 2, 3]
    assert [entry.data for entry in site.log.entries] == [b"1", b"2", b"3"]
