"""The deadlines of a session.

Expiry, pongs that may be late, and what they leave behind.
"""

from __future__ import annotations

import asyncio
import gc
import json

import pytest

from services.edge.domain.ends import EndReason
from services.edge.domain.session.session import Session
from tests.support.edge import Client, Cluster, connected


@pytest.mark.parametrize("ended_here", [False, True])
async def test_a_session_that_is_over_goes_with_its_last_reference(ended_here: bool) -> None:
    """The collector of an edge runs rarely: what waits for it would add up."""
    cluster = Cluster()
    node = cluster.edge()
    client = await connected(cluster, node)
    await client.call(subscribe={"channel": "a"})
    gc.collect()
    gc.disable()
    try:
        if ended_here:
            client.session.disconnect(EndReason.DISCONNECTED)
        await client.hang_up()
        await cluster.advance(60)
        del client
        assert not [one for one in gc.get_objects() if isinstance(one, Session) and one.node is node]
    finally:
        gc.enable()


async def test_what_still_runs_after_the_end_finds_nothing_due(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    session = client.session
    await client.hang_up()
    session.deadlines.reschedule()
    session.deadlines.deadline_passed(cluster.clock.now + 1_000)
    assert session.deadlines.set_expiry(cluster.clock.unix + 10) == 9
    assert not caplog.records


async def test_of_two_subscriptions_each_ends_in_its_own_time() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge(expired_sub_close_delay_s=1.0, ping_interval_s=1_000.0))
    for channel, ttl_s in (("first", 10), ("second", 20), ("third", None)):
        await client.call(subscribe={"channel": channel, "token": cluster.token("alice", ttl_s=ttl_s, channel=channel)})
    await cluster.advance(10.5)
    assert set(client.session.subscriptions) == {"first", "second", "third"}, "within the delay"
    await cluster.advance(1.5)
    assert set(client.session.subscriptions) == {"second", "third"}
    await cluster.advance(10.0)
    assert set(client.session.subscriptions) == {"third"}
    assert client.closed is None


async def test_what_a_client_does_meanwhile_defers_no_end() -> None:
    """Each new token has all deadlines computed again, also those that are over."""
    cluster = Cluster()
    client = await connected(cluster, cluster.edge(expired_sub_close_delay_s=5.0, ping_interval_s=1_000.0))
    await client.call(subscribe={"channel": "a", "token": cluster.token("alice", ttl_s=10, channel="a")})
    for number in range(8):
        await cluster.advance(2)
        channel = f"b{number}"
        await client.call(subscribe={"channel": channel, "token": cluster.token("alice", ttl_s=1_000, channel=channel)})
    assert "a" not in client.session.subscriptions


async def test_a_clock_of_redis_that_was_set_back_ends_no_subscription_early() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge(expired_sub_close_delay_s=1.0, ping_interval_s=1_000.0))
    await client.call(subscribe={"channel": "a", "token": cluster.token("alice", ttl_s=10, channel="a")})
    cluster.clock.unix -= 30
    await cluster.advance(12)
    assert set(client.session.subscriptions) == {"a"}
    await cluster.advance(30)
    assert not client.session.subscriptions


async def test_a_server_side_subscription_that_expires_ends_the_connection() -> None:
    cluster = Cluster()
    node = cluster.edge(expired_sub_close_delay_s=1.0, ping_interval_s=1_000.0)
    client = await connected(cluster, node, claims={"channels": ["a"]})
    client.session.subscriptions["a"].expires_at = cluster.clock.unix + 10
    client.session.deadlines.reschedule()
    await cluster.advance(10.5)
    assert client.closed is None
    await cluster.advance(1.5)
    assert client.closed == (3006, "subscription expired")


async def test_who_has_sent_nothing_is_stale_and_whose_connect_is_carried_out_is_not() -> None:
    cluster, gate = Cluster(), asyncio.Event()
    node = cluster.edge(connect_timeout_s=5.0)
    broker = cluster.bus.brokers[0]
    subscribe = broker.subscribe

    async def slow(name: str) -> None:
        await gate.wait()
        await subscribe(name)

    broker.subscribe = slow  # type: ignore[method-assign, assignment]
    silent, waiting = Client(cluster, node, client_id="silent"), Client(cluster, node, client_id="waiting")
    await waiting.raw(json.dumps({"id": 1, "connect": {"token": cluster.token("ann", channels=["a"])}}))
    await cluster.advance(8.0)
    assert silent.closed == (3502, "stale")
    assert waiting.closed is None
    gate.set()
    await cluster.advance(8.0)
    assert waiting.closed is None
    assert [line["id"] for line in waiting.lines if "connect" in line] == [1]


# A pong that may be late (rule 4).


async def run_until_ping(cluster: Cluster, client: Client) -> None:
    while client.lines[-1] != {}:
        await cluster.advance(0.1)


async def test_a_ping_behind_much_that_moves_may_be_answered_late() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge(), claims={"exp": 2_000_000_000})
    await run_until_ping(cluster, client)
    left = 600_000
    for _ in range(30):  # at 20 kB/s
        client.connection.taken_and_under_way = (600_000 - left, left)
        await cluster.advance(1.0)
        left -= 20_000
        assert client.closed is None
    client.connection.taken_and_under_way = (600_000, 0)
    await cluster.advance(5.0)
    await client.raw("{}")
    assert client.closed is None


async def test_once_the_late_ping_has_arrived_the_pong_has_the_usual_time() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    await run_until_ping(cluster, client)
    client.connection.taken_and_under_way = (0, 100_000)
    await cluster.advance(9.0)
    client.connection.taken_and_under_way = (150_000, 50_000)  # a steady stream: there is always something under way
    await cluster.advance(8.0)
    assert client.closed is None
    for taken in range(200_000, 400_000, 10_000):
        client.connection.taken_and_under_way = (taken, 50_000)
        await cluster.advance(1.0)
    assert client.closed == (3012, "no pong")


async def test_a_client_that_takes_nothing_of_what_waits_for_it_is_given_up() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    await run_until_ping(cluster, client)
    client.connection.taken_and_under_way = (0, 600_000)
    client.connection.replies_wait = True
    await cluster.advance(18.0)
    assert client.closed == (3012, "no pong")


async def test_a_pong_that_waits_behind_what_we_do_not_read_is_not_missed_while_replies_are_taken() -> None:
    """Several rooms recovered in one frame at 20 kB/s.

    The ping arrives with the first, and we read after the last.
    """
    cluster = Cluster()
    client = await connected(cluster, cluster.edge(), claims={"exp": 2_000_000_000})
    await run_until_ping(cluster, client)
    client.connection.replies_wait = True  # and so it stays: each reply is followed by the next
    await client.post(subscribe={"channel": "a"})
    assert client.connection.paused
    taken = 0
    for second in range(120):
        if second % 30 == 0:
            end = taken + 600_000
        client.connection.taken_and_under_way = (taken, max(end - taken, 1_000))
        await cluster.advance(1.0)
        taken += 20_000
        assert client.closed is None, second
    for _ in range(30):  # it takes nothing more
        await cluster.advance(1.0)
    assert client.closed == (3012, "no pong")
