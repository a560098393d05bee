"""Channels of the shipped namespace `user`: what the server tells one user alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.shared.namespaces import load_namespaces
from tests.support.edge import Cluster, connected, settle

CONFIG = Path(__file__).parents[3] / "config"


@pytest.mark.parametrize("file", ["channels.toml", "stack-channels.toml"])
async def test_a_personal_channel_is_for_its_user_alone_and_nobody_publishes(file: str) -> None:
    cluster = Cluster(**load_namespaces(CONFIG / file).named)
    node = cluster.edge()
    alice = await connected(cluster, node, "alice")
    await alice.call(subscribe={"channel": "user:#alice"})
    bob = await connected(cluster, node, "bob")
    assert await bob.error(subscribe={"channel": "user:#alice"}) == 103
    for channel in ("user:lobby", "user:#alice,bob", "user:", "user:#"):
        assert await bob.error(subscribe={"channel": channel}) in (103, 107), channel
    for client in (alice, bob):
        assert await client.error(publish={"channel": "user:#alice", "data": {"kind": "added"}}) == 103
    assert await bob.error(history={"channel": "user:#alice"}) == 103
    namespace = cluster.namespaces.named["user"]
    await node.publisher.publish("user:#alice", namespace, b'{"kind":"added"}', time_ms=1)
    await settle()
    assert [one["data"] for one in alice.publications("user:#alice")] == [{"kind": "added"}]
    read = await alice.call(history={"channel": "user:#alice", "limit": 5})
    assert [one["offset"] for one in read["publications"]] == [1]
