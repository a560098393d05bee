"""Limits how many new channels one user may begin on this edge.

Each channel with a log leaves data in Redis or in the store for a while, so their number must be bounded.
Decision: docs/decisions/0027-channels-that-nobody-used-before.md.
"""

from __future__ import annotations

from collections.abc import Callable

from services.edge.domain.channels.log_reader import LogReader
from services.edge.domain.limits.rates import Rates
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
        self._reader = reader
        self._rates = Rates(per_minute / _MINUTE_S, per_minute, now, max_names=_USERS) if per_minute else None
        self._seen: set[str] = set()

    def has_seen(self, channel: str) -> bool:
        """Return whether the channel was accepted lately."""
        return channel in self._seen

    def try_admit(self, who: str, channel: str, namespace: Namespace) -> bool:
        """Accept the channel without a check that it exists; False if no token is left.

        Takes a token if the channel has a log and was not accepted lately.
        """
        return not self._wait_s(who, channel, namespace)

    def _wait_s(self, who: str, channel: str, namespace: Namespace) -> float:
        """Do as `try_admit`; return 0, or the seconds until there is a token."""
        if self._rates is None or namespace.durability is Durability.NONE or channel in self._seen:
            return 0.0
        if namespace.conversations:  # persistence begins them; here it would tell whether one exists
            return 0.0
        wait_s = self._rates.take(who)
        if not wait_s:
            self._note(channel)
        return wait_s

    async def admit(self, who: str, channel: str, namespace: Namespace) -> None:
        """Accept the channel; if the user has no token left, check first that it exists.

        Raises:
            ThalamusError: 111 if it does not exist, 100 if Redis or the store does not answer.
        """
        wait_s = self._wait_s(who, channel, namespace)
        if not wait_s:
            return
        if not await self._reader.has_begun(channel, namespace):
            raise ThalamusError("too many new channels", ErrorCode.TOO_MANY_REQUESTS, retry_after_s=wait_s)
        self._note(channel)

    def _note(self, channel: str) -> None:
        if len(self._seen) >= _CHANNELS:
            self._seen.clear()
        self._seen.add(channel)
