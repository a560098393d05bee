"""Limits on connections: open ones in total, open and new ones per client address.

An IPv6 address counts as its /64 network, see `network_of`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from services.edge.domain.limits.rates import Rates
from services.edge.transport.http.refusal import Refused
from services.shared.addresses import network_of

_RETRY_AFTER = ("Retry-After: 2",)
_ADDRESSES = 50_000  # that new connections are counted of; some 10 MB


class Admission:
    """Counts connections and refuses those over the limits.

    The request head of a connection over the total limit is still read, so that the client gets a 503. Beyond another
    sixteenth of the limit (at least 16 connections), new connections are dropped without reading.

    Args:
        max_connections: Most open connections.
        max_per_address: Most open connections of one address; 0: no limit.
        new_per_address_per_s: Most new WebSocket connections of one address per second, and at once; 0: no limit.
        now: Monotonic seconds.
    """

    __slots__ = ("_by_address", "_dropped_over", "_max_per_address", "_new", "draining", "max_connections", "open")

    def __init__(
        self,
        max_connections: int,
        max_per_address: int,
        new_per_address_per_s: float = 0.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.set_cap(max_connections)
        self._max_per_address = max_per_address
        self._new = (
            Rates(new_per_address_per_s, new_per_address_per_s, now, max_names=_ADDRESSES)
            if new_per_address_per_s
            else None
        )
        self._by_address: dict[str, int] = {}
        self.open = 0
        self.draining = False

    def set_cap(self, max_connections: int) -> None:
        """Set the total limit."""
        self.max_connections = max_connections
        self._dropped_over = max_connections + max(16, max_connections // 16)

    def enter(self) -> bool:
        """Count a new connection; return False if it must be dropped without a response.

        Every call must be followed by one call of `leave`.
        """
        self.open += 1
        return self.open <= self._dropped_over

    def move(self, before: str, after: str) -> None:
        """Count a connection under address `after` instead of `before`.

        An empty address means that it is not known yet.
        """
        if not self._max_per_address or before == after:
            return
        self._uncount(before)
        if after:
            network = network_of(after)
            self._by_address[network] = self._by_address.get(network, 0) + 1

    def check(self, address: str) -> None:
        """Check that a connection, already counted under `address`, may stay.

        Raises:
            Refused: 503 while draining or over the total limit, 429 over the limit of its address, with Retry-After.
        """
        if self.draining:
            raise Refused(503, "draining", headers=_RETRY_AFTER)
        if self.open > self.max_connections:
            raise Refused(503, "max_connections", headers=_RETRY_AFTER)
        self.check_address(address)

    def check_address(self, address: str) -> None:
        """Check the limit of an address, for an open connection whose client has changed.

        Raises:
            Refused: 429 with Retry-After.
        """
        if self._max_per_address and self._by_address.get(network_of(address), 0) > self._max_per_address:
            raise Refused(429, "max_connections_per_address", headers=_RETRY_AFTER)

    def check_new(self, address: str) -> None:
        """Check the limit of new connections, for a WebSocket handshake from an address.

        Raises:
            Refused: 429 with Retry-After.
        """
        if self._new is not None and (wait_s := self._new.take(network_of(address))):
            raise Refused(429, "new_connections_per_address", headers=(f"Retry-After: {math.ceil(wait_s)}",))

    def leave(self, address: str) -> None:
        """Stop counting a connection that was counted under `address` last."""
        self.open -= 1
        if self._max_per_address:
            self._uncount(address)

    def _uncount(self, address: str) -> None:
        if not address:
            return
        network = network_of(address)
        left = self._by_address[network] - 1
        if left:
            self._by_address[network] = left
        else:
            del self._by_address[network]
