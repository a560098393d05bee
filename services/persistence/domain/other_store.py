"""Decides whether Redis may be taken over from another store that it names.

It may if the other store is not in use: nobody counts up its heartbeat counter in Redis any more.
Several platforms must not share a Redis under the same prefix: see docs/decisions/0022.
"""

from __future__ import annotations

from services.shared.errors import Unavailable
from services.shared.process.config import ConfigError

SILENT_S = 10.0  # seconds: a store in use is counted for every second, and a restart takes less than this


class OtherStoreFound(Unavailable):
    """Redis belongs to another store, which may be in use.

    Raised by callers of `OtherStore` while it is not known yet.
    """


class OtherStore:
    """Watches the heartbeat counter of one other store, by what the caller reads."""

    def __init__(self) -> None:
        self._name = ""
        self._count = 0
        self._since = 0.0

    def forget(self) -> None:
        """Forget the other store: Redis names ours, or watching starts over."""
        self._name = ""

    def may_be_replaced(
        self, name: str, count: int, now: float, *, place: str = "", silent_s: float = SILENT_S
    ) -> bool:
        """Whether the other store proved unused; raises if it is in use.

        True once its counter has stood still for `silent_s` seconds, False until then.

        Args:
            name: Name of the store that Redis has.
            count: Its counter in Redis.
            now: Monotonic seconds.
            place: Where in Redis it was found, for the error message.
            silent_s: How long the counter must stand still.

        Raises:
            ConfigError: the counter changed, so another platform uses this Redis.
        """
        if name != self._name:
            self._name, self._count, self._since = name, count, now
        if count != self._count:
            raise ConfigError(
                f"REDIS_PREFIX: another platform uses this Redis{place} with the same prefix (its store is {name}):"
                " give each one of its own"
            )
        return now - self._since >= silent_s
