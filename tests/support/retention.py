"""Retention on a log of a test."""

from __future__ import annotations

import time
from collections.abc import Callable

from services.persistence.domain.clocks import Clocks
from services.persistence.domain.log import Log
from services.persistence.domain.ports import HotLog, LogStore
from services.persistence.domain.retention import Messages, Retention, Swept
from services.shared.namespaces import Durability, Namespace, Namespaces


class OwnTurn:
    """It is always ours, unless a test says otherwise."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.is_ours, self.is_lost = True, False
        self.ended: list[tuple[Swept, int]] = []

    async def time(self) -> float:
        return self.clock()

    async def take(self) -> bool:
        return self.is_ours

    async def keep(self) -> bool:
        return not self.is_lost

    async def end(self, swept: Swept, pause_s: int) -> None:
        self.ended.append((swept, pause_s))


def with_retention(**namespaces: tuple[int, int]) -> Namespaces:
    """Namespaces that keep publications for (days, messages); 0: no limit."""
    return Namespaces(
        None,
        {
            name: Namespace(name=name, durability=Durability.STORED, retention_days=days, retention_messages=messages)
            for name, (days, messages) in namespaces.items()
        },
    )


def no_retention(log: Log) -> Retention:
    """Retention of no namespace, for a service that needs it."""
    turn = OwnTurn()
    return Retention(log, log._hot, log._store, Namespaces(), turn, Clocks(turn.time))  # noqa: SLF001


def retention_of(
    log: Log,
    hot: HotLog,
    store: LogStore,
    namespaces: Namespaces,
    clock: Callable[[], float],
    messages: Messages | None = None,
) -> tuple[Retention, OwnTurn]:
    """Return retention whose turn it always is, and the turn; all clocks are one."""
    turn = OwnTurn(clock)
    return Retention(log, hot, store, namespaces, turn, one_clock(clock), messages), turn


def one_clock(clock: Callable[[], float]) -> Clocks:
    """Clocks that agree, whatever it is."""
    return Clocks(OwnTurn(clock).time, clock, clock)
