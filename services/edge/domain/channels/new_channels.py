"""How many channels one user may begin on this edge: each leaves something in Redis, or in the store, for a while."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from services.edge.domain.channels.log_reader import LogReader
from services.edge.domain.token_bucket import TokenBucket
from services.shared.errors import ErrorCode, ThalamusError
from services.shared.namespaces import Durability, Namespace

_USERS = 100_000  # that are remembered; the one that began nothing for the longest time is forgotten first
_CHANNELS = 20_000  # of which it is remembered that they were let through
_MINUTE_S = 60.0


class NewChannels:
    """A channel that this edge has not seen lately costs a token; without one, only those that exist may be used."""

    def __init__(self, reader: LogReader, per_minute: int, now: Callable[[], float]) -> None:
        self._reader, self._per_minute, self._now = reader, per_minute, now
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()
        self._seen: set[str] = set()

    def has_seen(self, channel: str) -> bool:
        """It was let through lately."""
        return channel in self._seen

    def may(self, who: str, channel: str, namespace: Namespace) -> bool:
        """Whether it may without asking for more."""
        if not self._per_minute or namespace.durability is Durability.NONE or channel in self._seen:
            return True
        taken = self._bucket(who).take(self._now())
        if taken:
            self._note(channel)
        return taken

    async def admit(self, who: str, channel: str, namespace: Namespace) -> None:
        """Ask whether the channel exists where the user may begin no more.

        Raises:
            ThalamusError: 111, it does not; 100, nobody knows.
        """
        if self.may(who, channel, namespace):
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
