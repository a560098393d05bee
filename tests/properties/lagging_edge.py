"""Edges in memory whose every interleaving comes from the test.

Lags in loop ticks before and behind what ports do.

Between pub/sub and an edge's hub is a wire that can be stopped.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from services.edge.domain.channels.channel import Channel
from services.edge.domain.model import ClientInfo, Publication
from services.edge.domain.session.node import Node
from tests.properties.manual_loop import ticks
from tests.support.edge import Cluster
from tests.support.memory import MemoryBroker


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self.texts.append(f"{record.getMessage()}: {error!r}")


@contextmanager
def errors_logged() -> Iterator[list[str]]:
    """What edges log as errors goes here; the rest goes nowhere."""
    logger, handler = logging.getLogger("services.edge"), _Errors()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    try:
        yield handler.texts
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


class Wire:
    """Pub/sub as it comes to one hub.

    At once, or stopped and let go in any order, some twice, some never.
    """

    def __init__(self, hub: Any) -> None:
        self.hub = hub
        self.stopped = False
        self.received: dict[Channel, int] = {}  # the highest offset that each view was told of
        self._held: list[Callable[[], None]] = []

    def publication(self, channel: str, epoch: str, publication: Publication) -> None:
        def deliver() -> None:
            self.hub.publication(channel, epoch, copy.copy(publication))
            view = self.hub.channels.get(channel)
            if view is not None and view.log.epoch == epoch:
                self.received[view] = max(self.received.get(view, 0), publication.offset)

        self._pass(deliver)

    def ephemeral(self, channel: str, publication: Publication) -> None:
        self._pass(lambda: self.hub.ephemeral(channel, copy.copy(publication)))

    def was_reset(self, channel: str, epoch: str) -> None:
        self._pass(lambda: self.hub.was_reset(channel, epoch))

    def joined(self, channel: str, infos: Sequence[ClientInfo]) -> None:
        self.hub.joined(channel, infos)

    def updated(self, channel: str, infos: Sequence[ClientInfo]) -> None:
        self.hub.updated(channel, infos)

    def left(self, channel: str, info: ClientInfo) -> None:
        self.hub.left(channel, info)

    def reconnected(self) -> None:
        self.hub.reconnected()

    def let_go(self, picks: Sequence[int], *, lose: bool) -> None:
        """First those picked, then all, unless the rest is lost."""
        held, self._held, self.stopped = self._held, [], False
        for pick in picks:
            if held:
                held[pick % len(held)]()
        for deliver in [] if lose else held:
            deliver()

    def _pass(self, deliver: Callable[[], None]) -> None:
        if self.stopped:
            self._held.append(deliver)
        else:
            deliver()


class Edge:
    """One edge, its wire, and lags around what its broker and presence do."""

    def __init__(self, cluster: Cluster, lags: Iterator[int], options: dict[str, Any]) -> None:
        self.node: Node = cluster.edge(commands_per_s=0, ping_interval_s=0, **options)
        broker = self.node.broker
        assert isinstance(broker, MemoryBroker)
        self.broker = broker
        self.wire = Wire(self.node.hub)
        self.broker.listener = self.wire
        for name in ("top", "tops", "stored_top", "read", "reset"):
            self._lag(name, lags, before=True)
        for name in ("subscribe", "unsubscribe"):  # one connection: what was asked first happens first
            self._lag(name, lags, before=False)

    def _lag(self, name: str, lags: Iterator[int], *, before: bool) -> None:
        call = getattr(self.broker, name)

        async def late(*arguments: Any, **options: Any) -> Any:
            if before:
                await ticks(next(lags))
            found = await call(*arguments, **options)
            await ticks(next(lags))
            self.broker.bus.check()  # the answer may be lost, too
            return found

        setattr(self.broker, name, late)
