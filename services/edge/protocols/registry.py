"""The client protocols of the edge, and the choice of one for each connection.

Source: wire protocol, 1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from services.edge.domain.ports import Connection, Dialect
from services.edge.protocols.centrifugal.json_codec import CentrifugalJson
from services.shared.errors import CloseCode

PROTOBUF = "protobuf"  # `select` returns this name for clients that speak Protobuf only; there is no such dialect
_PROTOBUF_OFFER = "centrifuge-protobuf"
_SILENT_S = 1.0  # longest wait for the first message of a client that is not served, seconds
_PROTOBUF_PARAMETERS = ("format", "cf_protocol")


class Dialects:
    """All dialects (codecs of client protocols) of this edge.

    A new dialect is one more entry in the two tables of this class.

    Args:
        text_frame: Encodes a payload as a WebSocket text frame, ready to be written to the socket.
    """

    def __init__(self, text_frame: Callable[[bytes], bytes]) -> None:
        self._default: Dialect = CentrifugalJson(text_frame)
        self._by_name: dict[str, Dialect] = {self._default.name: self._default}
        self._by_subprotocol: dict[str, Dialect] = {"centrifuge-json": self._default}

    def __getitem__(self, name: str) -> Dialect:
        """Return the dialect with a name that `select` returned."""
        return self._by_name[name]

    def select(self, offers: Sequence[str], query: Mapping[str, str]) -> tuple[str | None, str]:
        """Choose the dialect of a new connection.

        Return the subprotocol to select in the answer to the upgrade request (None: none), and the dialect's name.

        No connection is refused here, because a browser does not show the answer to a refused upgrade. A client that
        asks for Protobuf gets it selected. Then `NotServed` closes the connection with a reason.

        Args:
            offers: Subprotocols that the client offers, the preferred one first.
            query: Query parameters of the URL; some ask for a dialect.
        """
        for offer in offers:
            dialect = self._by_subprotocol.get(offer)
            if dialect is not None:
                return offer, dialect.name
        if _PROTOBUF_OFFER in offers:
            return _PROTOBUF_OFFER, PROTOBUF
        if any(query.get(name) == PROTOBUF for name in _PROTOBUF_PARAMETERS):
            return None, PROTOBUF
        return None, self._default.name


class NotServed:
    """`MessageHandler` of a client that speaks Protobuf only: closes the connection.

    It closes with a reason and a code after which SDKs do not reconnect. It waits for the first message, 1 s at most:
    an SDK whose first command meets a closed connection takes that for a network error and tries again.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._timer = asyncio.get_running_loop().call_later(_SILENT_S, self._close)

    def _close(self) -> None:
        self._timer.cancel()
        self._connection.close(CloseCode.INAPPROPRIATE_PROTOCOL, "Protobuf is not served: use the JSON protocol")

    def message(self, payload: bytes, *, binary: bool) -> None:
        """Close the connection: this is the connect command, in Protobuf."""
        self._close()

    def websocket_pong(self) -> None:
        """Ignore the pong."""

    def replies_taken(self) -> None:
        """Do nothing, because nothing is sent."""

    def closed(self, *, clean: bool) -> None:
        """Cancel the timer, because the connection is over."""
        self._timer.cancel()
