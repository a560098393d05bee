"""What is unread is what the log says, whatever happened, whoever is asked."""

from __future__ import annotations

import random

import pytest

from tests.chat.unread_play import Play
from tests.support.chat_calls import Site
from tests.support.full import sized

STEPS = sized(1_000, 100_000)


@pytest.mark.timeout(sized(300, 7_200))
@pytest.mark.parametrize("seed", [sized(1, 2_001)])
async def test_counts_are_what_brute_force_over_the_log_says(site: Site, seed: int) -> None:
    await play(site, seed, STEPS)


@pytest.mark.timeout(sized(300, 7_200))
@pytest.mark.parametrize("seed", [sized(2, 2_002)])
async def test_so_they_are_on_dynamodb(dynamodb_calls: Site, seed: int) -> None:
    await play(dynamodb_calls, seed, sized(40, 3_000))


async def play(site: Site, seed: int, steps: int) -> None:
    print(f"seed {seed}, {steps:,} steps")
    made = Play(site, random.Random(seed))
    await made.run(steps)
    print(dict(made.done), dict(made.seen))
    assert made.seen["unsure"] <= made.seen["answers"] / 1_000
    share = 1 if steps >= 1_000 else 10  # what a few steps come upon differs much
    assert made.seen["not zero"] > made.seen["answers"] / 4 / share
    assert made.seen["mentions"] > made.seen["answers"] / 10 / share
