"""Counters of the public port, and the collector that shows them at /metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_RFC_CODES = frozenset({1000, 1002, 1003, 1007, 1009, 1011})  # those of RFC 6455 with a label of their own


@dataclass(slots=True)
class TransportCounters:
    """Counters of the public port: plain numbers, read at each scrape.

    `close_codes` are the codes of client protocols that have a label of their own.
    """

    close_codes: frozenset[int] = frozenset()
    websockets: int = 0  # open WebSocket connections
    compressed_websockets: int = 0  # those of them that compress
    https: int = 0  # open HTTP connections
    accepted_websockets: int = 0
    accepted_https: int = 0
    refused: dict[str, int] = field(default_factory=dict)  # by reason
    closes: dict[tuple[str, str], int] = field(default_factory=dict)  # by code and by the side that closed
    messages_received: int = 0
    bytes_received: int = 0
    frames_sent: int = 0
    writes: int = 0
    bytes_sent: int = 0
    frames_compressed: int = 0
    compression_saved_bytes: int = 0
    ephemeral_dropped: int = 0

    def refuse(self, reason: str) -> None:
        """Count a connection or a request that was refused."""
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def closed_by_server(self, code: int) -> None:
        """Count a close frame that the server sent first; unknown codes count as "other"."""
        known = code in _RFC_CODES or code in self.close_codes
        self._close(str(code) if known else "other", "server")

    def closed_by_client(self, code: int) -> None:
        """Count a close frame that the client sent first; unusual codes count as "other"."""
        self._close(str(code) if code in (1000, 1001, 1005) else "other", "client")

    def lost(self) -> None:
        """Count a connection that ended without any close frame."""
        self._close("1006", "nobody")

    def _close(self, code: str, by: str) -> None:
        self.closes[code, by] = self.closes.get((code, by), 0) + 1


class TransportCollector(Collector):
    """Prometheus collector of `TransportCounters`.

    It reads plain numbers at each scrape, so that the hot path updates no Prometheus objects.
    """

    def __init__(self, counters: TransportCounters, outbox_bytes: Callable[[], int]) -> None:
        self._counters = counters
        self._outbox_bytes = outbox_bytes

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of one scrape."""
        now = self._counters
        connections = GaugeMetricFamily("thalamus_edge_connections", "Connections by kind.", labels=["kind"])
        connections.add_metric(["websocket"], now.websockets)
        connections.add_metric(["http"], now.https)
        yield connections
        yield GaugeMetricFamily(
            "thalamus_edge_compressed_connections",
            "WebSocket connections with permessage-deflate.",
            value=now.compressed_websockets,
        )
        accepted = CounterMetricFamily("thalamus_edge_accepted", "Connections accepted, by kind.", labels=["kind"])
        accepted.add_metric(["websocket"], now.accepted_websockets)
        accepted.add_metric(["http"], now.accepted_https)
        yield accepted
        refused = CounterMetricFamily(
            "thalamus_edge_refused", "Connections and requests refused, by reason.", labels=["reason"]
        )
        for reason, count in list(now.refused.items()):
            refused.add_metric([reason], count)
        yield refused
        closes = CounterMetricFamily(
            "thalamus_edge_websocket_closes", "Ends of WebSocket connections.", labels=["code", "by"]
        )
        for (code, by), count in list(now.closes.items()):
            closes.add_metric([code, by], count)
        yield closes
        for name, text, value in (
            ("messages_received", "WebSocket messages from clients.", now.messages_received),
            ("received_bytes", "Bytes read from WebSocket connections.", now.bytes_received),
            ("frames_sent", "WebSocket frames written.", now.frames_sent),
            ("writes", "Writes that carried them.", now.writes),
            ("sent_bytes", "Bytes of these writes.", now.bytes_sent),
            ("frames_compressed", "Frames that were compressed, each once for all clients.", now.frames_compressed),
            (
                "compression_saved_bytes",
                "Bytes that clients were not sent because their frames were compressed.",
                now.compression_saved_bytes,
            ),
            ("ephemeral_dropped", "Ephemeral events that slow clients were not sent.", now.ephemeral_dropped),
        ):
            yield CounterMetricFamily(f"thalamus_edge_{name}", text, value=value)
        yield GaugeMetricFamily(
            "thalamus_edge_outbox_bytes", "Bytes waiting for clients that read slowly.", value=self._outbox_bytes()
        )
