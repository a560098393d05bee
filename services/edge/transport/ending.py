"""How the server ends a TCP connection without losing its last bytes.

**Purpose.** A server that closes a socket while bytes of the client lie unread in it makes the kernel send RST. The RST
may overtake the last bytes (a close frame, an error response), and the client never sees them. So the server closes
only its own side first, reads and discards what the client still sends, and ends TCP when its last bytes have arrived.
A client that does not read must not keep the connection alive for long.

**Rules.**

1. What the client sends is discarded, 1 MiB at most. Then nothing more is read; the rest stays in the client's system.
2. `within(delay_s)`: the connection is reset after that time, whatever has arrived.
3. `once_delivered(max_wait_s)`: the connection ends at most a second after the client's system has confirmed the last
   byte (see `delivery.py`). Until then it stays open as long as the client's system takes at least 4 KiB per second,
   measured over `max_wait_s`. A slower client is reset.
4. With `resets` the connection ends with RST even after delivery, so that the kernel keeps no state of it.

**Example** (`max_wait_s` is 5 s, `close_timeout_s` of the options). A client that has everything at once: TCP ends
after 1 s. A client that takes 900 KiB at 60 KiB/s: TCP ends a second after it has all, after about 16 s. A client that
reads nothing: reset at the first look after 5 s.

**Trade-offs.** "Delivered" means that the client's kernel has the bytes, not that the program has read them. The second
of grace is for the program; HTTP connections end without RST (`resets=False`) because some HTTP libraries drop what
they hold when they see one. See docs/architecture.md, "No connection holds up others".
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable

LINGER_S = 1.0  # longest time that the client has to close TCP once it has our last bytes, seconds
_DISCARDED_BYTES = 1_048_576  # most bytes to read and discard; the rest stays in the client's system
_LEAST_BYTES_PER_S = 4_096  # a client that takes less than this is not waited for, bytes per second
_RESET = struct.pack("ii", 1, 0)  # value of SO_LINGER: on, 0 s, so that closing sends RST at once


class Discard:
    """Discards what a client still sends, up to a bound.

    Closing a socket that holds unread bytes would reset the connection.
    """

    __slots__ = ("_left", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._left = _DISCARDED_BYTES
        if not transport.is_closing():
            transport.resume_reading()

    def count(self, size: int) -> None:
        """Count `size` bytes that were received; stops reading beyond the bound."""
        self._left -= size
        if self._left < 0 and not self._transport.is_closing():
            self._transport.pause_reading()


class Ending:
    """The end of one connection: discards what comes, and closes TCP in time.

    It is created when the server begins to close. Call `cancel` when the connection is lost.

    Args:
        delivery: Returns the bytes that the client's system has confirmed so far, and the bytes still on their way.
        resets: End with RST even after everything has arrived, so that the kernel keeps no state. A client library
            that has not read everything by then may drop what it holds.
    """

    __slots__ = (
        "_confirmed",
        "_delivered",
        "_delivery",
        "_discard",
        "_linger_s",
        "_loop",
        "_max_wait_s",
        "_resets",
        "_since",
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
        self._linger_s = self._max_wait_s = self._since = 0.0
        self._confirmed = 0  # bytes that the client's system had confirmed at `_since`
        self._delivered = True  # whether everything had arrived at the last look

    def discard(self, size: int) -> None:
        """Count `size` received bytes that nobody reads."""
        self._discard.count(size)

    def within(self, delay_s: float) -> None:
        """Reset the connection after `delay_s` seconds, whatever has arrived."""
        self.cancel()
        self._timer = self._loop.call_later(delay_s, self._reset)

    def once_delivered(self, max_wait_s: float) -> None:
        """End the connection a second after the client's system has everything.

        Args:
            max_wait_s: The connection is reset when the client's system takes less than 4 KiB per second, on average
                over this many seconds.
        """
        self.cancel()
        self._max_wait_s = max_wait_s
        self._linger_s = min(LINGER_S, max_wait_s)
        self._since = self._loop.time()
        self._confirmed = self._delivery()[0]
        self._timer = self._loop.call_later(self._linger_s, self._check)

    def cancel(self) -> None:
        """Stop the timer; the connection is not ended any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        """End the connection, reset it, or look again later."""
        now = self._loop.time()
        confirmed, under_way = self._delivery()
        if not under_way and self._delivered:
            self._end()
            return
        self._delivered = not under_way
        if now - self._since >= self._max_wait_s:
            if confirmed - self._confirmed < _LEAST_BYTES_PER_S * (now - self._since):
                self._reset()
                return
            self._since, self._confirmed = now, confirmed
        self._timer = self._loop.call_later(self._linger_s / 2, self._check)

    def _end(self) -> None:
        if self._resets:
            self._reset()
        else:
            self.cancel()
            self._transport.abort()

    def _reset(self) -> None:
        """End TCP with RST, so that the kernel drops what the client has not taken."""
        self.cancel()
        with contextlib.suppress(OSError, AttributeError):
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()
