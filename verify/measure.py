"""Times of a run from its history, in seconds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from verify import events as e

_AFTER_FAULT_S = 5.0  # time after a fault that does not count as undisturbed, seconds
_LATE_S = 1.0  # a delivery that takes longer is late, seconds


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that a `share` of the values does not exceed.

    NaN if there are none.
    """
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(slots=True)
class Figures:
    """Times of a run: lists of seconds.

    Delivery is the time from the first attempt to publish until a client has the publication as a push. `base`: begun
    while no fault was on or just over. `unharmed`: begun during a fault, acknowledged at the first attempt, delivered
    to clients of the other edges.
    """

    ack: list[float] = field(default_factory=list)
    failed: list[float] = field(default_factory=list)  # attempts without an outcome: time until that was known
    delivery: list[float] = field(default_factory=list)
    base: list[float] = field(default_factory=list)
    unharmed: list[float] = field(default_factory=list)
    catch_up: list[float] = field(default_factory=list)  # from beginning to connect until all that was missed is there
    back: list[float] = field(default_factory=list)  # from an unplanned end of a connection until subscribed again
    first_ack_after_heal: list[float] = field(default_factory=list)
    settled_after_heal: list[float] = field(default_factory=list)  # from the end of a fault until no delivery is late


class _Meter:
    """Collects times from the events of a history, in their order."""

    def __init__(self, harmed_edge: str) -> None:
        self.figures = Figures()
        self._harmed_edge = harmed_edge
        self._begun: dict[str, float] = {}
        self._clean: dict[str, bool] = {}  # acknowledged at the first attempt
        self._unsure: list[tuple[str, float]] = []  # begun during a fault; counts if acknowledged at the first attempt
        self._gone: dict[tuple[str, str], float] = {}
        self._channels: dict[str, set[str]] = {}
        self._edge_of: dict[str, str] = {}
        self._faults: set[str] = set()
        self._quiet_from = 0.0
        self._fault_began = math.inf
        self._healed_at: float | None = None
        self._awaits_ack = False
        self._last_late = 0.0

    def acked(self, event: e.Acked) -> None:
        self.figures.ack.append(event.at - self._begun.get(event.id, event.at))
        self._clean[event.id] = event.attempts == 1
        if self._awaits_ack and self._healed_at is not None:
            self.figures.first_ack_after_heal.append(event.at - self._healed_at)
            self._awaits_ack = False

    def delivered(self, event: e.Delivered) -> None:
        begun = self._begun.get(event.id, event.at)
        took = event.at - begun
        self.figures.delivery.append(took)
        if took > _LATE_S:
            self._last_late = event.at
        if not self._faults and begun >= self._quiet_from and begun < self._fault_began:
            self.figures.base.append(took)
        elif self._faults and begun >= self._fault_began and self._edge_of.get(event.client) != self._harmed_edge:
            self._unsure.append((event.id, took))

    def fault(self, event: e.Fault) -> None:
        if event.on:
            self._faults.add(event.name)
            self._fault_began = event.at
        else:
            self._faults.discard(event.name)
            self._healed_at, self._awaits_ack = event.at, True
            self._quiet_from, self._fault_began = event.at + _AFTER_FAULT_S, math.inf

    def subscribed(self, event: e.Subscribed) -> None:
        self._edge_of[event.client] = event.edge
        if event.recovered:
            self.figures.catch_up.append(event.took_s)
        self._channels.setdefault(event.client, set()).add(event.channel)
        left_at = self._gone.pop((event.client, event.channel), None)
        if left_at is not None:
            self.figures.back.append(event.at - left_at)

    def offline(self, event: e.Offline) -> None:
        if event.planned:
            return
        for channel in self._channels.get(event.client, ()):
            self._gone.setdefault((event.client, channel), event.at)

    def end(self) -> Figures:
        self.figures.unharmed = [took for id_, took in self._unsure if self._clean.get(id_)]
        if self._healed_at is not None:
            self.figures.settled_after_heal.append(max(0.0, self._last_late - self._healed_at))
        return self.figures

    def add(self, event: e.Event) -> None:
        match event:
            case e.Publishing():
                self._begun[event.id] = event.at
            case e.Acked():
                self.acked(event)
            case e.Failed():
                self.figures.failed.append(event.took_s)
            case e.Delivered() if event.live:
                self.delivered(event)
            case e.Fault():
                self.fault(event)
            case e.Subscribed():
                self.subscribed(event)
            case e.Offline():
                self.offline(event)
            case e.Told():
                self._gone.setdefault((event.client, event.channel), event.at)
            case _:
                pass


def measure(history: Iterable[e.Event], *, harmed_edge: str = "") -> Figures:
    """Return the times of a history.

    `harmed_edge`: address of the edge that a fault was for, if it was for one.
    """
    meter = _Meter(harmed_edge)
    for event in history:
        meter.add(event)
    return meter.end()
