"""One client: opens as its dialect says, then counts what comes, chunk by chunk.

No SDK and no WebSocket library: they decode every message, and the load generator shares the machine with the server.
Besides, every server that is compared gets the same client. See docs/decisions/0031.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import cast

from bench.load.dialects import JOIN, PING_FRAME, STAMP, STAMP_DIGITS, Dialect, Step, frame_pong
from bench.load.frames import close_frame
from bench.load.histogram import Histogram

_NO_LINGER = struct.pack("ii", 1, 0)
_ENDS = b"}]"  # whole messages end so, and nothing that is looked for spans one


class Tally:
    """What all clients of a process saw since the last report."""

    __slots__ = (
        *("ack_us", "acked", "bytes_received", "clock", "delivered", "delivery_us", "joins", "lost", "refused"),
        *("_acks", "_deliveries"),
    )

    def __init__(self, clock: Callable[[], int]) -> None:
        self.clock = clock
        self.lost = 0  # connections that ended although nobody asked for it
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.acked = self.delivered = self.refused = self.joins = self.bytes_received = 0
        self.ack_us: list[int] = []  # not in the histograms yet
        self.delivery_us: list[int] = []
        self._acks, self._deliveries = Histogram(), Histogram()

    def fold(self) -> None:
        """Count the latencies of the last moments: many at a time cost least."""
        self._acks.record_all(self.ack_us)
        self._deliveries.record_all(self.delivery_us)
        self.ack_us.clear()
        self.delivery_us.clear()

    def histograms(self) -> tuple[Histogram, Histogram]:
        """Latencies of acknowledgements and of deliveries, from the intended send time."""
        self.fold()
        return self._acks.folded(), self._deliveries.folded()


class Client(asyncio.Protocol):
    """The protocol of an open, subscribed connection, which `Opening` has handed over."""

    __slots__ = ("_closing", "_dialect", "_ended", "_frame", "_rest", "_tally", "_transport", "_unanswered")

    def __init__(self, transport: asyncio.Transport, dialect: Dialect, frame: bytes, tally: Tally) -> None:
        self._transport = transport
        self._dialect = dialect
        self._frame = frame
        self._tally = tally
        self._rest = b""
        self._unanswered = 0
        self._closing = False
        self._ended: asyncio.Future[None] | None = None

    def publish(self, intended: int) -> None:
        """Send a publication that was to be sent at this time; that is also its id."""
        self._unanswered += 1
        self._transport.write(self._frame % (intended, intended))

    def data_received(self, data: bytes) -> None:
        """Count whole messages; a beginning waits for its end."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        for needle, pong in ((PING_FRAME, frame_pong), (self._dialect.ping, self._dialect.pong)):
            if needle in data:
                answer, data = pong(data)
                if answer:
                    self._transport.write(answer)
        if not data:
            return
        if data[-1] not in _ENDS:
            end = max(data.rfind(b"}"), data.rfind(b"]")) + 1
            self._rest = data[end:]
            data = data[:end]
        tally = self._tally
        tally.bytes_received += len(data)
        now = tally.clock()
        _, *marked = data.split(STAMP)  # several times as quick as a compiled pattern
        if marked:
            tally.delivered += len(marked)
            tally.delivery_us += [now - int(text[:STAMP_DIGITS]) for text in marked]
        if self._unanswered:
            self._count_answers(data, now)
        elif not marked:
            tally.joins += data.count(JOIN)

    def _count_answers(self, data: bytes, now: int) -> None:
        tally = self._tally
        acks = self._dialect.acks(data)
        refused = self._dialect.refused(data)
        tally.acked += len(acks)
        tally.ack_us += [now - int(ack) for ack in acks]
        tally.refused += len(refused)
        self._unanswered -= len(acks) + len(refused)

    def close(self) -> None:
        """End it properly."""
        self._closing = True
        if not self._transport.is_closing():
            self._transport.write(close_frame())
            self._transport.close()

    def abort(self) -> None:
        """End it as a network does that breaks."""
        self._closing = True
        self._transport.abort()

    def leave(self) -> asyncio.Future[None]:
        """End it properly, and wait until the server has."""
        self._ended = asyncio.get_running_loop().create_future()
        if self._transport.is_closing():
            self._ended.set_result(None)
        self._closing = True
        self._transport.write(close_frame())
        return self._ended

    def reset(self) -> None:
        """End it with an RST: nothing is sent any more, and no port waits."""
        if not self._transport.is_closing():
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody's wish unless it was ours."""
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
        if not self._closing:
            self._tally.lost += 1


class Opening(asyncio.Protocol):
    """Opens a connection: the upgrade, then the steps of the dialect.

    At the end `opened` has a client and the last reply.
    """

    def __init__(self, request: bytes, steps: list[Step], dialect: Dialect, frame: bytes, tally: Tally) -> None:
        self.opened: asyncio.Future[tuple[Client, list[bytes]]] = asyncio.get_running_loop().create_future()
        self._request = request
        self._steps = steps
        self._dialect = dialect
        self._frame = frame
        self._tally = tally
        self._said: list[bytes] = []
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Go as many steps as the server's bytes allow."""
        self._buffer += data
        while found := self._steps[0].expect.search(self._buffer):
            self._said.append(found[0])
            if send := self._steps.pop(0).send:
                self._buffer = self._buffer[found.end() :]
                self._transport.write(send)
            else:
                self._hand_over(self._buffer[found.end() :])
                return

    def _hand_over(self, rest: bytes) -> None:
        client = Client(self._transport, self._dialect, self._frame, self._tally)
        self._transport.set_protocol(client)
        if rest:
            client.data_received(rest)
        if not self.opened.done():
            self.opened.set_result((client, self._said))

    def connection_lost(self, exc: Exception | None) -> None:
        """Refused; the last bytes tell why."""
        if not self.opened.done():
            self.opened.set_exception(ConnectionError(f"refused: {self._buffer[:200]!r}"))
