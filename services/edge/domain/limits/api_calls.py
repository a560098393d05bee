"""Limit of the calls of one API key to the server API, over all edges.

Redis decides every call, so the limit is exact over the cluster; see `exact.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from services.edge.domain.limits.exact import ExactLimit
from services.edge.domain.limits.ports import SharedRates
from services.edge.domain.limits.refusals import API_CALLS, LimitRefusals

_KEYS = 10_000  # API keys that are counted here while Redis is away


class ApiCallLimit(ExactLimit):
    """Bucket of calls per API key, by its id.

    Args:
        shared: The buckets in Redis.
        rate: Calls per second of one key; above 0.
        burst: Calls that a key may make at once.
        now: Monotonic seconds, for the time without Redis.
        refusals: Counts what is refused.
    """

    def __init__(
        self, shared: SharedRates, *, rate: float, burst: int, now: Callable[[], float], refusals: LimitRefusals
    ) -> None:
        super().__init__(
            shared,
            limit=API_CALLS,
            what="calls",
            rate=rate,
            burst=burst,
            now=now,
            refusals=refusals,
            max_names=_KEYS,
        )
