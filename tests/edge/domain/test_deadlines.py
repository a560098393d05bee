"""What a session's deadlines leave behind."""

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
    assert session.deadlines.set_expiry(cluster.clock.unix + 10) == 10
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
    """Each new token has the deadlines computed again, also of what has expired already."""
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
