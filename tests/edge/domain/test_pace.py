"""Commands run at the pace at which their client takes the replies, and a few at a time."""

from __future__ import annotations

import asyncio
import json

import pytest

from services.edge.domain.ends import EndReason
from services.edge.domain.model import Publication
from services.edge.domain.session import command_runner
from tests.support.edge import Client, Cluster, connected, settle


def replies(client: Client) -> list[int]:
    return [line["id"] for line in client.lines if "id" in line]


async def test_no_command_runs_and_nothing_is_read_while_replies_wait() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    client.connection.replies_wait = True
    held = [await client.post(subscribe={"channel": name}) for name in ("a", "b")]
    assert client.connection.paused
    assert not set(held) & set(replies(client))
    assert not client.session.subscriptions
    client.connection.replies_wait = False
    client.session.replies_taken()
    await settle()
    assert set(held) <= set(replies(client))
    assert not client.connection.paused


async def test_a_reply_that_waits_holds_the_next_command_of_the_same_frame() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    await client.call(subscribe={"channel": "a"})
    send = client.connection.send_reply

    def take(frame: bytes) -> None:
        send(frame)
        client.connection.replies_wait = True

    client.connection.send_reply = take  # type: ignore[method-assign]
    await client.raw("\n".join(json.dumps({"id": number, "history": {"channel": "a"}}) for number in (11, 12, 13)))
    for count in (1, 2, 3):
        assert replies(client)[2:] == [11, 12, 13][:count]
        client.connection.replies_wait = False
        client.session.replies_taken()
        await settle()


async def test_pongs_are_taken_while_replies_wait() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    while not any(line == {} for line in client.lines):
        await cluster.advance(0.5)
    client.connection.replies_wait = True
    await client.post(subscribe={"channel": "a"})
    await client.raw("{}")
    assert client.closed is None
    await cluster.advance(9)
    assert client.closed is None


async def test_publications_of_a_client_that_does_not_take_its_replies_take_no_room_from_others() -> None:
    cluster = Cluster()
    node = cluster.edge()
    client = await connected(cluster, node)
    await client.call(subscribe={"channel": "a"})
    client.connection.replies_wait = True
    for _ in range(20):
        await client.post(publish={"channel": "a", "data": {}})
    assert node.publisher.admission.redis.waiting == 0
    client.connection.replies_wait = False
    client.session.replies_taken()
    for _ in range(5):
        await settle()
    assert node.publisher.admission.redis.waiting == 0
    assert cluster.bus.log("a").top == 20
    client.connection.replies_wait = True
    for _ in range(20):
        await client.post(publish={"channel": "a", "data": {}})
    await client.hang_up()
    assert node.publisher.admission.redis.waiting == 0


async def test_what_is_sent_in_parts_waits_for_the_client_and_ends_with_it() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    session = client.session
    await asyncio.wait_for(session.until_replies_taken(), 1)
    client.connection.replies_wait = True
    session.push_publication("a", Publication(b"1"))
    parts = [asyncio.create_task(session.until_replies_taken()) for _ in range(2)]
    await settle()
    assert not any(part.done() for part in parts)
    client.connection.replies_wait = False
    session.replies_taken()
    await settle()
    assert all(part.done() for part in parts)


@pytest.mark.parametrize("ended_here", [False, True])
async def test_whoever_waits_for_a_client_learns_that_it_is_gone(ended_here: bool) -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    client.connection.replies_wait = True
    part = asyncio.create_task(client.session.until_replies_taken())
    await settle()
    if ended_here:
        client.session.disconnect(EndReason.DISCONNECTED)
    else:
        await client.hang_up()
    await asyncio.wait_for(part, 1)
    assert client.session.is_over


async def test_commands_of_one_frame_run_a_few_at_a_time_then_others_get_their_turn() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge(commands_per_s=1, commands_burst=1))
    await client.post(rpc={"method": "x"})
    before = len(client.connection.frames)
    many = "\n".join(json.dumps({"id": number, "rpc": {"method": "x"}}) for number in range(100, 1_000))
    client.protocol.message(many.encode(), binary=False)
    assert len(client.connection.frames) - before <= 32
    assert client.connection.paused
    async with asyncio.timeout(60):
        while len(client.connection.frames) - before < 900:
            await asyncio.sleep(0.01)
    assert replies(client)[-900:] == list(range(100, 1_000))
    assert not client.connection.paused


async def test_a_client_over_its_limit_of_commands_is_answered_at_a_pace_that_costs_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command_runner, "_REST_S", 600.0)  # on a busy machine 50 ms are over at once
    cluster = Cluster()
    client = await connected(cluster, cluster.edge(commands_per_s=1, commands_burst=1))
    await client.post(rpc={"method": "x"})
    before = len(client.connection.frames)
    for number in range(500):
        client.protocol.message(json.dumps({"id": 100 + number, "rpc": {"method": "x"}}).encode(), binary=False)
    await settle()
    assert len(client.connection.frames) - before == 32
    assert client.connection.paused  # what it sends on waits with it
    cluster.clock.now += 0.5
    client.session.replies_taken()
    await settle()
    assert len(client.connection.frames) - before == 32
    cluster.clock.now += 600
    client.session.replies_taken()
    await settle()
    assert len(client.connection.frames) - before > 32


async def test_publications_of_a_client_over_its_limit_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_runner, "_REST_S", 600.0)
    cluster = Cluster()
    client = await connected(cluster, cluster.edge(commands_per_s=1, commands_burst=2))
    await client.call(subscribe={"channel": "a"})
    for _ in range(100):
        await client.post(publish={"channel": "a", "data": 1})
    assert cluster.bus.log("a").top == 1
    assert client.connection.paused


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
    """Several rooms recovered in one frame at 20 kB/s: the ping arrives with the first, and we read after the last."""
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
