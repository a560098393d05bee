"""The removal is the last thing that the removed get; nobody else misses any."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from services.edge.domain.channels import conversation_channel
from services.edge.domain.chat.ports import Access
from services.edge.domain.control import operations as ops
from services.edge.domain.model import Publication, StreamPosition
from services.edge.domain.session.node import Node
from services.shared.namespaces import Delta, Mode
from tests.support.edge import Client, Cluster, connected, settle
from tests.support.edge_chat import CONV, GROUP, OPEN_ONE, MemoryChat

REMOVE = {"kind": "member", "op": "remove", "user": "bob"}


def group(**options: Any) -> Cluster:
    cluster = Cluster(conv=replace(CONV, **options))
    cluster.chat.begin("ann", "bob", "cid")
    return cluster


async def subscribed(cluster: Cluster, node: Node, user: str, channel: str = GROUP, **more: Any) -> Client:
    client = await connected(cluster, node, user)
    await client.call(subscribe={"channel": channel, **more})
    return client


def offsets(client: Client, channel: str = GROUP) -> list[int]:
    return [pub["offset"] for pub in client.publications(channel)]


def ends(client: Client, channel: str = GROUP) -> list[tuple[int, str]]:
    """Code and reason of the unsubscribe pushes."""
    found = [push["unsubscribe"] for push in client.pushes if "unsubscribe" in push and push["channel"] == channel]
    return [(one["code"], one["reason"]) for one in found]


OVER = [(2100, "no longer a member")]


@pytest.mark.parametrize("delta", [Delta.OFF, Delta.FOSSIL])
@pytest.mark.parametrize("how", ["remove", "ban", "leave"])
async def test_the_event_is_the_last_that_the_removed_get(how: str, delta: Delta) -> None:
    cluster = group(delta=delta)
    asks = {"delta": "fossil"} if delta is Delta.FOSSIL else {}
    nodes = [cluster.edge() for _ in range(3)]
    bobs = [await subscribed(cluster, node, "bob", **asks) for node in (*nodes, nodes[0])]
    others = [await subscribed(cluster, node, user, **asks) for node in nodes for user in ("ann", "cid")]
    chat = cluster.chat
    before = chat.says(GROUP, "ann")
    if how == "leave":
        k = chat.does(GROUP, "bob", kind="member", op="leave")
    else:
        k = chat.does(GROUP, "ann", kind="member", op=how, user="bob")
    after = chat.says(GROUP, "ann", "without bob")
    await settle()
    for bob in bobs:
        assert offsets(bob) == [before, k]
        assert ends(bob) == OVER
        last = [line for line in bob.lines if "push" in line][-1]["push"]
        assert "unsubscribe" in last
        assert await bob.error(subscribe={"channel": GROUP}) == 103
        assert await bob.error(publish={"channel": GROUP, "data": {"kind": "message", "text": "x"}}) == 103
        assert not bob.closed
    for other in others:
        assert offsets(other) == [before, k, after]
        assert not ends(other)


async def test_what_lies_behind_a_lost_removal_is_not_delivered_either() -> None:
    """All comes by one repair; the removal ends the subscription in the middle of it."""
    cluster = group()
    node = cluster.edge()
    bob, cid = await subscribed(cluster, node, "bob"), await subscribed(cluster, node, "cid")
    cluster.bus.brokers[0].stalled = True
    chat = cluster.chat
    lost = [chat.says(GROUP, "ann"), chat.does(GROUP, "ann", **REMOVE), chat.says(GROUP, "ann")]
    await settle()
    assert not offsets(bob)
    cluster.bus.brokers[0].stalled = False
    node.hub.reconnected()
    await settle()
    assert (offsets(bob), ends(bob)) == (lost[:2], OVER)
    assert (offsets(cid), ends(cid)) == (lost, [])


@pytest.mark.parametrize("recovery", [Mode.FORCE, Mode.OFF])
async def test_a_gap_lets_nobody_go_on_unasked(recovery: Mode) -> None:
    """More was missed than a repair reads: everybody comes back and is asked about."""
    cluster = group(recovery=recovery)
    node = cluster.edge(ping_interval_s=0.0)
    bob, cid = await subscribed(cluster, node, "bob"), await subscribed(cluster, node, "cid")
    cluster.bus.brokers[0].stalled = True
    cluster.chat.does(GROUP, "ann", **REMOVE)
    for _ in range(1_001):
        cluster.chat.says(GROUP, "ann")
    cluster.bus.brokers[0].stalled = False
    node.hub.reconnected()
    await settle()
    for client, code in ((bob, 103), (cid, 0)):
        assert (offsets(client), ends(client)) == ([], [(2500, "insufficient state")])
        reply = await client.reply(subscribe={"channel": GROUP})
        assert reply.get("error", {}).get("code", 0) == code


@pytest.mark.parametrize(
    "event",
    [
        {"kind": "member", "op": "role", "user": "bob", "role": "reader"},
        {"kind": "member", "op": "silence", "user": "bob", "until": 2_000_000_000_000},
        {"kind": "conversation", "op": "update", "name": "Lunch", "settings": {"history": "joined"}},
        {"kind": "conversation", "op": "close"},
        {"kind": "member", "op": "add", "user": "dan"},
        {"kind": "member", "op": "ban", "user": "dan"},
        {"kind": "member", "op": "remove", "user": "cid"},
    ],
)
async def test_what_takes_no_right_to_read_ends_nobody(event: dict[str, Any]) -> None:
    cluster = group()
    bob = await subscribed(cluster, cluster.edge(), "bob")
    heard = [cluster.chat.does(GROUP, "ann", **event), cluster.chat.does(GROUP, "", kind="x.poll")]
    await settle()
    assert (offsets(bob), ends(bob)) == (heard, [])


async def test_the_end_of_a_conversation_ends_all() -> None:
    cluster = group()
    nodes = [cluster.edge(), cluster.edge()]
    clients = [await subscribed(cluster, node, user) for node in nodes for user in ("ann", "bob")]
    k = cluster.chat.does(GROUP, "ann", kind="conversation", op="delete")
    await settle()
    for client in clients:
        assert (offsets(client), ends(client)) == ([k], OVER)
        assert await client.error(subscribe={"channel": GROUP}) == 103
        assert await client.error(history={"channel": GROUP}) == 103


async def test_an_event_that_an_edge_does_not_know_has_everybody_asked_anew(caplog: pytest.LogCaptureFixture) -> None:
    cluster = group()
    node = cluster.edge()
    bob = await subscribed(cluster, node, "bob")
    for number, data in enumerate((b'{"kind":"member","op":"exile","user":"bob"}', b'{"kind":"x.y"}', b'{"kind":1}')):
        cluster.bus.append(GROUP, _flagged(data), "", "", 1_000)
        await settle()
        assert ends(bob) == [(2500, "insufficient state")] * (number + 1)
        await bob.call(subscribe={"channel": GROUP})
    assert "unknown event" in caplog.text


def _flagged(data: bytes) -> Publication:
    return Publication(data, flags=2)


async def test_c17_a_ban_ends_who_follows_an_open_conversation_and_leaving_does_not() -> None:
    cluster = Cluster(conv=CONV)
    chat = cluster.chat
    chat.begin("ann", channel=OPEN_ONE)
    chat.does(OPEN_ONE, "ann", kind="member", op="role", user="bob", role="moderator")
    node = cluster.edge()
    bob, eve = await subscribed(cluster, node, "bob", OPEN_ONE), await subscribed(cluster, node, "eve", OPEN_ONE)
    chat.does(OPEN_ONE, "bob", kind="member", op="leave")
    k = chat.does(OPEN_ONE, "ann", kind="member", op="ban", user="eve")
    after = chat.says(OPEN_ONE, "ann")
    await settle()
    assert (offsets(eve, OPEN_ONE)[-1], ends(eve, OPEN_ONE)) == (k, OVER)
    assert (offsets(bob, OPEN_ONE)[-1], ends(bob, OPEN_ONE)) == (after, [])
    assert await eve.error(subscribe={"channel": OPEN_ONE}) == 103


async def test_server_side_subscriptions_end_likewise() -> None:
    cluster = group()
    node = cluster.edge()
    by_token = Client(cluster, node)
    await by_token.call(connect={"token": cluster.token("bob", channels=[GROUP])})
    by_backend = await connected(cluster, node, "bob", claims={"sub": "bob"})
    await ops.execute(node, ops.Subscribe(user="bob", client=by_backend.session.client, channel=GROUP))
    k = cluster.chat.does(GROUP, "ann", **REMOVE)
    cluster.chat.says(GROUP, "ann")
    await settle()
    for client in (by_token, by_backend):
        assert (offsets(client), ends(client)) == ([k], OVER)
        assert not client.closed
        assert not client.session.subscriptions


async def test_presence_leaves_at_once() -> None:
    cluster = group(presence_grace_s=60)
    node = cluster.edge()
    bob = await subscribed(cluster, node, "bob")
    ann = await subscribed(cluster, node, "ann", join_leave=True)
    data = {"channel": GROUP, "data": {"typing": True}}
    await bob.call(rpc={"method": "presence.enter", "data": data})
    cluster.chat.does(GROUP, "ann", **REMOVE)
    await settle()
    assert [info.user for info in cluster.presence.members_of[GROUP].values()] == ["ann"]
    assert cluster.presence.left[-1][2] == 0.0
    assert [push["leave"]["info"]["user"] for push in ann.pushes if "leave" in push] == ["bob"]
    assert await bob.error(rpc={"method": "presence.enter", "data": data}) == 103


@pytest.mark.parametrize("added_again", [False, True])
async def test_a_subscription_that_is_being_made_is_refused(added_again: bool) -> None:
    """The removal arrives while persistence is asked once more."""
    cluster = group()
    node = cluster.edge()
    await subscribed(cluster, node, "cid")
    chat = cluster.chat
    chat.answers = [chat.access(GROUP, "bob")]
    chat.says(GROUP, "ann")  # the answer is older than the view
    bob = await connected(cluster, node, "bob")
    answer = _second_answer_waits(chat)
    command = await bob.post(subscribe={"channel": GROUP})
    joined_at = chat.access(GROUP, "bob")
    chat.does(GROUP, "ann", **REMOVE)
    if added_again:
        chat.does(GROUP, "ann", kind="member", op="add", user="bob")
    chat.says(GROUP, "ann")
    chat.answers = [] if added_again else [joined_at]  # which was true, and is good enough for the join
    answer.set()
    await settle()
    (reply,) = [line for line in bob.lines if line.get("id") == command]
    assert reply["error"]["code"] == (100 if added_again else 103)  # what was held for it is dropped in any case
    assert not offsets(bob)
    assert not node.hub.channels[GROUP].subscriptions[1:]


def _second_answer_waits(chat: MemoryChat) -> asyncio.Event:
    """Let the check after the next one wait until the event is set."""
    released, asked, check = asyncio.Event(), 0, chat.check

    async def second(channel: str, user: str) -> Access:
        nonlocal asked
        asked += 1
        if asked > 1:
            await released.wait()
        return await check(channel, user)

    chat.check = second  # type: ignore[method-assign]
    return released


async def test_an_old_answer_is_asked_for_again_until_it_covers_the_join() -> None:
    cluster = group()
    node = cluster.edge()
    await subscribed(cluster, node, "cid")
    chat = cluster.chat
    old = chat.access(GROUP, "bob")
    chat.does(GROUP, "ann", **REMOVE)
    await settle()
    bob = await connected(cluster, node, "bob")
    chat.answers = [old]
    assert await bob.error(subscribe={"channel": GROUP}) == 103
    chat.answers, chat.checks = [old] * 4, []
    assert await bob.error(subscribe={"channel": GROUP}) == 100  # never let in by what is too old
    assert len(chat.checks) == 4
    assert not bob.session.subscriptions
    assert not cluster.presence.members_of.get(GROUP, {}).get(bob.session.client)


async def test_an_answer_of_another_epoch_counts_for_nothing() -> None:
    cluster = group()
    node = cluster.edge()
    await subscribed(cluster, node, "cid")
    bob = await connected(cluster, node, "bob")
    cluster.chat.answers = [Access(True, True, 0, StreamPosition(10_000, "another"))] * 4
    assert await bob.error(subscribe={"channel": GROUP}) == 100


async def test_who_was_added_again_is_not_ended_by_the_removal_of_before() -> None:
    """The edge hears of the removal after the user has come back."""
    cluster = group()
    node = cluster.edge()
    await subscribed(cluster, node, "cid")
    cluster.bus.brokers[0].stalled = True
    chat = cluster.chat
    chat.does(GROUP, "ann", **REMOVE)
    chat.does(GROUP, "ann", kind="member", op="add", user="bob")
    bob = await subscribed(cluster, node, "bob")
    cluster.bus.brokers[0].stalled = False
    after = chat.says(GROUP, "ann")
    await settle()
    assert (offsets(bob)[-1], ends(bob)) == (after, [])
    k = chat.does(GROUP, "ann", **REMOVE)
    await settle()
    assert (offsets(bob)[-1], ends(bob)) == (k, OVER)


@pytest.mark.parametrize("delta", [Delta.OFF, Delta.FOSSIL])
async def test_while_pages_are_read_the_removal_ends_them_at_its_place(delta: Delta) -> None:
    cluster = group(delta=delta)
    node = cluster.edge()
    await subscribed(cluster, node, "cid")
    chat = cluster.chat
    first = chat.says(GROUP, "ann")
    for _ in range(2_500):
        chat.says(GROUP, "ann", "x" * 100)
    await settle()
    bob = await connected(cluster, node, "bob")
    asks = {"recover": True, "epoch": chat.position(GROUP).epoch, "offset": first}
    if delta is Delta.FOSSIL:
        asks["delta"] = "fossil"
    bob.send(json.dumps({"id": 9, "subscribe": {"channel": GROUP, **asks}}))
    while not [line for line in bob.lines if line.get("id") == 9]:
        await asyncio.sleep(0)
    bob.connection.replies_wait = True
    k = chat.does(GROUP, "ann", **REMOVE)
    behind = [chat.says(GROUP, "ann") for _ in range(300)]  # more than the ring has
    await settle()
    assert not ends(bob)
    bob.connection.replies_wait = False
    bob.session.replies_taken()
    for _ in range(40):
        await settle()
    (reply,) = [line["subscribe"] for line in bob.lines if line.get("id") == 9]
    got = [pub["offset"] for pub in reply.get("publications", [])] + offsets(bob)
    assert got == list(range(first + 1, k + 1))
    assert ends(bob) == OVER
    assert behind
    assert not bob.session.subscriptions


@pytest.mark.parametrize("server_side", [False, True])
async def test_who_still_reads_pages_of_before_the_removal_learns_nothing_of_after_it(server_side: bool) -> None:
    """Who reads slowly sees nobody there, and is seen by nobody."""
    cluster = group()
    node = cluster.edge()
    ann = await subscribed(cluster, node, "ann", join_leave=True)
    chat = cluster.chat
    first = chat.says(GROUP, "ann")
    for _ in range(2_500):
        chat.says(GROUP, "ann", "x" * 100)
    await settle()
    bob = await _catching_up(cluster, node, first)
    bob.session.subscriptions[GROUP].server_side = server_side
    chat.does(GROUP, "ann", **REMOVE)
    await settle()
    assert not ends(bob), "there are pages of before"
    before = len(bob.pushes)
    await subscribed(cluster, node, "cid")
    await settle()
    assert not [push for push in bob.pushes[before:] if "join" in push or "leave" in push]
    assert await bob.error(presence={"channel": GROUP}) == 103
    assert await bob.error(presence_stats={"channel": GROUP}) == 103
    assert await bob.error(history={"channel": GROUP, "limit": 1}) == 103
    assert await bob.error(rpc={"method": "presence.enter", "data": {"channel": GROUP}}) == 103
    assert "bob" not in [info.user for info in cluster.presence.members_of[GROUP].values()]
    assert [push["leave"]["info"]["user"] for push in ann.pushes if "leave" in push] == ["bob"]


async def _catching_up(cluster: Cluster, node: Node, since: int) -> Client:
    """A client of bob whose second page is never read."""
    first, page, never = True, node.reader.page, asyncio.Event()

    async def once(*of: Any) -> Any:
        nonlocal first
        if not first:
            await never.wait()
        first = False
        return await page(*of)

    node.reader.page = once  # type: ignore[method-assign,assignment]
    position: dict[str, Any] = {"recover": True, "epoch": cluster.chat.position(GROUP).epoch, "offset": since}
    bob = await subscribed(cluster, node, "bob", join_leave=True, **position)
    assert node.hub.channels[GROUP].is_catching_up(bob.session.subscriptions[GROUP])
    return bob


async def test_who_waits_for_the_end_may_do_nothing_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation_channel, "PER_TURN", 1)
    held: list[Any] = []
    cluster = Cluster(conv=CONV)
    cluster.chat.begin("ann", channel=OPEN_ONE)
    node = cluster.edge()
    clients = [await subscribed(cluster, node, f"u{number}", OPEN_ONE) for number in range(5)]
    loop = asyncio.get_running_loop()
    real = loop.call_soon

    def late(callback: Any, *arguments: Any, **more: Any) -> Any:
        if getattr(callback, "__name__", "") == "_end_some":
            held.append(callback)
            return None
        return real(callback, *arguments, **more)

    monkeypatch.setattr(loop, "call_soon", late)
    k = cluster.chat.does(OPEN_ONE, "ann", kind="conversation", op="delete")
    await settle()
    waiting = [client for client in clients if not ends(client, OPEN_ONE)]
    assert len(waiting) == 4
    for client in waiting:
        assert offsets(client, OPEN_ONE) == [k]
        assert await client.error(history={"channel": OPEN_ONE, "limit": 10}) == 103
        assert await client.error(presence={"channel": OPEN_ONE}) == 103
    await waiting[0].call(unsubscribe={"channel": OPEN_ONE})
    while held:
        held.pop()()
    for client in clients:
        assert ends(client, OPEN_ONE) == ([] if client is waiting[0] else OVER)
        assert offsets(client, OPEN_ONE) == [k]
    assert OPEN_ONE not in node.hub.channels or not len(node.hub.channels[OPEN_ONE])
