"""Metrics of the domain's counters and of the keys of external issuers.

Other adapters and transport have metrics of their own.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import Counter, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.edge.domain.session.node import Node
from services.shared.errors import ErrorCode

# Of what fetches the keys of external issuers; here, so that they are exported without such issuers too.
ISSUER_KEYS = Gauge("thalamus_edge_issuer_keys", "Keys that are known of an external issuer.", ["issuer"])
ISSUER_FETCHED = Gauge(
    "thalamus_edge_issuer_keys_fetched_timestamp_seconds",
    "When the keys of an external issuer were last fetched, in Unix seconds; 0: never.",
    ["issuer"],
)
ISSUER_FAILURES = Counter(
    "thalamus_edge_issuer_fetch_failures", "Fetches of an external issuer's keys that failed.", ["issuer"]
)


class NodeCollector(Collector):
    """Prometheus collector of a node's counters.

    It reads plain numbers at each scrape, so that the hot path updates no Prometheus objects.
    """

    def __init__(self, node: Node, close_codes: frozenset[int]) -> None:
        """Create a collector; `close_codes` are those with a label of their own."""
        self._node = node
        self._close_codes = close_codes
        self._protocols: set[str] = set()  # those that were ever spoken: their numbers go back to 0

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of one scrape."""
        node = self._node
        hub = node.hub
        yield _gauge("sessions", "Sessions that are connected or connecting.", len(node.clients))
        yield _labelled(
            "protocol_sessions",
            "The same, by protocol and encoding.",
            "protocol",
            self._by_protocol(),
            GaugeMetricFamily,
        )
        yield _gauge("users", "Distinct users of these sessions.", len(node.users))
        yield _gauge("channels", "Channels that this edge is subscribed to.", len(hub))
        yield _gauge(
            "subscriptions", "Subscriptions of these sessions.", sum(len(channel) for channel in hub.channels.values())
        )
        yield _counter("published", "Publications accepted from clients and backends.", node.publisher.published)
        admission = node.publisher.admission
        logs = {"redis": admission.redis, "store": admission.store}
        yield _labelled(
            "publishes_pending",
            "Publications that wait for a log, or behind others of their client.",
            "log",
            {name: log.waiting for name, log in logs.items()},
            GaugeMetricFamily,
        )
        yield _labelled(
            "publish_wait_seconds",
            "Seconds that publications waited of late until a log held them, behind others of their client included.",
            "log",
            {name: log.wait_s for name, log in logs.items()},
            GaugeMetricFamily,
        )
        yield _labelled(
            "publishes_refused", "Publications refused on arrival, by the rule against them.", "rule", admission.refused
        )
        yield _counter("publications_received", "Publications received from Redis.", hub.publications_received)
        yield _counter("deliveries", "Frames handed to subscribers.", hub.deliveries)
        yield _counter("gaps", "Jumps in a log that were repaired by reading.", hub.gaps)
        yield _counter("resyncs", "Channels whose subscribers got a gap notification.", hub.resyncs)
        yield _counter("log_reads", "Reads for gaps and recovery.", node.reader.reads)
        counters = node.counters
        yield _labelled("commands", "Commands by kind.", "kind", counters.commands)
        yield _labelled(
            "errors",
            "Error replies by code.",
            "code",
            {ErrorCode(k).name.lower(): v for k, v in counters.errors.items()},
        )
        yield _labelled(
            "closes",
            "Connections that this edge ended, by code.",
            "code",
            _by_known_code(counters.closes, self._close_codes),
        )
        yield _labelled("limit_refusals", "Refusals because of a limit.", "limit", counters.limited.by_limit)
        yield _labelled("recoveries", "Recoveries by outcome.", "outcome", counters.recoveries)
        yield _labelled("resumes", "Connects with a token that has just expired.", "outcome", node.resume.outcomes)
        yield _labelled("profile_cache", "Profiles asked for, by outcome.", "outcome", node.profiles.outcomes)
        yield _gauge("profiles_cached", "Profiles that this edge holds.", len(node.profiles))
        yield _labelled(
            "profile_changes", "Changed profiles, told to clients or not.", "outcome", node.announcer.outcomes
        )
        yield _gauge("profile_changes_pending", "Changed profiles that wait to be told.", len(node.announcer))
        newcomers = {"told": node.newcomers.told, "dropped": node.newcomers.dropped}
        yield _labelled("seen_users", "Users that auth may not know, told to it or not.", "outcome", newcomers)
        yield _gauge("resumable", "Entries of this edge in the session table.", len(node.resume))

    def _by_protocol(self) -> dict[str, int]:
        """Count the sessions by what their clients speak."""
        found = collections.Counter(session.encoder.name for session in self._node.clients.values())
        self._protocols.update(found)
        return {name: found[name] for name in sorted(self._protocols)}


def _by_known_code(closes: dict[int, int], known: frozenset[int]) -> dict[str, int]:
    """Sum the counts of unknown codes under the label "other".

    Backends may close connections with any of 2,000 codes.
    """
    found: dict[str, int] = {}
    for code, count in list(closes.items()):
        label = str(code) if code in known else "other"
        found[label] = found.get(label, 0) + count
    return found


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"thalamus_edge_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"thalamus_edge_{name}", text, value=value)


def _labelled(
    name: str,
    text: str,
    label: str,
    values: Mapping[Any, float],
    kind: type[CounterMetricFamily | GaugeMetricFamily] = CounterMetricFamily,
) -> Metric:
    family = kind(f"thalamus_edge_{name}", text, labels=[label])
    for key, value in list(values.items()):
        family.add_metric([key], value)
    return family
