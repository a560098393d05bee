"""Invariant: an edge reads a log once for all who come back to a channel.

And once more for who missed more than they.

The real sessions, hub and reader of one edge; nothing is published meanwhile. Each gets exactly what it missed.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.edge.domain.model import Publication
from services.shared.namespaces import Mode
from tests.properties.lagging_edge import Edge
from tests.properties.manual_loop import ManualLoop, ticks
from tests.support.edge import OPEN, SIGNED_IN, Client, Cluster, connected, replace_namespace

CHANNEL = "room"
PUBLISHED = 12
_NAMESPACE = replace_namespace(OPEN, recovery=Mode.ALLOW, positioning=Mode.ALLOW, history=SIGNED_IN)
_waves = st.lists(
    st.tuples(st.lists(st.integers(0, PUBLISHED), min_size=1, max_size=8), st.integers(0, 30)), min_size=1, max_size=6
)
_lags = st.lists(st.integers(0, 4), min_size=1, max_size=9)


async def _come_back(waves: Sequence[tuple[Sequence[int], int]], lags: Sequence[int]) -> int:
    """Waves of clients with these offsets; return how many reads they cost.

    The clients of a wave come at once, and so many loop ticks pass behind it.
    """
    cluster = Cluster(default=_NAMESPACE)
    edge = Edge(cluster, itertools.cycle(lags), {})
    log = cluster.bus.log(CHANNEL)
    for number in range(1, PUBLISHED + 1):
        publication = Publication(data=b"%d" % number, time_ms=int(cluster.clock.unix * 1000))
        cluster.bus.append(CHANNEL, publication, "", str(number), 100)
    back: list[tuple[Client, int]] = []
    for offsets, pause in waves:
        wave = [(await connected(cluster, edge.node), offset) for offset in offsets]
        for client, offset in wave:
            wish = f'"channel":"{CHANNEL}","recoverable":true,"recover":true,"offset":{offset},"epoch":"{log.epoch}"'
            client.protocol.message(f'{{"id":9,"subscribe":{{{wish}}}}}'.encode(), binary=False)
        back += wave
        await ticks(pause)
    await ticks(100)
    for client, offset in back:
        (reply,) = [line["subscribe"] for line in client.lines if line.get("id") == 9]
        assert reply["recovered"]
        found = [publication["offset"] for publication in reply.get("publications", [])]
        assert found == list(range(offset + 1, PUBLISHED + 1))
    return edge.node.reader.reads


@settings(max_examples=300, deadline=None)
@given(_waves, _lags)
@example([([3], 1), ([3], 30), ([5], 0)], [2])
@example([([7, 3, 9, 0], 30)], [1])
@pytest.mark.slow
def test_only_who_missed_more_than_all_before_has_the_log_read(
    waves: Sequence[tuple[Sequence[int], int]], lags: Sequence[int]
) -> None:
    with asyncio.Runner(loop_factory=ManualLoop) as runner:
        reads = runner.run(_come_back(waves, lags))
    lowest = list(itertools.accumulate((min(offsets) for offsets, _ in waves), min))
    assert reads <= len({offset for offset in lowest if offset < PUBLISHED})
