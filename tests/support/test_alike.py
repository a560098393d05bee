"""What is alike passes on a busy machine, what differs does not."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import pytest

from tests.support.alike import assert_alike


def busy(chance: random.Random, **costs: float) -> Callable[[str], Awaitable[float]]:
    """Times of a machine where a third of the samples take up to ten times as long."""

    async def once(what: str) -> float:
        waits = chance.uniform(1, 10) if chance.random() < 1 / 3 else 1.0
        return costs[what] * chance.uniform(0.8, 1.2) * waits

    return once


@pytest.mark.parametrize("seed", range(20))
async def test_the_same_is_alike(seed: int) -> None:
    await assert_alike(busy(random.Random(seed), there=1.0, nowhere=1.0), "there", "nowhere", samples=60)


@pytest.mark.parametrize("seed", range(20))
async def test_what_takes_a_quarter_more_is_not(seed: int) -> None:
    with pytest.raises(AssertionError, match="another time"):
        await assert_alike(busy(random.Random(seed), there=1.25, nowhere=1.0), "there", "nowhere", samples=60)
