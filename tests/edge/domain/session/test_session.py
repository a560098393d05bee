"""The session of a client: what reaches it in which state, and its end."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from services.edge.domain import commands as c
from services.edge.domain.channels.channel import Subscription
from services.edge.domain.ends import ClientEnd, EndReason
from services.edge.domain.model import Publication
from services.edge.domain.replies import ErrorResult, RpcResult, UnsubscribePush
from services.edge.domain.session.session import Session
from services.shared.errors import Unavailable, UnsubscribeCode
from services.shared.namespaces import Durability, Mode, Namespace, Namespaces
from tests.support.edge import OPEN, Client, Cluster, connected, replace_namespace, settle

FORCED = replace_namespace(OPEN, recovery=Mode.FORCE)
CHANNEL = "a"
PUSH = UnsubscribePush(CHANNEL, 2500, "insufficient state")


async def subscriber(cluster: Cluster, **request: Any) -> tuple[Client, Subscription]:
    client = await connected(cluster, cluster.edge())
    await client.call(subscribe={"channel": CHANNEL, **request})
    return client, client.session.subscriptions[CHANNEL]


def ends(client: Client) -> list[dict[str, Any]]:
    return [push["unsubscribe"] for push in client.pushes if "unsubscribe" in push]


def push_recovered(session: Session) -> None:
    session.push_recovered(Subscription(session, CHANNEL, session.info()), [Publication(b"1")])


# What reaches the client.


async def test_no_push_comes_before_the_reply_to_connect() -> None:
    cluster = Cluster()
    client = Client(cluster, cluster.edge())
    session = client.session
    session.push(PUSH)
    push_recovered(session)
    session.begin_connecting()
    session.push(PUSH)
    push_recovered(session)
    assert (session.is_connecting, session.is_open, session.is_over, session.is_closed) == (True, False, False, False)
    assert client.lines == []
    session.opened(None, has_delay=True)
    session.push(PUSH)
    push_recovered(session)
    assert (session.is_connecting, session.is_open, session.is_over, session.is_closed) == (False, True, False, False)
    assert [set(line["push"]) for line in client.lines] == [{"channel", "unsubscribe"}, {"channel", "pub"}]


async def test_a_recovered_publication_counts_as_a_reply_and_a_push_does_not() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    counted: list[bytes] = []
    client.connection.send_reply = counted.append  # type: ignore[method-assign, assignment]
    client.session.push(PUSH)
    assert not counted
    push_recovered(client.session)
    client.session.reply(7, RpcResult())
    assert len(counted) == 2


async def test_what_the_protocol_has_no_words_for_is_not_sent() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    before = len(client.connection.frames)

    class Silent:
        carries_bytes = False
        keeps_position = True

        def encode(self, _: object) -> bytes | None:
            return None

        def encode_reply(self, *_: object) -> bytes | None:
            return None

    client.session.encoder = Silent()  # type: ignore[assignment]
    client.session.push(PUSH)
    push_recovered(client.session)
    client.session.protocol = Silent()  # type: ignore[assignment]
    client.session.reply(7, RpcResult())
    assert len(client.connection.frames) == before


async def test_behind_the_end_nothing_is_sent_and_nothing_is_taken() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    session = client.session
    session.disconnect(EndReason.SLOW)
    assert (session.is_open, session.is_over, session.is_closed) == (False, True, True)
    client.connection.closed = None  # so that a frame would be seen
    before = len(client.connection.frames)
    session.push(PUSH)
    push_recovered(session)
    session.reply(7, RpcResult())
    session.refuse_connect(7, ErrorResult(100, "x"))
    session.submit([c.Command(8, c.Publish(channel=CHANNEL, data=b"1"))] * 2)
    await settle()
    assert len(client.connection.frames) == before
    assert (session.is_closed, client.connection.dropped_after) == (True, None)
    assert "publish" not in session.node.counters.commands
    assert session.node.publisher.admission.redis.waiting == 0, "they are not queued"


async def test_a_message_that_ends_the_session_is_taken_no_further() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    client.session.submit([c.Command(0, c.Malformed(reason="x")), c.Command(9, c.Rpc())])
    await settle()
    assert client.closed == (3501, "bad request")
    assert "rpc" not in client.session.node.counters.commands


async def test_a_pong_is_taken_once_for_each_ping() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    assert not client.session.pong()
    while client.lines[-1] != {}:
        await cluster.advance(0.5)
    assert client.session.pong()
    assert not client.session.pong()


# A refused connect.


async def test_a_refused_connect_is_answered_and_the_client_has_time_to_close() -> None:
    cluster = Cluster()
    node = cluster.edge()
    client = Client(cluster, node)
    session = client.session
    node.add(session)
    session.begin_connecting()
    session.refuse_connect(1, ErrorResult(100, "x"))
    assert client.lines == [{"id": 1, "error": {"code": 100, "message": "x"}}]
    assert (client.closed, client.connection.dropped_after) == (None, 5.0)
    assert (session.is_open, session.is_over, session.is_closed) == (False, True, False)
    assert not node.clients
    assert not node.users
    session.submit([c.Command(2, c.Connect(token=cluster.token("alice")))])
    await cluster.advance(60)
    assert len(client.lines) == 1
    assert client.closed is None, "its deadlines have ended"


# The end.


@pytest.mark.parametrize(
    ("ended_here", "how", "stays_s"),
    [
        (False, ClientEnd.CLOSED, 0.0),
        (False, ClientEnd.GOING_AWAY, 2.0),
        (False, ClientEnd.LOST, math.inf),
        (True, ClientEnd.CLOSED, math.inf),
        (True, ClientEnd.LOST, math.inf),
    ],
    ids=["client-closed", "client-away", "client-lost", "server-closed", "server-lost"],
)
async def test_the_end_takes_the_client_off_everything(ended_here: bool, how: ClientEnd, stays_s: float) -> None:
    cluster = Cluster(quiet=replace_namespace(OPEN, presence=False))
    node = cluster.edge()
    client = await connected(cluster, node)
    session = client.session
    for channel in ("a", "b", "quiet:c"):
        await client.call(subscribe={"channel": channel})
    if ended_here:
        session.disconnect(EndReason.SLOW)
        assert not any(len(channel) for channel in node.hub.channels.values()), "no more pushes"
        assert not cluster.presence.left, "the rosters wait for the end of the connection"
        assert not node.clients
        assert session in node.sessions
    await client.hang_up(how)
    assert sorted(cluster.presence.left) == [(channel, session.client, stays_s) for channel in ("a", "b")]
    assert not any(len(channel) for channel in node.hub.channels.values())
    assert (node.sessions, node.clients, node.users, session.subscriptions) == (set(), {}, {}, {})
    assert session.is_over


async def test_a_session_ends_once_and_is_counted_by_its_code() -> None:
    cluster = Cluster()
    node = cluster.edge()
    clients = [await connected(cluster, node, user) for user in ("ann", "bob", "carol")]
    clients[0].session.disconnect(EndReason.SLOW)
    clients[0].session.disconnect(EndReason.DISCONNECTED)
    clients[1].session.disconnect(EndReason.SLOW)
    clients[2].session.disconnect(EndReason.DISCONNECTED, 4321, "because")
    assert [client.closed for client in clients] == [(3008, "slow"), (3008, "slow"), (4321, "because")]
    assert node.counters.closes == {3008: 2, 4321: 1}
    await clients[2].hang_up()
    clients[2].session.disconnect(EndReason.SLOW)
    assert node.counters.closes == {3008: 2, 4321: 1}


async def test_the_deadlines_of_a_session_end_with_it() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    client.session.disconnect(EndReason.SLOW)
    before = len(client.connection.frames)
    client.connection.closed = None
    await cluster.advance(120)
    assert (client.closed, len(client.connection.frames)) == (None, before)


@pytest.mark.parametrize("ended_here", [False, True])
async def test_commands_that_wait_are_dropped_at_the_end(ended_here: bool) -> None:
    cluster = Cluster()
    node = cluster.edge()
    client = await connected(cluster, node)
    await client.post(rpc={"method": "x"})
    client.session.submit([c.Command(number, c.Rpc()) for number in (7, 8)])
    client.session.submit([c.Command(9, c.Publish(channel=CHANNEL, data=b"1"))])
    assert node.publisher.admission.redis.waiting == 1
    if ended_here:
        client.session.disconnect(EndReason.SLOW)
    else:
        await client.hang_up()
    assert node.publisher.admission.redis.waiting == 0
    await settle()
    assert node.counters.commands["rpc"] == 2, "one had begun"
    assert not cluster.bus.logs


@pytest.mark.parametrize("how", ["disconnect", "refuse_connect", "closed"])
async def test_whoever_waits_for_the_client_to_read_goes_on_at_the_end(how: str) -> None:
    cluster = Cluster()
    client = Client(cluster, cluster.edge())
    client.session.begin_connecting()
    client.connection.replies_wait = True
    waiting = asyncio.create_task(client.session.until_replies_taken())
    await settle()
    if how == "disconnect":
        client.session.disconnect(EndReason.SLOW)
    elif how == "refuse_connect":
        client.session.refuse_connect(1, ErrorResult(100, "x"))
    else:
        await client.hang_up()
    await settle()
    assert waiting.done()


# Ends of subscriptions.


@pytest.mark.parametrize(
    ("code", "reason", "told"),
    [
        (2500, "", UnsubscribeCode.INSUFFICIENT_STATE.reason),
        (2500, "because", "because"),
        (2777, "", UnsubscribeCode.SERVER.reason),
    ],
    ids=["known", "own-text", "unknown"],
)
async def test_the_end_of_a_subscription_is_told_and_leaves_channel_and_roster(
    code: int, reason: str, told: str
) -> None:
    cluster = Cluster()
    client, subscription = await subscriber(cluster)
    client.session.end_subscription(subscription, code, reason)
    assert ends(client) == [{"code": code, "reason": told}]
    assert not client.session.subscriptions
    assert not len(client.session.node.hub.channels[CHANNEL])
    assert cluster.presence.left == [(CHANNEL, client.session.client, 0.0)]
    client.session.end_subscription(subscription, code, reason)
    assert len(ends(client)) == 1


async def test_the_end_of_an_older_subscription_leaves_the_newer_one_alone() -> None:
    cluster = Cluster()
    client, old = await subscriber(cluster)
    await client.call(unsubscribe={"channel": CHANNEL})
    await client.call(subscribe={"channel": CHANNEL})
    new = client.session.subscriptions[CHANNEL]
    client.session.end_subscription(old, 2500)
    client.session.drop(old)
    client.session.presence_over(old)
    assert ends(client) == []
    assert client.session.subscriptions == {CHANNEL: new}
    assert set(cluster.presence.members_of[CHANNEL]) == {client.session.client}
    await client.call(publish={"channel": CHANNEL, "data": 1})
    assert len(client.publications(CHANNEL)) == 1


async def test_a_subscription_that_nobody_was_told_of_ends_in_silence() -> None:
    cluster = Cluster()
    client, subscription = await subscriber(cluster)
    before = len(client.lines)
    client.session.end_silently(subscription)
    assert len(client.lines) == before
    assert not client.session.subscriptions
    assert not len(client.session.node.hub.channels[CHANNEL])
    assert cluster.presence.left == [(CHANNEL, client.session.client, 0.0)]


async def test_who_was_not_put_on_the_roster_is_not_taken_off() -> None:
    cluster = Cluster(default=replace_namespace(OPEN, presence=False))
    client, _ = await subscriber(cluster)
    await client.call(unsubscribe={"channel": CHANNEL})
    await client.hang_up()
    assert not cluster.presence.left


# Gaps that can't be repaired.


@pytest.mark.parametrize(
    "request_", [{"positioned": True}, {"recoverable": True}], ids=["only-positioned", "recoverable"]
)
async def test_a_gap_of_a_subscription_with_a_position_ends_it(request_: dict[str, bool]) -> None:
    cluster = Cluster()
    client, subscription = await subscriber(cluster, **request_)
    subscription.recoverable = "recoverable" in request_
    client.session.insufficient_state(subscription)
    assert ends(client) == [{"code": 2500, "reason": "insufficient state"}]
    assert (client.closed, subscription.broken) == (None, False)


async def test_a_gap_of_a_server_side_subscription_ends_the_connection() -> None:
    cluster = Cluster(default=FORCED)
    client = Client(cluster, cluster.edge())
    await client.call(connect={"token": cluster.token("alice", channels=[CHANNEL])})
    client.session.insufficient_state(client.session.subscriptions[CHANNEL])
    assert client.closed == (3010, "insufficient state")
    assert ends(client) == []


async def test_a_gap_while_the_subscribe_command_runs_fails_the_command() -> None:
    cluster = Cluster(default=FORCED)
    client, subscription = await subscriber(cluster)
    subscription.live = False
    client.session.insufficient_state(subscription)
    assert (subscription.broken, ends(client), client.closed) == (True, [], None)


class Rejoining:
    """A subscription without position, whose channel was closed because of a gap."""

    def __init__(self, cluster: Cluster, client: Client, subscription: Subscription) -> None:
        self.cluster, self.client, self.subscription = cluster, client, subscription
        self.node = client.session.node
        self.go = asyncio.Event()
        open_ = self.node.hub.open

        async def held(name: str, namespace: Namespace) -> Any:
            await self.go.wait()
            return await open_(name, namespace)

        self.node.hub.open = held  # type: ignore[method-assign]

    @classmethod
    async def begin(cls) -> Rejoining:
        cluster = Cluster()
        client, subscription = await subscriber(cluster)
        return cls(cluster, client, subscription)

    async def lose(self) -> None:
        self.node.hub.was_reset(CHANNEL, "another")
        await settle()

    async def let_go(self) -> None:
        self.go.set()
        await settle()

    async def hears(self) -> bool:
        self.cluster.bus.append(CHANNEL, Publication(b"7"), "", "", 10)
        await settle()
        return [one["data"] for one in self.client.publications(CHANNEL)] == [7]


async def test_without_a_position_a_gap_puts_the_client_on_the_channel_again() -> None:
    site = await Rejoining.begin()
    await site.lose()
    await site.let_go()
    assert ends(site.client) == []
    assert await site.hears()
    assert site.client.closed is None


@pytest.mark.parametrize("end", ["unsubscribe", "close", "another"])
async def test_who_left_meanwhile_is_not_put_on_the_channel_again(end: str) -> None:
    site = await Rejoining.begin()
    session = site.client.session
    await site.lose()
    if end == "close":
        session.state = type(session.state).CLOSED
    else:
        await site.client.call(unsubscribe={"channel": CHANNEL})
    if end == "another":
        site.client.protocol.message(b'{"id":50,"subscribe":{"channel":"a"}}', binary=False)
    await site.let_go()
    channel = site.node.hub.channels[CHANNEL]
    assert site.subscription not in channel.subscriptions
    assert len(channel) == (end == "another")
    assert ends(site.client) == []


@pytest.mark.parametrize("fault", ["redis", "namespace"])
async def test_who_can_not_be_put_on_the_channel_again_is_told(fault: str) -> None:
    site = await Rejoining.begin()
    if fault == "redis":
        site.cluster.bus.down = True
    else:
        site.node.namespaces = Namespaces(None, {})
    await site.lose()
    await site.let_go()
    assert [end["code"] for end in ends(site.client)] == [2500]
    assert not site.client.session.subscriptions


async def test_a_channel_that_closes_again_before_the_client_is_on_it_is_told() -> None:
    site = await Rejoining.begin()

    def closed(*_: object) -> Any:
        raise Unavailable("the channel was closed while being joined")

    site.node.hub.join = closed  # type: ignore[method-assign, assignment]
    await site.lose()
    await site.let_go()
    assert [end["code"] for end in ends(site.client)] == [2500]


async def test_a_channel_without_a_log_has_no_gaps() -> None:
    cluster = Cluster(default=replace_namespace(OPEN, durability=Durability.NONE, recovery=Mode.OFF))
    client, _ = await subscriber(cluster)
    client.session.node.hub.was_reset(CHANNEL, "another")
    await settle()
    cluster.bus.announce(CHANNEL, "", Publication(b"7"))
    assert [one["data"] for one in client.publications(CHANNEL)] == [7]


# What others see of the client.


async def test_the_info_of_a_client_is_its_user_its_id_and_what_its_tokens_say() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge(), claims={"info": {"v": 1}})
    info = client.session.info(b'{"c":2}')
    assert (info.user, info.client) == ("alice", client.session.client)
    assert (info.conn_info, info.chan_info) == (b'{"v":1}', b'{"c":2}')
    assert client.session.info().chan_info == b""


@pytest.mark.parametrize(("refused", "after_s"), [(False, 0.0), (True, 5.0)], ids=["ended", "refused"])
async def test_a_client_protocol_that_fails_to_end_a_connection_has_tcp_ended(
    refused: bool, after_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())

    def fails(*_: Any) -> Any:
        raise ValueError("a protocol with a fault")

    monkeypatch.setattr(type(client.session.protocol), "connect_refused" if refused else "end", fails)
    if refused:
        client.session.refuse_connect(1, ErrorResult(100, "internal"))
    else:
        client.session.disconnect(EndReason.SHUTDOWN)
    assert client.connection.dropped_after == after_s
