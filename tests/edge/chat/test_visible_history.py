"""Where history is visible from joining, nothing of before is in any answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from services.edge.domain.channels.log_reader import LogReader
from services.edge.domain.chat.ports import Access
from services.edge.domain.control import operations as ops
from services.edge.domain.model import StreamPosition
from services.shared.namespaces import Delta, Mode
from tests.support.edge import Client, Cluster, connected, settle
from tests.support.edge_chat import CONV, GROUP

DELTAS = [Delta.OFF, Delta.FOSSIL]


def joined_late(before: int, after: int, **options: Any) -> tuple[Cluster, int]:
    """Bob was a member, was removed and added again; the offset from which he sees."""
    cluster = Cluster(conv=replace(CONV, **options))
    chat = cluster.chat
    chat.begin("ann", "bob", history="joined")
    for number in range(before):
        chat.says(GROUP, "ann", f"before {number}")
    chat.does(GROUP, "ann", kind="member", op="remove", user="bob")
    chat.says(GROUP, "ann", "secret")
    j = chat.does(GROUP, "ann", kind="member", op="add", user="bob")
    assert chat.access(GROUP, "bob").history_from == j
    for number in range(after):
        chat.says(GROUP, "ann", f"after {number}")
    return cluster, j


def recovering(cluster: Cluster, offset: int, *, delta: Delta = Delta.OFF) -> dict[str, Any]:
    asks = {"delta": "fossil"} if delta is Delta.FOSSIL else {}
    epoch = cluster.chat.position(GROUP).epoch
    return {"subscribe": {"channel": GROUP, "recover": True, "epoch": epoch, "offset": offset, **asks}}


def got(client: Client, result: dict[str, Any]) -> list[int]:
    return [one["offset"] for one in [*result.get("publications", []), *client.publications(GROUP)]]


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("has_view", [False, True])
@pytest.mark.parametrize(("before", "after"), [(3, 4), (3, 300), (2_100, 2_100), (3, 0)])
async def test_c13_recovery_begins_behind_the_joining(delta: Delta, has_view: bool, before: int, after: int) -> None:
    cluster, j = joined_late(before, after, delta=delta)
    node = cluster.edge()
    if has_view:
        await (await connected(cluster, node, "ann")).call(subscribe={"channel": GROUP})
    top = cluster.chat.position(GROUP)
    for offset in (0, 1, j - 1, j):
        bob = await connected(cluster, node, "bob")
        result = await bob.call(**recovering(cluster, offset, delta=delta))
        for _ in range(10):
            await settle()
        assert result["recovered"]
        assert got(bob, result) == list(range(j + 1, top.offset + 1)), offset
        assert result["offset"] == max(offset, j)
        assert b"secret" not in b"".join(bob.texts)
        first = (result.get("publications") or [{"data": {}}])[0]
        assert not first.get("delta")  # it needs nothing that the client does not have
        await bob.hang_up()
        await settle()


@pytest.mark.parametrize("live", [False, True])
async def test_c13_history_ends_at_the_joining_and_tells_the_top(live: bool) -> None:
    cluster, j = joined_late(5, 4)
    node = cluster.edge()
    bob = await connected(cluster, node, "bob")
    if live:
        await bob.call(subscribe={"channel": GROUP})
    top = cluster.chat.position(GROUP)
    visible = list(range(j + 1, top.offset + 1))

    async def page(**asks: Any) -> list[int]:
        result = await bob.call(history={"channel": GROUP, "limit": 100, **asks})
        assert (result["offset"], result["epoch"]) == (top.offset, top.epoch)
        return [one["offset"] for one in result.get("publications", [])]

    assert await page() == visible
    assert await page(reverse=True) == visible[::-1]
    assert await page(limit=2) == visible[:2]
    assert await page(limit=2, reverse=True) == visible[:-3:-1]
    assert await page(limit=0) == []
    for offset in range(top.offset + 2):
        since = {"offset": offset, "epoch": top.epoch}
        assert await page(since=since) == [one for one in visible if one > offset]
        if offset:
            assert await page(since=since, reverse=True) == [one for one in visible[::-1] if one < offset]
    assert b"secret" not in b"".join(bob.texts)
    assert await bob.error(history={"channel": GROUP, "since": {"offset": 1, "epoch": "other"}}) == 112


async def test_the_tag_of_the_time_is_on_what_is_left() -> None:
    cluster, j = joined_late(3, 3, time_in_tags=True)
    bob = await connected(cluster, cluster.edge(), "bob")
    result = await bob.call(**recovering(cluster, 1))
    assert [one["tags"]["time"] for one in result["publications"]] == ["1800000000000"] * 3
    read = await bob.call(history={"channel": GROUP, "limit": 100})
    assert [one["tags"]["time"] for one in read["publications"]] == ["1800000000000"] * 3
    assert {one["offset"] for one in read["publications"]} == set(range(j + 1, j + 4))


async def test_server_side_subscriptions_are_cut_likewise() -> None:
    cluster, j = joined_late(3, 3)
    node = cluster.edge()
    epoch = cluster.chat.position(GROUP).epoch
    position = {"recover": True, "epoch": epoch, "offset": 1}
    client = Client(cluster, node)
    result = await client.call(connect={"token": cluster.token("bob", channels=[GROUP]), "subs": {GROUP: position}})
    assert got(client, result["subs"][GROUP]) == [j + 1, j + 2, j + 3]
    other = await connected(cluster, node, "bob")
    since = ops.WirePosition(1, epoch)
    target = other.session.client
    await ops.execute(node, ops.Subscribe(user="bob", client=target, channel=GROUP, recover_since=since))
    assert got(other, {}) == [j + 1, j + 2, j + 3]


@pytest.mark.parametrize("recovery", [Mode.FORCE, Mode.OFF])
async def test_an_edge_that_is_behind_the_joining_delivers_nothing_of_before(recovery: Mode) -> None:
    """Its view is repaired first; or else it would deliver the secret to bob, live."""
    cluster = Cluster(conv=replace(CONV, recovery=recovery))
    chat = cluster.chat
    chat.begin("ann", history="joined")
    node = cluster.edge()
    await (await connected(cluster, node, "ann")).call(subscribe={"channel": GROUP})
    cluster.bus.brokers[0].stalled = True
    chat.says(GROUP, "ann", "secret")
    chat.does(GROUP, "ann", kind="member", op="add", user="bob")
    bob = await connected(cluster, node, "bob")
    await bob.call(subscribe={"channel": GROUP})
    cluster.bus.brokers[0].stalled = False
    node.hub.reconnected()
    after = chat.says(GROUP, "ann")
    await settle()
    assert [one["offset"] for one in bob.publications(GROUP)] == [after]
    assert b"secret" not in b"".join(bob.texts)


async def test_an_answer_that_begins_behind_the_join_is_not_used() -> None:
    """Removed and added again between the first question and the second."""
    cluster, j = joined_late(3, 0)
    node = cluster.edge()
    await (await connected(cluster, node, "ann")).call(subscribe={"channel": GROUP})
    bob = await connected(cluster, node, "bob")
    epoch = cluster.chat.position(GROUP).epoch
    old = Access(True, True, 0, StreamPosition(1, epoch))
    cluster.chat.answers = [old, Access(True, True, j + 5, StreamPosition(j + 6, epoch))]
    assert await bob.error(subscribe={"channel": GROUP}) == 100
    assert not bob.session.subscriptions


async def test_a_page_that_ends_above_the_answer_is_asked_about_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bob is removed between the question and the read: what follows is not his."""
    cluster, _ = joined_late(2, 2)
    node = cluster.edge()
    bob = await connected(cluster, node, "bob")
    chat = cluster.chat
    _before_reads(monkeypatch, lambda: _removed(cluster))
    assert await bob.error(history={"channel": GROUP, "limit": 100}) == 103
    assert b"without bob" not in b"".join(bob.texts)
    ann = await connected(cluster, node, "ann")
    old = Access(True, True, 0, StreamPosition(1, chat.position(GROUP).epoch))
    chat.answers, chat.checks = [old] * 4, []
    assert await ann.error(history={"channel": GROUP, "limit": 100}) == 100
    assert len(chat.checks) == 4


