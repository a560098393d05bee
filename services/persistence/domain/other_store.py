"""Whether another store that Redis names is in use beside ours, or was replaced by it."""

from __future__ import annotations

from services.shared.errors import Unavailable
from services.shared.process.config import ConfigError

SILENT_S = 10.0  # who uses a store counts every second; a restart takes less


class OtherStoreFound(Unavailable):
    """Redis belongs to another store, of which nobody knows yet whether it is in use."""


class OtherStore:
    """Watches the count of the other one, without changing anything."""

    def __init__(self) -> None:
        self._name = ""
        self._count = 0
        self._since = 0.0

    def forget(self) -> None:
        """Redis names ours."""
        self._name = ""

    def may_be_replaced(
        self, name: str, count: int, now: float, *, place: str = "", silent_s: float = SILENT_S
    ) -> bool:
        """Nobody has counted for it for so long. `now`: monotonic seconds; `place`: where in Redis, for people.

        Raises:
            ConfigError: somebody does count.
        """
        if name != self._name:
            self._name, self._count, self._since = name, count, now
        if count != self._count:
            raise ConfigError(
                f"REDIS_PREFIX: another platform uses this Redis{place} with the same prefix (its store is {name}):"
                " give each one of its own"
            )
        return now - self._since >= silent_s
