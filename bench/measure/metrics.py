"""Counters of the platform's services, from their /metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from cli.http import request

_TIMEOUT_S = 5.0


async def scrape(internal: Mapping[str, str]) -> list[Sample]:
    """All samples of all services."""
    answers = await asyncio.gather(
        *(asyncio.to_thread(request, "GET", f"{url}/metrics", timeout_s=_TIMEOUT_S) for url in internal.values())
    )
    return [
        sample
        for _, body in answers
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    ]


def total(samples: Sequence[Sample], name: str, **labels: str) -> float:
    """Sum of the samples of that name which have these labels."""
    return sum(sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items())
