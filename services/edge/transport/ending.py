"""The last moments of a TCP connection: what is written leaves, what comes is thrown away, and then it ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable

LINGER_S = 1.0  # for the client to close TCP, once it has our last bytes
_DISCARDED_BYTES = 1_048_576  # of what it still sends; the rest stays in its system
_LEAST_BYTES_PER_S = 4_096  # while it takes so many, the last bytes have time
_RESET = struct.pack("ii", 1, 0)  # close sends RST, and waits for nothing


class Discard:
    """Throws away what a client sends behind the end, up to a bound: closing on unread bytes would reset TCP."""

    __slots__ = ("_left", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._left = _DISCARDED_BYTES
        if not transport.is_closing():
            transport.resume_reading()

    def take(self, size: int) -> None:
        """So many more bytes have come."""
        self._left -= size
        if self._left < 0 and not self._transport.is_closing():
            self._transport.pause_reading()


class Ending:
    """Ends a connection in time. Made when its end begins; `cancel` when it is lost.

    Args:
        delivery: Bytes that the client's system has taken so far, and bytes that are still on their way to it.
        resets: End with RST even where all has arrived, so that the kernel keeps nothing; the client may not have read
            it all yet, and some of its libraries then drop what they hold.
    """

    __slots__ = (
        "_delivered",
        "_delivery",
        "_discard",
        "_linger_s",
        "_loop",
        "_patience_s",
        "_resets",
        "_since",
        "_taken",
        "_timer",
        "_transport",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        delivery: Callable[[], tuple[int, int]],
        *,
        resets: bool = True,
    ) -> None:
        self._loop = loop
        self._resets = resets
        self._transport = transport
        self._delivery = delivery
        self._discard = Discard(transport)
        self._timer: asyncio.TimerHandle | None = None
        self._linger_s = self._patience_s = self._since = 0.0
        self._taken = 0  # at `_since`
        self._delivered = True  # at the last look

    def discard(self, size: int) -> None:
        """So many bytes have come; nobody reads them."""
        self._discard.take(size)

    def within(self, delay_s: float) -> None:
        """After that long, whatever has arrived."""
        self.cancel()
        self._timer = self._loop.call_later(delay_s, self._reset)

    def once_delivered(self, patience_s: float) -> None:
        """A second after the client's system has everything; before, for as long as it takes some of it.

        Args:
            patience_s: Over so long it takes 4 KiB a second, or the connection ends.
        """
        self.cancel()
        self._patience_s = patience_s
        self._linger_s = min(LINGER_S, patience_s)
        self._since = self._loop.time()
        self._taken = self._delivery()[0]
        self._timer = self._loop.call_later(self._linger_s, self._look)

    def cancel(self) -> None:
        """No timer is left."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        now = self._loop.time()
        taken, under_way = self._delivery()
        if not under_way and self._delivered:
            self._end()
            return
        self._delivered = not under_way
        if now - self._since >= self._patience_s:
            if taken - self._taken < _LEAST_BYTES_PER_S * (now - self._since):
                self._reset()
                return
            self._since, self._taken = now, taken
        self._timer = self._loop.call_later(self._linger_s / 2, self._look)

    def _end(self) -> None:
        if self._resets:
            self._reset()
        else:
            self.cancel()
            self._transport.abort()

    def _reset(self) -> None:
        """End TCP at once: the kernel, too, forgets what a client that hardly reads has not taken."""
        self.cancel()
        with contextlib.suppress(OSError, AttributeError):
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()
