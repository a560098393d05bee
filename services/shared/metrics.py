"""Metrics that every service has alike, named `thalamus_<service>_<what>_<unit>`, and the buckets of all."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from prometheus_client import Counter, Histogram

# Half a millisecond is a quick local call, 2.5 s the longest any call to a dependency may take.
SECONDS_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class ServerMetrics:
    """What a service's gRPC face measures; a stream counts each of its batches."""

    seconds: Histogram
    failures: Counter


@dataclass(frozen=True, slots=True)
class ClientMetrics:
    """What a service measures of its calls to others; a stream counts each of its batches."""

    seconds: Histogram
    failures: Counter
    batch_items: Histogram
    repeated: Counter


@functools.cache
def server_metrics(service: str) -> ServerMetrics:
    """Those of one service in the default registry; asked again, the same."""
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
    """Those of one calling service in the default registry; asked again, the same."""
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
            "Items sent again because the stream broke before their answer.",
            ["method"],
        ),
    )


def short_method(path: str) -> str:
    """`PresenceService/Change` of `/thalamus.presence.v1.PresenceService/Change`: the label of a method."""
    return path.rpartition(".")[2]
