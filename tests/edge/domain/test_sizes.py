"""What a publication takes is its data, who published it and its tags.

Bounds are held against all of it.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.edge.domain.channels.channel_log import ChannelLog
from services.edge.domain.channels.log_reader import PAGE_BYTES
from services.edge.domain.channels.page_cache import PageCache
from services.edge.domain.model import ClientInfo, HistoryPage, Publication, StreamPosition
from services.shared.namespaces import Durability
from tests.support.edge import OPEN, Client, Cluster, connected, replace_namespace, settle

CHANNEL = "room"
MISSED = 300
REPLY_BYTES = 20_000
BIG = "x" * 1_000
WIDE = {
    "who published it": Publication(b"1", info=ClientInfo("alice", "c1", json.dumps({"avatar": BIG}).encode())),
    "what its subscription says": Publication(b"1", info=ClientInfo("alice", "c1", b"", json.dumps(BIG).encode())),
    "its tags": Publication(b"1", tags={"text": BIG}),
    "its data": Publication(json.dumps(BIG).encode()),
}
wide = pytest.mark.parametrize("publication", WIDE.values(), ids=list(WIDE))


def missed(cluster: Cluster, publication: Publication) -> dict[str, Any]:
    """Who comes back to the beginning of all this."""
    for _ in range(MISSED):
        cluster.bus.append(CHANNEL, publication, "", "", MISSED)
    epoch = cluster.bus.log(CHANNEL).epoch
    return {"channel": CHANNEL, "recover": True, "recoverable": True, "offset": 0, "epoch": epoch}


@wide
@pytest.mark.parametrize("in_redis", [MISSED, 10])
async def test_everything_missed_comes_however_wide_it_is(
    publication: Publication, in_redis: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(default=replace_namespace(OPEN, durability=Durability.STORED))
    node = cluster.edge(reply_max_bytes=REPLY_BYTES)
    read = node.broker.read

    async def read_of_redis(channel: str, **more: Any) -> HistoryPage | None:
        """It has the newest ones only; the store has all."""
        wanted = dict(more, since_offset=max(more["since_offset"], MISSED - in_redis))
        return await read(channel, **wanted)

    monkeypatch.setattr(node.broker, "read", read_of_redis)
    wish = missed(cluster, publication)
    client = await connected(cluster, node)
    reply = await client.call(subscribe=wish)
    assert reply.get("recovered")
    assert len(json.dumps(reply)) < 5 * REPLY_BYTES  # the first page is up to 64 KiB
    for _ in range(10):
        await settle()
    offsets = [one["offset"] for one in [*reply["publications"], *client.publications(CHANNEL)]]
    assert offsets == list(range(1, MISSED + 1))


@wide
async def test_a_page_of_history_is_cut_however_wide_it_is(publication: Publication) -> None:
    cluster = Cluster(default=OPEN)
    node = cluster.edge(reply_max_bytes=REPLY_BYTES)
    wish = missed(cluster, publication)
    client = await connected(cluster, node)
    await client.call(subscribe={**wish, "recover": False})
    page = await client.call(history={"channel": CHANNEL, "limit": -1})
    assert 0 < len(json.dumps(page["publications"])) < 1.2 * REPLY_BYTES


@wide
def test_what_is_kept_in_memory_is_bounded_however_wide_it_is(publication: Publication) -> None:
    log = ChannelLog(StreamPosition(0, "e"), ring_size=MISSED, ring_max_bytes=REPLY_BYTES, buffer_size=1)
    for offset in range(1, MISSED + 1):
        log.message("e", Publication(publication.data, publication.info, publication.tags, offset=offset))
    assert len(log.since(MISSED - 10) or []) == 10
    assert log.since(MISSED - REPLY_BYTES // 1_000 - 1) is None
    pages = PageCache(REPLY_BYTES)
    for offset in range(MISSED):
        pages.put((CHANNEL, "e", offset), [publication], (0, 0), 0.0)
    assert pages.get((CHANNEL, "e", MISSED - 10))
    assert pages.get((CHANNEL, "e", MISSED - REPLY_BYTES // 1_000 - 1)) is None


async def test_a_reply_brings_so_little_that_an_sdk_on_a_slow_path_gets_it_in_time() -> None:
    """One that waits 5 s for a reply, and begins anew: larger ones would never arrive."""
    cluster = Cluster(default=OPEN)
    node = cluster.edge()
    wish = missed(cluster, Publication(b'"%b"' % (b"x" * 3_000)))
    client = await connected(cluster, node)
    reply = await client.call(subscribe=wish)
    assert reply["recovered"]
    assert len(json.dumps(reply)) < 1.2 * PAGE_BYTES
    for _ in range(10):
        await settle()
    offsets = [one["offset"] for one in [*reply["publications"], *client.publications(CHANNEL)]]
    assert offsets == list(range(1, MISSED + 1))


async def test_the_reply_to_connect_brings_as_little_for_all_its_channels_together() -> None:
    cluster = Cluster(default=OPEN)
    node = cluster.edge()
    names = [f"room{number}" for number in range(8)]
    for name in names:
        for _ in range(50):
            cluster.bus.append(name, Publication(b'"%b"' % (b"x" * 1_000)), "", "", 50)
    client = Client(cluster, node)
    positions = {name: {"recover": True, "offset": 0, "epoch": cluster.bus.log(name).epoch} for name in names}
    token = cluster.token("alice", subs={name: {"override": {"force_recovery": {"value": True}}} for name in names})
    reply = await client.call(connect={"token": token, "subs": positions})
    assert len(json.dumps(reply)) < 1.2 * PAGE_BYTES
    for _ in range(10):
        await settle()
    for name in names:
        found = reply["subs"][name]
        assert found["recovered"]
        assert [one["offset"] for one in [*found["publications"], *client.publications(name)]] == list(range(1, 51))


def test_a_page_that_is_too_old_is_read_anew_and_counts_once() -> None:
    pages, page = PageCache(REPLY_BYTES), [Publication(b"1")]
    for now in range(1_000):
        assert pages.get((CHANNEL, "e", 0), now) is None
        pages.put((CHANNEL, "e", 0), page, (0, 0), float(now))
    pages.put((CHANNEL, "e", 1), page, (0, 0), 1_000.0)
    assert pages.get((CHANNEL, "e", 0), 999.0) is page
    assert pages.get((CHANNEL, "e", 1)) is page
