"""Metrics that all services have, named `thalamus_<service>_<what>_<unit>`."""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

# Seconds: 0.5 ms is a quick local call, 2.5 s the longest that a call to a dependency may take.
SECONDS_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class QuickHistogram(Collector):
    """Prometheus histogram for events of every message.

    `observe` costs a tenth of the library's. It is not thread-safe: use it from one thread only.
    """

    def __init__(
        self, name: str, documentation: str, bounds: Sequence[float], registry: CollectorRegistry = REGISTRY
    ) -> None:
        self._name, self._documentation = name, documentation
        self._bounds = tuple(bounds)
        self._all: dict[str, Buckets] = {}
        self._label = ""
        registry.register(self)

    def by(self, label: str, values: Sequence[str]) -> dict[str, Buckets]:
        """Add one histogram per value of this label, and return them by value."""
        self._label = label
        self._all = {value: Buckets(self._bounds) for value in values}
        return self._all

    def unlabelled(self) -> Buckets:
        """Add one histogram without a label, and return it."""
        self._all[""] = Buckets(self._bounds)
        return self._all[""]

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Return the metric family; called by the Prometheus library."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=[self._label] if self._label else [])
        for value, buckets in self._all.items():
            family.add_metric([value] if self._label else [], buckets.cumulative(), buckets.total)
        yield family


class RenamedCounter:
    """Prometheus counter that is also exported under its old name, for one version.

    So the alerts and dashboards of users go on working after an update. Both names always have the same value.
    """

    def __init__(self, name: str, documentation: str, *, old_name: str, registry: CollectorRegistry = REGISTRY) -> None:
        """Register both names, each without the suffix `_total`."""
        old_documentation = f"Old name of {name}_total. It is removed in the next version."
        self._counters = (
            Counter(name, documentation, registry=registry),
            Counter(old_name, old_documentation, registry=registry),
        )

    def inc(self) -> None:
        """Add 1 under both names."""
        for counter in self._counters:
            counter.inc()


class Buckets:
    """Counts of one histogram."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value in its bucket. A value equal to a bound belongs to that bound."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Return (bound, count of values up to it) pairs; the last bound is infinity."""
        found, so_far = [], 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            so_far += count
            found.append((str(floatToGoString(bound)), float(so_far)))  # type: ignore[no-untyped-call]
        return found


@dataclass(frozen=True, slots=True)
class ServerMetrics:
    """What the gRPC server of a service measures. A stream counts each of its batches."""

    seconds: Histogram
    failures: Counter


@dataclass(frozen=True, slots=True)
class ClientMetrics:
    """What a service measures of its gRPC calls. A stream counts each of its batches."""

    seconds: Histogram
    failures: Counter
    batch_items: Histogram
    repeated: Counter


@functools.cache
def server_metrics(service: str) -> ServerMetrics:
    """Return the metrics of one service's gRPC server, always the same object."""
    return ServerMetrics(
        seconds=Histogram(
            f"thalamus_{service}_grpc_seconds",
            "Seconds to serve a call, or one batch of a stream.",
            ["method"],
            buckets=SECONDS_BUCKETS,
        ),
        failures=Counter(
            f"thalamus_{service}_grpc_failures_total", "Calls that ended with an error.", ["method", "status"]
        ),
    )


@functools.cache
def client_metrics(service: str) -> ClientMetrics:
    """Return the metrics of one service's gRPC calls, always the same object."""
    return ClientMetrics(
        seconds=Histogram(
            f"thalamus_{service}_grpc_client_seconds",
            "Seconds until another service answered a call, or one batch of a stream.",
            ["method"],
            buckets=SECONDS_BUCKETS,
        ),
        failures=Counter(
            f"thalamus_{service}_grpc_client_failures_total", "Calls that another service failed.", ["method", "status"]
        ),
        batch_items=Histogram(
            f"thalamus_{service}_grpc_client_batch_items",
            "Items of a batch that went to another service.",
            ["method"],
            buckets=BATCH_BUCKETS,
        ),
        repeated=Counter(
            f"thalamus_{service}_grpc_client_repeated_items_total",
            "Items sent again because the stream broke before their response.",
            ["method"],
        ),
    )


def short_method(path: str) -> str:
    """Return the metric label of a method.

    Example: `PresenceService/Change` for `/thalamus.presence.v1.PresenceService/Change`.
    """
    return path.rpartition(".")[2]
