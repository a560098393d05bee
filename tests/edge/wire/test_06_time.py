"""Wire protocol, 6: the time of a publication, in pushes, recovery and history.

As a tag where asked for.
"""

from __future__ import annotations

from typing import Any

import pytest

from services.shared.namespaces import Durability, Mode, Permission
from tests.support.edge import OPEN, Client, Cluster, connected, replace_namespace, settle

READABLE = replace_namespace(OPEN, recovery=Mode.FORCE, history=frozenset({Permission.AUTHENTICATED}))
NOW_MS = 1_800_000_000_500


async def everywhere(cluster: Cluster, client: Client) -> list[dict[str, Any]]:
    """The second publication of a channel.

    A push, recovered from ring, from log and by pages, and in history.
    """
    cluster.clock.unix = NOW_MS / 1000
    epoch = (await client.call(subscribe={"channel": "a"}))["epoch"]
    for number in (1, 2):
        await client.call(publish={"channel": "a", "data": number})
        cluster.clock.unix += 1
    pushes = [line["push"]["pub"] for line in client.lines if "pub" in line.get("push", {})]
    found = [pushes[1]]
    for node in (cluster.nodes[0], cluster.edge()):
        late = await connected(cluster, node)
        result = await late.call(subscribe={"channel": "a", "recover": True, "offset": 1, "epoch": epoch})
        found += result["publications"]
    late = await connected(cluster, cluster.edge(recovery_limit=1))
    await late.call(subscribe={"channel": "a", "recover": True, "epoch": epoch})
    await settle()
    found += late.publications("a")  # the second page of a recovery
    found += (await client.call(history={"channel": "a", "limit": 1, "reverse": True}))["publications"]
    assert [one["data"] for one in found] == [2] * 5
    return found


@pytest.mark.parametrize("durability", [Durability.HOT, Durability.STORED])
async def test_6_every_publication_says_when(durability: Durability) -> None:
    cluster = Cluster(default=replace_namespace(READABLE, durability=durability))
    found = await everywhere(cluster, await connected(cluster, cluster.edge()))
    assert [one["time"] for one in found] == [NOW_MS + 1_000] * 5
    assert not any("tags" in one for one in found)


@pytest.mark.parametrize("durability", [Durability.HOT, Durability.STORED])
async def test_6_a_namespace_may_ask_for_it_as_a_tag(durability: Durability) -> None:
    cluster = Cluster(default=replace_namespace(READABLE, durability=durability, time_in_tags=True))
    found = await everywhere(cluster, await connected(cluster, cluster.edge()))
    assert [(one["time"], one["tags"]) for one in found] == [(NOW_MS + 1_000, {"time": str(NOW_MS + 1_000)})] * 5


async def test_6_tags_of_a_backend_stay_beside_it_and_a_channel_without_log_has_it_too() -> None:
    namespace = replace_namespace(
        OPEN, durability=Durability.NONE, time_in_tags=True, recovery=Mode.OFF, positioning=Mode.OFF
    )
    cluster = Cluster(default=namespace)
    node = cluster.edge()
    client = await connected(cluster, node)
    await client.call(subscribe={"channel": "a"})
    await node.publisher.publish("a", namespace, b"1", time_ms=NOW_MS, tags={"k": "v", "time": "theirs"})
    (push,) = [line["push"]["pub"] for line in client.lines if "pub" in line.get("push", {})]
    assert (push["time"], push["tags"]) == (NOW_MS, {"k": "v", "time": str(NOW_MS)})
