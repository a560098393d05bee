"""Closes the connections of clients that speak Protobuf only, which is not served. Wire protocol, 1."""

from __future__ import annotations

import asyncio

from services.edge.domain.connections import Connection
from services.edge.domain.ends import End
from services.edge.protocols.centrifugal.close_codes import CloseCode, close_code

_SILENT_S = 1.0  # longest wait for the first message, seconds


class ProtobufRefusal:
    """`MessageHandler` of a client that speaks Protobuf only: closes the connection.

    It closes with a reason and a code after which SDKs do not reconnect. It waits for the first message, 1 s at most:
    an SDK whose first command meets a closed connection takes that for a network error and tries again.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._timer: asyncio.TimerHandle | None = None

    def opened(self) -> None:
        """Wait for the first message."""
        self._timer = asyncio.get_running_loop().call_later(_SILENT_S, self._close)

    def _close(self) -> None:
        self._stop_waiting()
        self._connection.close(CloseCode.INAPPROPRIATE_PROTOCOL, "Protobuf is not served: use the JSON protocol")

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def message(self, payload: bytes, *, binary: bool) -> None:
        """Close the connection: this is the connect command, in Protobuf."""
        self._close()

    def control(self, *, pong: bool) -> None:
        """Ignore pings and pongs."""

    def replies_taken(self) -> None:
        """Do nothing, because nothing is sent."""

    def close_code(self, end: End) -> tuple[int, str]:
        """Return code and text of the close frame for an end that the transport decides."""
        return close_code(end)

    def closed(self, *, clean: bool) -> None:
        """Stop waiting, because the connection is over."""
        self._stop_waiting()
