"""Commands run at the pace at which their client takes replies, a few at once."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from services.edge.domain.channels.channel import Subscription
from services.edge.domain.ends import EndReason
from services.edge.domain.model import Publication
from services.edge.domain.session import command_runner
from services.edge.domain.session.node import Node
from services.edge.domain.session.rpc import RpcContext
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


async def test_while_the_reply_to_the_last_command_waits_nothing_is_read_either() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    send = client.connection.send_reply

    def take(frame: bytes) -> None:
        send(frame)
        client.connection.replies_wait = True

    client.connection.send_reply = take  # type: ignore[method-assign]
    await client.post(rpc={"method": "x"})
    assert client.connection.paused
    client.connection.replies_wait = False
    client.session.replies_taken()
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
    await asyncio.wait_for(session.until_replies_taken(), 30)
    client.connection.replies_wait = True
    session.push_recovered(Subscription(session, "a", session.info()), [Publication(b"1")])
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
    await asyncio.wait_for(part, 30)
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


# Rule 1: one command at a time, in order.


class Slow:
    """An RPC method `slow` that waits for its caller; `log`: what began and ended."""

    def __init__(self, cluster: Cluster) -> None:
        self.log: list[str] = []
        self.go = asyncio.Event()
        cluster.rpc.register("slow", self._slow)
        cluster.rpc.register("quick", self._quick)

    async def _slow(self, context: RpcContext, data: bytes) -> bytes:
        self.log.append(f"{context.user} begins")
        await self.go.wait()
        self.log.append(f"{context.user} ends")
        return b"1"

    async def _quick(self, context: RpcContext, data: bytes) -> bytes:
        self.log.append(f"{context.user} quick")
        return b"2"


def message(client: Client, *commands: dict[str, Any], first: int = 100) -> None:
    """Several commands of one message, as the transport hands it over."""
    lines = [json.dumps({"id": first + number, **command}) for number, command in enumerate(commands)]
    client.protocol.message("\n".join(lines).encode(), binary=False)


def errors(client: Client) -> list[int]:
    return [line["error"]["code"] for line in client.lines if "error" in line]


async def test_rule_1_a_slow_command_holds_up_the_next_of_its_client_and_nobody_elses() -> None:
    cluster = Cluster()
    slow = Slow(cluster)
    node = cluster.edge()
    ann, bob = await connected(cluster, node, "ann"), await connected(cluster, node, "bob")
    message(ann, {"rpc": {"method": "slow"}}, {"rpc": {"method": "quick"}})
    message(ann, {"rpc": {"method": "quick"}}, first=200)
    message(bob, {"rpc": {"method": "quick"}})
    await settle()
    assert slow.log == ["ann begins", "bob quick"]
    slow.go.set()
    await settle()
    assert slow.log == ["ann begins", "bob quick", "ann ends", "ann quick", "ann quick"]
    assert replies(ann)[1:] == [100, 101, 200]


async def test_rule_1_a_publication_waits_for_the_one_before_and_holds_up_what_follows() -> None:
    cluster = Cluster()
    slow = Slow(cluster)
    node = cluster.edge()
    client = await connected(cluster, node)
    await client.call(subscribe={"channel": "a"})
    log = SlowLog(node)
    message(
        client,
        {"publish": {"channel": "a", "data": 1}},
        {"publish": {"channel": "a", "data": 2}},
        {"rpc": {"method": "quick"}},
    )
    await settle()
    assert (log.begun, slow.log) == (1, [])
    log.go.set()
    await settle()
    assert (log.begun, slow.log) == (2, ["alice quick"])
    assert replies(client)[2:] == [100, 101, 102]


async def test_a_command_that_the_session_did_not_live_to_see_does_not_run() -> None:
    cluster = Cluster()
    slow = Slow(cluster)
    client = await connected(cluster, cluster.edge())
    message(client, {"rpc": {"method": "quick"}})  # begins in a task of its own
    client.session.disconnect(EndReason.SLOW)
    await settle()
    assert slow.log == []


# Rule 3: turns. See also test_first_step.py.


@pytest.mark.parametrize(("count", "at_once"), [(31, 31), (32, 32), (33, 32), (70, 32)])
async def test_rule_3_a_client_has_32_commands_in_a_turn(count: int, at_once: int) -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge(commands_per_s=0))
    before = len(client.lines)
    message(client, *[{"publish": {"channel": "a"}}] * count)
    assert len(client.lines) - before == at_once
    for _ in range(3):
        await settle()
    assert len(client.lines) - before == count, "the rest has its turn"


# Rule 4: a client that sends more than is done is not read.


async def test_rule_4_the_socket_is_read_again_once_half_of_64_commands_are_done() -> None:
    cluster = Cluster()
    slow = Slow(cluster)
    client = await connected(cluster, cluster.edge(commands_per_s=0))
    message(client, *[{"rpc": {"method": "slow"}}] * 65)  # one runs, 64 wait
    await settle()
    assert not client.connection.paused
    message(client, {"rpc": {"method": "slow"}}, first=300)
    assert client.connection.paused
    assert client.session.is_paused
    paused_at: list[int] = []
    read = client.connection.resume_reading

    def resumed() -> None:
        paused_at.append(len(replies(client)))
        read()

    client.connection.resume_reading = resumed
    slow.go.set()
    for _ in range(10):
        await settle()
    # Connect, 33 of the 66, and the next one runs: 32 wait.
    assert paused_at == [1 + 33]
    assert not client.session.is_paused


async def test_rule_4_publications_are_not_counted_because_admission_bounds_them() -> None:
    cluster = Cluster()
    node = cluster.edge(commands_per_s=0)
    client = await connected(cluster, node)
    await client.call(subscribe={"channel": "a"})
    log = SlowLog(node)
    message(client, *[{"publish": {"channel": "a", "data": 1}}] * 200)
    await settle()
    assert not client.connection.paused
    log.go.set()
    for _ in range(20):
        await settle()
    assert log.begun == 200


# Rule 5: tokens.


@pytest.mark.parametrize(
    ("command", "counted"),
    [
        ({"unsubscribe": {"channel": "a"}}, False),
        ({"rpc": {"method": "x"}}, True),
        ({"subscribe": {"channel": "a"}}, True),
        ({"publish": {"channel": "a", "data": 1}}, True),
        ({"history": {"channel": "a"}}, True),
        ({"presence": {"channel": "a"}}, True),
        ({"presence_stats": {"channel": "a"}}, True),
        ({"refresh": {"token": "x"}}, True),
        ({"sub_refresh": {"channel": "a", "token": "x"}}, True),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_rule_5_each_command_takes_a_token_but_these(command: dict[str, Any], counted: bool) -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge(commands_per_s=4, commands_burst=1))  # connect takes none
    await client.post(rpc={"method": "x"})
    reply = await client.reply(**command)
    assert (reply.get("error", {}).get("code") == 111) == counted
    assert client.closed is None
    if counted:
        assert reply["error"]["retry_after_ms"] == 250


async def test_rule_5_send_ends_the_connection_even_without_a_token() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge(commands_per_s=1, commands_burst=1))
    await client.post(rpc={"method": "x"})
    await client.raw('{"send":{"data":1}}')
    assert client.closed == (3508, "not available")


async def test_rule_5_after_a_pause_the_three_seconds_begin_anew() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge(commands_per_s=10, commands_burst=4))
    for _ in range(3):  # 2 s each
        for _ in range(6):
            await client.post(rpc={"method": "x"})
        cluster.clock.now += 2.0
    assert errors(client).count(111) == 6
    assert client.closed is None


async def test_rule_5_refusals_without_a_pause_end_the_connection() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge(commands_per_s=0.1, commands_burst=1))
    await client.post(rpc={"method": "x"})
    await client.post(rpc={"method": "x"})
    cluster.clock.now += 2.9
    await client.post(rpc={"method": "x"})
    assert client.closed is None
    cluster.clock.now += 0.1
    await client.post(rpc={"method": "x"})
    assert client.closed == (3013, "too many requests")


async def test_rule_5_what_comes_after_a_rest_is_refused_at_the_same_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_runner, "_REST_S", 600.0)
    cluster = Cluster()
    client = await connected(cluster, cluster.edge(commands_per_s=1e-6, commands_burst=1, flood_close_s=1e9))
    await client.post(rpc={"method": "x"})
    message(client, *[{"rpc": {"method": "x"}}] * 100)
    counts = []
    for _ in range(4):
        counts.append(len(errors(client)) - 1)
        cluster.clock.now += 600
        client.session.replies_taken()
    assert counts == [32, 64, 96, 100]


# Rule 6: publications that admission refuses.


class SlowLog:
    """The log of an edge: it answers when the test says so."""

    def __init__(self, node: Node) -> None:
        self.go = asyncio.Event()
        self.begun = 0
        append = node.broker.append

        async def held(*arguments: Any, **options: Any) -> Any:
            self.begun += 1
            await self.go.wait()
            return await append(*arguments, **options)

        node.broker.append = held  # type: ignore[method-assign]


class Overloaded:
    """An edge whose publications fill its bytes, and a client of it that publishes.

    All of them are refused.
    """

    def __init__(self, cluster: Cluster, node: Node, client: Client, slow: Slow) -> None:
        self.cluster, self.node, self.client, self.slow = cluster, node, client, slow
        self.log = SlowLog(node)

    @classmethod
    async def begin(cls, **settings: Any) -> Overloaded:
        cluster = Cluster()
        slow = Slow(cluster)
        node = cluster.edge(max_pending_publish_bytes=10, **settings)
        client, other = await connected(cluster, node), await connected(cluster, node, "other")
        for one in (client, other):
            await one.call(subscribe={"channel": "a"})
        site = cls(cluster, node, client, slow)
        await other.post(publish={"channel": "a", "data": "12345678"})
        return site

    def publish(self, count: int, first: int = 100) -> None:
        message(self.client, *[{"publish": {"channel": "a", "data": "x"}}] * count, first=first)


async def test_rule_6_a_publication_that_is_refused_is_answered_before_what_waits() -> None:
    site = await Overloaded.begin()
    message(
        site.client,
        {"rpc": {"method": "slow"}},
        {"rpc": {"method": "quick"}},
        {"publish": {"channel": "a", "data": "x"}},
    )
    await settle()
    assert replies(site.client)[2:] == [102]
    assert errors(site.client) == [111]
    assert site.log.begun == 1


async def test_rule_6_a_refused_publication_takes_a_token() -> None:
    site = await Overloaded.begin(commands_per_s=1e-6, commands_burst=4)  # of which one was for subscribe
    site.publish(3)
    assert [line["error"].get("retry_after_ms") for line in site.client.lines if "error" in line] == [1000] * 3
    assert await site.client.error(rpc={"method": "quick"}) == 111


async def test_rule_6_it_takes_none_that_the_commands_in_the_queue_need() -> None:
    site = await Overloaded.begin(commands_per_s=1e-6, commands_burst=5)
    message(site.client, *[{"rpc": {"method": "slow"}}] * 3)  # one of them has its token; 3 are left, 2 are needed
    site.publish(2, first=200)
    assert errors(site.client) == [111] * 2
    await settle()
    assert site.client.session.node.counters.commands["rpc"] == 1
    site.slow.go.set()
    await settle()
    assert errors(site.client) == [111] * 2, "the commands that waited had their tokens"
    assert replies(site.client)[2:] == [200, 201, 100, 101, 102]
    assert await site.client.error(rpc={"method": "quick"}) == 111, "the first of the two had the last token"


async def test_rule_6_who_is_refused_for_three_seconds_is_closed() -> None:
    site = await Overloaded.begin(commands_per_s=1e-6, commands_burst=2)
    site.publish(2)
    assert site.client.closed is None
    site.cluster.clock.now += 3.0
    site.publish(2, first=200)
    assert site.client.closed == (3013, "too many requests")
    assert len(errors(site.client)) == 2, "what follows in the message is not taken"


@pytest.mark.parametrize(("count", "pause_s"), [(32, 0.05), (96, 0.15)])
async def test_rule_6_the_socket_is_not_read_for_50_ms_for_every_32_of_them(count: int, pause_s: float) -> None:
    site = await Overloaded.begin(commands_per_s=0)
    loop = asyncio.get_running_loop()
    later: list[tuple[float, Any]] = []
    loop.call_later = lambda delay_s, call, *_: later.append((delay_s, call))  # type: ignore[method-assign, assignment]
    try:
        site.publish(31)
        assert not site.client.connection.paused
        site.publish(count - 31, first=200)
        assert site.client.connection.paused
        site.publish(40, first=300)
        assert site.client.connection.paused
    finally:
        del loop.call_later
    ((delay_s, read_again),) = later
    assert delay_s == pytest.approx(pause_s)
    read_again()
    assert not site.client.connection.paused
    site.publish(31, first=400)
    assert not site.client.connection.paused, "they are counted anew"


# Outcomes.


async def test_a_command_that_fails_unforeseen_is_answered_100_logged_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster = Cluster()

    async def broken(*_: object) -> bytes:
        raise ValueError("as the test wants")

    cluster.rpc.register("broken", broken)
    client = await connected(cluster, cluster.edge())
    for count in (1, 2):
        reply = await client.reply(rpc={"method": "broken"})
        assert (reply["error"]["code"], reply["error"]["temporary"]) == (100, True)
        assert client.session.node.counters.errors == {100: count}
    assert [(record.message, record.command) for record in caplog.records] == [("command failed", "Rpc")] * 2  # type: ignore[attr-defined]
    assert client.closed is None
    assert await client.error(rpc={"method": "nope"}) == 104


async def test_commands_are_counted_by_kind_whether_they_succeed_or_not() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    await client.call(subscribe={"channel": "a"})
    for _ in range(2):
        await client.error(rpc={"method": "x"})
    await client.call(presence_stats={"channel": "a"})
    await client.call(publish={"channel": "a", "data": 1})
    assert client.session.node.counters.commands == {
        "connect": 1,
        "subscribe": 1,
        "rpc": 2,
        "presencestats": 1,
        "publish": 1,
    }


async def test_a_publication_that_its_log_refuses_is_answered_with_the_error_and_the_next_one_runs() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    await client.call(subscribe={"channel": "a"})
    cluster.bus.down = True
    message(client, {"publish": {"channel": "a", "data": 1}}, {"publish": {"channel": "a"}}, {"rpc": {"method": "x"}})
    await settle()
    assert errors(client) == [100, 107, 104]
    cluster.bus.down = False
    assert (await client.call(publish={"channel": "a", "data": 1}))["offset"] == 1


async def test_the_next_command_of_a_new_client_must_wait_for_the_reply_to_connect() -> None:
    cluster = Cluster()
    node = cluster.edge()
    client = Client(cluster, node)
    go = asyncio.Event()
    subscribe = node.broker.subscribe

    async def held(channel: str) -> None:
        await go.wait()
        await subscribe(channel)

    node.broker.subscribe = held  # type: ignore[method-assign]
    message(
        client, {"connect": {"token": cluster.token("alice", channels=["a"])}}, {"presence_stats": {"channel": "a"}}
    )
    await settle()
    assert client.lines == []
    go.set()
    await settle()
    assert replies(client) == [100, 101]
    assert errors(client) == []


@pytest.mark.parametrize(
    "first", [{"rpc": {"method": "x"}}, {"publish": {"channel": "a", "data": 1}}, {"unsubscribe": {"channel": "a"}}]
)
async def test_the_first_command_is_connect_and_no_other_is(first: dict[str, Any]) -> None:
    cluster = Cluster()
    client = Client(cluster, cluster.edge())
    await client.post(**first)
    assert client.closed == (3501, "bad request")
    client = await connected(cluster, cluster.edge())
    await client.post(connect={"token": cluster.token("alice")})
    assert client.closed == (3501, "bad request")
