"""The quick histogram counts as the library's does."""

from __future__ import annotations

import random

from prometheus_client import CollectorRegistry, Histogram

from services.shared.process.metrics import SECONDS_BUCKETS, QuickHistogram


def samples(registry: CollectorRegistry, name: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): round(sample.value, 9)
        for family in registry.collect()
        for sample in family.samples
        if sample.name.startswith(name) and not sample.name.endswith("_created")
    }


def test_it_counts_and_is_shown_as_the_librarys() -> None:
    rng = random.Random(4)
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    by = QuickHistogram("some_seconds", "How long.", SECONDS_BUCKETS, registry=ours).by("kind", ["a", "b"])
    library = Histogram("some_seconds", "How long.", ["kind"], buckets=SECONDS_BUCKETS, registry=theirs)
    for kind in ("a", "b"):
        library.labels(kind)
    for value in [*SECONDS_BUCKETS, 0.0, 99.0, *(rng.expovariate(10) for _ in range(1_000))]:
        kind = rng.choice("ab")
        by[kind].observe(value)
        library.labels(kind).observe(value)
    assert samples(ours, "some_seconds") == samples(theirs, "some_seconds")


def test_one_without_a_label_has_none() -> None:
    registry = CollectorRegistry()
    alone = QuickHistogram("other_seconds", "How long.", (1.0,), registry=registry).unlabelled()
    alone.observe(0.5)
    alone.observe(2.0)
    found = samples(registry, "other_seconds")
    assert found[("other_seconds_count", frozenset())] == 2.0
    assert found[("other_seconds_bucket", frozenset({("le", "1.0")}))] == 1.0
