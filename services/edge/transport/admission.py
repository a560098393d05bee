"""How many connections the public port holds, and whether it takes another."""

from __future__ import annotations

from services.edge.transport.http.refusal import Refused

_RETRY_AFTER = ("Retry-After: 2",)


class Admission:
    """Counts connections from accept to end.

    A connection over the cap still has its head read, so that its 503 arrives; beyond a sixteenth more, connections
    are dropped unread.
    """

    __slots__ = ("_by_address", "_dropped_over", "_max_per_address", "draining", "max_connections", "open")

    def __init__(self, max_connections: int, max_per_address: int) -> None:
        self.set_cap(max_connections)
        self._max_per_address = max_per_address
        self._by_address: dict[str, int] = {}
        self.open = 0
        self.draining = False

    def set_cap(self, max_connections: int) -> None:
        """Hold at most so many."""
        self.max_connections = max_connections
        self._dropped_over = max_connections + max(16, max_connections // 16)

    def enter(self) -> bool:
        """Count a new connection, which `leave` must undo; False: it is not even to be answered."""
        self.open += 1
        return self.open <= self._dropped_over

    def move(self, before: str, after: str) -> None:
        """A connection's address is known now, or is another one than before; "": not known yet."""
        if not self._max_per_address or before == after:
            return
        self._uncount(before)
        if after:
            self._by_address[after] = self._by_address.get(after, 0) + 1

    def check(self, address: str) -> None:
        """Whether this connection, already counted there, may stay.

        Raises:
            Refused: 503 while draining and over the cap, 429 over the cap of its address; all with Retry-After.
        """
        if self.draining:
            raise Refused(503, "draining", headers=_RETRY_AFTER)
        if self.open > self.max_connections:
            raise Refused(503, "max_connections", headers=_RETRY_AFTER)
        self.check_address(address)

    def check_address(self, address: str) -> None:
        """As `check`, for a connection that was let in and now speaks for another client."""
        if self._max_per_address and self._by_address.get(address, 0) > self._max_per_address:
            raise Refused(429, "max_connections_per_address", headers=_RETRY_AFTER)

    def leave(self, address: str) -> None:
        """A connection, counted there last, has ended."""
        self.open -= 1
        if self._max_per_address:
            self._uncount(address)

    def _uncount(self, address: str) -> None:
        if not address:
            return
        left = self._by_address[address] - 1
        if left:
            self._by_address[address] = left
        else:
            del self._by_address[address]
