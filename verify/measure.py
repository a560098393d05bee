"""Times of a run, from its history: percentiles per figure, in seconds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from verify import events as e


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed; nan of none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(slots=True)
class Figures:
    """Lists of seconds. `base_*`: of publications begun while no fault was on or just over."""

    ack: list[float] = field(default_factory=list)
    delivery: list[float] = field(default_factory=list)
    base_delivery: list[float] = field(default_factory=list)
    back: list[float] = field(default_factory=list)  # from the end of a connection the plan did not end to subscribed
    first_ack_after_heal: list[float] = field(default_factory=list)
    settled_after_heal: list[float] = field(default_factory=list)  # till no delivery is late any more


_AFTER_FAULT_S = 5.0
_LATE_S = 1.0


def measure(history: Iterable[e.Event]) -> Figures:
    """Read the times. Delivery: from the first attempt to publish until a client had it as a push."""
    figures = Figures()
    begun: dict[str, float] = {}
    gone: dict[tuple[str, str], float] = {}
    channels: dict[str, set[str]] = {}
    faults_on: set[str] = set()
    healed_at: float | None = None
    awaiting_ack = False
    last_late = 0.0
    quiet_until = 0.0  # no base before
    for event in history:
        match event:
            case e.Publishing():
                begun[event.id] = event.at
            case e.Acked():
                took = event.at - begun.get(event.id, event.at)
                figures.ack.append(took)
                if awaiting_ack and healed_at is not None:
                    figures.first_ack_after_heal.append(event.at - healed_at)
                    awaiting_ack = False
            case e.Delivered() if event.live:
                at = begun.get(event.id, event.at)
                took = event.at - at
                figures.delivery.append(took)
                if not faults_on and at >= quiet_until:
                    figures.base_delivery.append(took)
                if took > _LATE_S:
                    last_late = event.at
            case e.Fault():
                if event.on:
                    faults_on.add(event.name)
                else:
                    faults_on.discard(event.name)
                    healed_at, awaiting_ack = event.at, True
                    quiet_until = event.at + _AFTER_FAULT_S
            case e.Offline():
                if not event.planned:
                    for channel in channels.get(event.client, ()):
                        gone.setdefault((event.client, channel), event.at)
            case e.Told():
                gone.setdefault((event.client, event.channel), event.at)
            case e.Subscribed():
                channels.setdefault(event.client, set()).add(event.channel)
                left_at = gone.pop((event.client, event.channel), None)
                if left_at is not None:
                    figures.back.append(event.at - left_at)
            case _:
                pass
    if healed_at is not None:
        figures.settled_after_heal.append(max(0.0, last_late - healed_at))
    return figures
