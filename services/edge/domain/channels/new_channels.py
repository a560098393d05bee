"""Limits how many new channels one user may begin on this edge.

Each channel with a log leaves data in Redis or in the store for a while, so their number must be bounded.
Decision: docs/decisions/0027-channels-that-nobody-used-before.md.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from services.edge.domain.channels.log_reader import LogReader
from services.edge.domain.token_bucket import TokenBucket
from services.shared.errors import ErrorCode, ThalamusError
from services.shared.namespaces import Durability, Namespace

_USERS = 100_000  # users with a token bucket; the one that took no token for the longest time is dropped first
_CHANNELS = 20_000  # accepted channels that are remembered; then all are forgotten
_MINUTE_S = 60.0


class NewChannels:
    """Token bucket per user for channels that this edge has not accepted lately.

    A user without tokens may use only channels that exist.
    """

    def __init__(self, reader: LogReader, per_minute: int, now: Callable[[], float]) -> None:
        self._reader, self._per_minute, self._now = reader, per_minute, now
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()
        self._seen: set[str] = set()

    def has_seen(self, channel: str) -> bool:
        """Return whether the channel was accepted lately."""
        return channel in self._seen

    def try_admit(self, who: str, channel: str, namespace: Namespace) -> bool:
        """Accept the channel without a check that it exists; False if no token is left.

        Takes a token if the channel has a log and was not accepted lately.
        """
        if not self._per_minute or namespace.durability is Durability.NONE or channel in self._seen:
            return True
        taken = self._bucket(who).take(self._now())
        if taken:
            self._note(channel)
        return taken

    async def admit(self, who: str, channel: str, namespace: Namespace) -> None:
        """Accept the channel; if the user has no token left, check first that it exists.

        Raises:
            ThalamusError: 111 if it does not exist, 100 if Redis or the store does not answer.
        """
        if self.try_admit(who, channel, namespace):
            return
        if not await self._reader.has_begun(channel, namespace):
            wait_s = self._bucket(who).retry_after_s()
            raise ThalamusError("too many new channels", ErrorCode.TOO_MANY_REQUESTS, retry_after_s=wait_s)
        self._note(channel)

    def _note(self, channel: str) -> None:
        if len(self._seen) >= _CHANNELS:
            self._seen.clear()
        self._seen.add(channel)

    def _bucket(self, who: str) -> TokenBucket:
        bucket = self._buckets.get(who)
        if bucket is None:
            if len(self._buckets) >= _USERS:
                self._buckets.popitem(last=False)
            bucket = self._buckets[who] = TokenBucket(self._per_minute / _MINUTE_S, self._per_minute, self._now())
        else:
            self._buckets.move_to_end(who)
        return bucket
