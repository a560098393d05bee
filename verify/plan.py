"""Plan of a run, made from a seed: who subscribes, publishes and disconnects when."""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass, field


class Drop(enum.Enum):
    """How a client disconnects."""

    CLOSE = "close"  # a WebSocket close frame
    RESET = "reset"  # TCP reset
    VANISH = "vanish"  # TCP ends without a close frame, as when a process is killed
    HALF_OPEN = "half-open"  # the client neither reads nor writes any more; the server is not told


@dataclass(frozen=True, slots=True)
class Absence:
    """A client disconnects `at` seconds after the start, for `offline_s` seconds."""

    at: float
    drop: Drop
    offline_s: float


@dataclass(frozen=True, slots=True)
class SubscriberPlan:
    """One subscribing client, with a user of its own."""

    name: str
    channels: tuple[str, ...]
    absences: tuple[Absence, ...]


@dataclass(frozen=True, slots=True)
class PublisherPlan:
    """One client that publishes to its channels in turn, one publication at a time.

    `times` are seconds after the start.
    """

    name: str
    channels: tuple[str, ...]
    times: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a whole run."""

    seed: int
    duration_s: float
    channels: tuple[str, ...]
    subscribers: tuple[SubscriberPlan, ...]
    publishers: tuple[PublisherPlan, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Size of the load.

    `drop_every_s`: mean seconds between two absences of one client; 0: no client disconnects.
    """

    seed: int = 1
    duration_s: float = 60.0
    clients: int = 30
    channels: tuple[str, ...] = ("chat:verify-1", "chat:verify-2", "live:verify-1")
    channels_per_client: int = 1
    publishers: int = 6
    rate_per_s: float = 20.0
    drop_every_s: float = 10.0
    offline_s: tuple[float, float] = (0.1, 2.0)
    drops: tuple[Drop, ...] = field(default=tuple(Drop))


def make_plan(load: Load) -> Plan:
    """Make a plan. The same load gives the same plan."""
    rng = random.Random(load.seed)
    subscribers = []
    for number in range(load.clients):
        first = number % len(load.channels)
        others = [channel for index, channel in enumerate(load.channels) if index != first]
        chosen = rng.sample(others, min(load.channels_per_client - 1, len(others)))
        subscribers.append(SubscriberPlan(f"s{number}", (load.channels[first], *chosen), tuple(_absences(rng, load))))
    publishers = []
    for number in range(load.publishers):
        own = load.channels[number % len(load.channels) :: load.publishers]
        publishers.append(PublisherPlan(f"p{number}", own, tuple(_times(rng, load))))
    return Plan(load.seed, load.duration_s, load.channels, tuple(subscribers), tuple(publishers))


def _absences(rng: random.Random, load: Load) -> list[Absence]:
    if load.drop_every_s <= 0:
        return []
    found = []
    at = rng.uniform(0.5, load.drop_every_s)
    while at < load.duration_s:
        offline_s = rng.uniform(*load.offline_s)
        found.append(Absence(at, rng.choice(load.drops), offline_s))
        at += offline_s + load.drop_every_s * rng.uniform(0.5, 1.5)
    return found


def _times(rng: random.Random, load: Load) -> list[float]:
    """Return times evenly spread with jitter, so that publishers are not in step."""
    if load.rate_per_s <= 0:
        return []
    every = load.publishers / load.rate_per_s
    at, found = rng.uniform(0.0, every), []
    while at < load.duration_s:
        found.append(at)
        at += every * rng.uniform(0.8, 1.2)
    return found
