"""Whether two things take the same time, by medians of samples that take turns."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def assert_alike(
    once: Callable[[T], Awaitable[float]], one: T, other: T, *, samples: int, within: float = 0.10, rounds: int = 10
) -> None:
    """Compare how long two things take, and take more samples while that differs.

    Medians are of all samples so far. What a busy machine adds to some of them evens out with more, what really differs
    does not.

    Args:
        once: Does one of them once, and returns how long it took.
        one: What to do.
        other: The other.
        samples: Of each, in a round.
        within: The most by which the medians may differ, as a part of the larger.
        rounds: The most.

    Raises:
        AssertionError: after all rounds they differ by more.
    """
    taken: tuple[list[float], list[float]] = ([], [])
    seen = []
    for _ in range(rounds):
        for number in range(samples):
            for index, what in ((0, one), (1, other)) if number % 2 else ((1, other), (0, one)):
                taken[index].append(await once(what))
        medians = [statistics.median(times) for times in taken]
        seen.append(medians[0] / medians[1])
        print(f"{medians[0] * 1e3:.2f} ms and {medians[1] * 1e3:.2f} ms")
        if abs(medians[0] - medians[1]) <= within * max(medians):
            return
    raise AssertionError(f"{one!r} takes another time than {other!r}: {seen}")
