"""One read for all who come back.

What of it is kept, and that nobody is refused for what another has missed.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.edge.domain.channels.channel_log import ChannelLog
from services.edge.domain.channels.log_reader import TooMuch
from services.edge.domain.model import HistoryPage, Publication, StreamPosition
from services.edge.domain.session.node import Node
from tests.support.edge import OPEN, Cluster, settle

CHANNEL = "room"
PUBLISHED = 8


class Late:
    """An edge whose reads wait until they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **options: int) -> None:
        self.cluster = Cluster(default=OPEN)
        self.node: Node = self.cluster.edge(**options)
        for number in range(1, PUBLISHED + 1):
            self.cluster.bus.append(CHANNEL, Publication(data=b"%d" % number), "", str(number), 100)
        self.log = ChannelLog(
            StreamPosition(PUBLISHED, self.cluster.bus.log(CHANNEL).epoch),
            ring_size=100,
            ring_max_bytes=1_000,
            buffer_size=4,
        )
        self.let_go = asyncio.Event()
        read = self.node.broker.read

        async def late(*arguments: Any, **more: Any) -> HistoryPage | None:
            found = await read(*arguments, **more)
            await self.let_go.wait()
            return found

        monkeypatch.setattr(self.node.broker, "read", late)

    def come_back(self, offset: int) -> asyncio.Task[HistoryPage | None]:
        return asyncio.create_task(self.node.reader.missed(CHANNEL, OPEN, self.log, offset))


async def test_a_history_that_is_removed_while_it_is_read_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    late = Late(monkeypatch)
    back = late.come_back(2)
    await settle()
    late.log.forget()
    late.let_go.set()
    await back
    assert late.log.since(PUBLISHED - 1) is None


async def test_who_missed_too_much_keeps_nobody_else_from_recovering(monkeypatch: pytest.MonkeyPatch) -> None:
    late = Late(monkeypatch, recovery_limit=5)
    much, little = late.come_back(0), late.come_back(5)
    late.let_go.set()
    with pytest.raises(TooMuch):
        await much
    page = await little
    assert page is not None
    assert [one.offset for one in page.publications] == [6, 7, 8]


async def test_who_comes_later_and_missed_more_has_a_read_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    late = Late(monkeypatch)
    first = late.come_back(5)
    await settle()
    more, less = late.come_back(2), late.come_back(6)
    await settle()
    late.let_go.set()
    found = [await back for back in (first, more, less)]
    assert [page and page.publications[0].offset for page in found] == [6, 3, 3]
    assert late.node.reader.reads == 2
    assert [one.offset for one in late.log.since(2) or []] == [3, 4, 5, 6, 7, 8]
