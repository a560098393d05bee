"""Interfaces between the limits of the cluster and their adapters."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Taken(NamedTuple):
    """Tokens that were taken from a bucket; if 0, the seconds until there are enough."""

    tokens: int
    wait_s: float


class SharedRates(Protocol):
    """Buckets of tokens that all edges share. They count by the clock of Redis.

    A bucket holds `burst` tokens, gains `rate` tokens a second, and is full at first.
    """

    async def take(self, limit: str, name: str, *, rate: float, burst: float, most: int, least: int) -> Taken:
        """Take tokens from the bucket of a name: from `least` to `most`, or none.

        Raises:
            Unavailable: within 0.5 s, if Redis does not answer; the tokens may be taken.
            Busy: too many calls wait.
        """


class SharedCounts(Protocol):
    """How many connections each edge holds of a name.

    What an edge has told counts until it tells another number, or is dead.
    """

    @property
    def is_available(self) -> bool:
        """Whether `count` can be expected to work."""

    async def count(self, limit: str, name: str, *, held: int, wanted: int, cap: int) -> int:
        """Tell how many connections this edge holds, and ask for more.

        Return how many it holds now: `held`, and as many of `wanted` as the cap leaves room for beside those of all
        other edges.

        Raises:
            Unavailable: Redis does not answer, or takes this edge for dead; it may have been told.
            Busy: too many calls wait.
        """