async def test_a_subscriber_on_an_edge_that_is_behind_reads_no_further_than_it_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster, j = joined_late(2, 2)
    node = cluster.edge()
    bob = await connected(cluster, node, "bob")
    await bob.call(subscribe={"channel": GROUP})
    cluster.bus.brokers[0].stalled = True
    top = _removed(cluster)
    assert await bob.error(history={"channel": GROUP, "limit": 100}) == 103
    assert await bob.error(history={"channel": GROUP, "limit": 100, "reverse": True}) == 103
    since = {"offset": j, "epoch": cluster.chat.position(GROUP).epoch}
    result = await bob.call(history={"channel": GROUP, "limit": 1, "since": since})  # what he had anyway
    assert [one["offset"] for one in result["publications"]] == [j + 1]
    assert b"without bob" not in b"".join(bob.texts)
    assert top > j + 2


def _removed(cluster: Cluster) -> int:
    cluster.chat.does(GROUP, "ann", kind="member", op="remove", user="bob")
    return cluster.chat.says(GROUP, "ann", "without bob")


def _before_reads(monkeypatch: pytest.MonkeyPatch, act: Any) -> None:
    """Act once, before the next page of history is read."""
    acted: list[Any] = []
    read = LogReader.history

    async def history(self: LogReader, *args: Any, **options: Any) -> Any:
        if not acted:
            acted.append(act())
        return await read(self, *args, **options)

    monkeypatch.setattr(LogReader, "history", history)


async def test_the_answer_that_covers_a_page_cuts_it() -> None:
    """Removed and added again after the first answer, which let bob see all."""
    cluster, j = joined_late(3, 2)
    bob = await connected(cluster, cluster.edge(), "bob")
    for reverse in (False, True):
        cluster.chat.answers = [Access(True, True, 0, StreamPosition(1, cluster.chat.position(GROUP).epoch))]
        page = await bob.call(history={"channel": GROUP, "limit": 100, "reverse": reverse})
        assert sorted(one["offset"] for one in page["publications"]) == [j + 1, j + 2]
    assert b"secret" not in b"".join(bob.texts)
