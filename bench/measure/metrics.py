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
    return [sample for samples in (await scrape_each(internal)).values() for sample in samples]


async def scrape_each(internal: Mapping[str, str]) -> dict[str, list[Sample]]:
    """Samples by the names of services."""
    answers = await asyncio.gather(
        *(asyncio.to_thread(request, "GET", f"{url}/metrics", timeout_s=_TIMEOUT_S) for url in internal.values())
    )
    return {
        name: [sample for family in text_string_to_metric_families(body.decode()) for sample in family.samples]
        for name, (_, body) in zip(internal, answers, strict=True)
    }


def total(samples: Sequence[Sample], name: str, **labels: str) -> float:
    """Sum of the samples of that name which have these labels."""
    return sum(sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items())
