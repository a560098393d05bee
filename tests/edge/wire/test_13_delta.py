"""Wire protocol, 13: deltas; who gets patches, and of what."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.edge.domain.model import Publication
from services.shared.namespaces import Delta, Durability, Mode, Permission
from tests.support.deltas import DeltaReader
from tests.support.edge import OPEN, Client, Cluster, connected, replace_namespace, settle

HISTORY = frozenset({Permission.AUTHENTICATED})
DELTA = replace_namespace(OPEN, delta=Delta.FOSSIL, recovery=Mode.ALLOW, history=HISTORY)
ASKS = {"channel": "a", "delta": "fossil"}
RECOVERS = ASKS | {"recover": True, "recoverable": True}


def data(number: int) -> bytes:
    return json.dumps({"number": number, "text": "größe 漢字 " * 8, "end": -number}, ensure_ascii=False).encode()


def publish(cluster: Cluster, *numbers: int, **options: Any) -> None:
    for number in numbers:
        cluster.bus.append("a", Publication(data(number), **options), "", "", 100)


def past_the_log(cluster: Cluster, number: int) -> None:
    cluster.bus.announce("a", "", Publication(data(number)))


async def subscribed(client: Client, **request: Any) -> DeltaReader:
    reader = DeltaReader(client, "a")
    await client.post(subscribe=ASKS | request)
    reader.read()
    assert reader.subscribed
    return reader


def numbers(reader: DeltaReader) -> list[int]:
    reader.read()
    return [json.loads(payload)["number"] for _, payload in reader.got]


async def test_13_the_first_publication_is_full_and_later_ones_are_patches() -> None:
    cluster = Cluster(default=DELTA)
    client = await connected(cluster, cluster.edge())
    reader = await subscribed(client)
    assert reader.results == [{"delta": True}]
    publish(cluster, 1, 2, 3)
    assert numbers(reader) == [1, 2, 3]
    assert reader.kinds == ["full", "patch", "patch"]
    assert [payload for _, payload in reader.got] == [data(1), data(2), data(3)]


@pytest.mark.parametrize("asks", [{}, {"delta": ""}])
async def test_13_who_does_not_ask_gets_no_delta(asks: dict[str, str]) -> None:
    cluster = Cluster(default=DELTA)
    node = cluster.edge()
    await subscribed(await connected(cluster, node, "bob"))
    client = await connected(cluster, node)
    assert await client.call(subscribe={"channel": "a"} | asks) == {}
    publish(cluster, 1, 2)
    assert [pub["data"] for pub in client.publications("a")] == [json.loads(data(1)), json.loads(data(2))]


async def test_13_a_namespace_without_delta_does_not_give_it() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    assert await client.call(subscribe=ASKS) == {}
    publish(cluster, 1)
    assert client.publications("a")[0]["data"] == json.loads(data(1))


@pytest.mark.parametrize("subs", [{}, {"a": {}}, {"other": {}}])
async def test_13_an_unknown_delta_in_connect_closes_3501(subs: dict[str, Any]) -> None:
    cluster = Cluster(default=DELTA)
    client = Client(cluster, cluster.edge())
    token = cluster.token("alice", channels=["a"])
    await client.post(connect={"token": token, "subs": {name: {"delta": "xdelta"} for name in subs}})
    assert client.closed == ((3501, "bad request") if subs else None)


async def test_13_a_server_side_subscription_has_delta_if_the_client_asks_for_it_at_connect() -> None:
    cluster = Cluster(default=DELTA)
    node = cluster.edge()
    readers = []
    for subs in ({}, {"a": {"delta": "fossil"}}):
        client = Client(cluster, node)
        await client.post(connect={"token": cluster.token("alice", channels=["a"]), "subs": subs})
        readers.append(DeltaReader(client, "a"))
    publish(cluster, 1, 2)
    plain, with_delta = readers
    assert numbers(plain) == numbers(with_delta) == [1, 2]
    assert plain.kinds == ["plain", "plain"]
    assert with_delta.kinds == ["full", "patch"]


async def test_13_in_a_recovered_list_the_first_is_full_and_the_first_live_one_too() -> None:
    cluster = Cluster(default=DELTA)
    node = cluster.edge()
    await subscribed(await connected(cluster, node, "bob"))
    publish(cluster, 1, 2, 3)
    reader = await subscribed(await connected(cluster, node), **RECOVERS, epoch="", offset=0)
    publish(cluster, 4, 5)
    assert numbers(reader) == [1, 2, 3, 4, 5]
    assert reader.kinds == ["full", "patch", "patch", "full", "patch"]
    assert [offset for offset, _ in reader.got] == [1, 2, 3, 4, 5]


async def test_13_history_is_always_whole() -> None:
    cluster = Cluster(default=DELTA)
    client = await connected(cluster, cluster.edge())
    publish(cluster, 1, 2)
    await client.call(subscribe=ASKS)
    found = await client.call(history={"channel": "a", "limit": -1})
    assert [pub["data"] for pub in found["publications"]] == [json.loads(data(1)), json.loads(data(2))]
    assert not any("delta" in pub for pub in found["publications"])


async def test_13_an_excluded_client_gets_the_next_publication_in_full_and_others_as_a_patch() -> None:
    cluster = Cluster(default=DELTA)
    node = cluster.edge()
    own, other = await connected(cluster, node), await connected(cluster, node, "bob")
    readers = [await subscribed(client) for client in (own, other)]
    publish(cluster, 1)
    publish(cluster, 2, exclude_client=own.session.client)
    publish(cluster, 3, 4)
    assert numbers(readers[0]) == [1, 3, 4]
    assert readers[0].kinds == ["full", "full", "patch"]
    assert numbers(readers[1]) == [1, 2, 3, 4]
    assert readers[1].kinds == ["full", "patch", "patch", "patch"]


async def test_13_one_who_is_new_gets_it_in_full_while_others_get_the_patch() -> None:
    cluster = Cluster(default=DELTA)
    node = cluster.edge()
    first = await subscribed(await connected(cluster, node))
    publish(cluster, 1)
    second = await subscribed(await connected(cluster, node, "bob"))
    publish(cluster, 2, 3)
    assert numbers(first) == [1, 2, 3]
    assert first.kinds == ["full", "patch", "patch"]
    assert numbers(second) == [2, 3]
    assert second.kinds == ["full", "patch"]


async def test_13_whoever_subscribes_again_begins_with_a_full_one() -> None:
    cluster = Cluster(default=DELTA)
    client = await connected(cluster, cluster.edge())
    reader = await subscribed(client)
    publish(cluster, 1, 2)
    await client.post(unsubscribe={"channel": "a"})
    publish(cluster, 3)
    await client.post(subscribe=ASKS)
    publish(cluster, 4, 5)
    assert numbers(reader) == [1, 2, 4, 5]
    assert reader.kinds == ["full", "patch", "full", "patch"]


async def test_13_patches_need_no_log_and_count_publications_past_it() -> None:
    none = replace_namespace(OPEN, durability=Durability.NONE, recovery=Mode.OFF, delta=Delta.FOSSIL)
    for namespace in (none, DELTA):
        cluster = Cluster(default=namespace)
        reader = await subscribed(await connected(cluster, cluster.edge()))
        for number in (1, 2, 3):
            past_the_log(cluster, number)
        assert numbers(reader) == [1, 2, 3]
        assert reader.kinds == ["full", "patch", "patch"]


async def test_13_a_repaired_gap_goes_on_with_patches() -> None:
    cluster = Cluster(default=DELTA)
    node = cluster.edge()
    reader = await subscribed(await connected(cluster, node))
    publish(cluster, 1)
    broker: Any = node.broker
    broker.stalled = True
    publish(cluster, 2, 3)
    broker.stalled = False
    publish(cluster, 4)
    await settle()
    assert numbers(reader) == [1, 2, 3, 4]
    assert reader.kinds == ["full", "patch", "patch", "patch"]


async def test_13_behind_a_log_that_was_started_again_the_first_is_full() -> None:
    cluster = Cluster(default=DELTA)
    reader = await subscribed(await connected(cluster, cluster.edge()))
    publish(cluster, 1, 2)
    cluster.bus.reset("a", cluster.bus.log("a").epoch)
    await settle()  # a subscription without a position goes on with the new log
    publish(cluster, 3, 4)
    assert numbers(reader) == [1, 2, 3, 4]
    assert reader.kinds == ["full", "patch", "full", "patch"]


async def test_13_a_patch_that_is_no_shorter_is_not_sent() -> None:
    cluster = Cluster(default=DELTA)
    reader = await subscribed(await connected(cluster, cluster.edge()))
    for text in (b'"abc"', b'"abd"', b"1", b"1", b'"' + b"x" * 60 + b'"', b'"' + b"y" * 60 + b'"'):
        cluster.bus.append("a", Publication(text), "", "", 100)
    reader.read()
    assert reader.kinds == ["full"] * 6
    assert reader.got[3] == (4, b"1")
