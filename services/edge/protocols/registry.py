"""Client protocols of the edge, and which of them a connection speaks. Source: wire protocol, 1."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from services.edge.domain.ports import Connection, Dialect
from services.edge.protocols.centrifugal.json_codec import CentrifugalJson
from services.shared.errors import CloseCode

PROTOBUF = "protobuf"  # a name that `select` gives and no dialect has
_PROTOBUF_OFFER = "centrifuge-protobuf"
_SILENT_S = 1.0
_PROTOBUF_PARAMETERS = ("format", "cf_protocol")


class Dialects:
    """Every dialect that this edge speaks, once; a new one is one more entry in the two tables here.

    Args:
        text_frame: Makes a WebSocket text frame, ready for the socket, of a payload.
    """

    def __init__(self, text_frame: Callable[[bytes], bytes]) -> None:
        self._default: Dialect = CentrifugalJson(text_frame)
        self._by_name: dict[str, Dialect] = {self._default.name: self._default}
        self._by_subprotocol: dict[str, Dialect] = {"centrifuge-json": self._default}

    def __getitem__(self, name: str) -> Dialect:
        """The dialect that `select` named."""
        return self._by_name[name]

    def select(self, offers: Sequence[str], query: Mapping[str, str]) -> tuple[str | None, str]:
        """The subprotocol that the answer to an upgrade selects, None for none, and the name of the dialect.

        Nothing is refused here: a browser does not show the answer to a refused upgrade. A client that asks for
        Protobuf gets it selected, and is told by its close frame that it is not served (`NotServed`).

        Args:
            offers: Subprotocols in the order of the client's liking.
            query: Parameters of the address; some ask for a dialect.
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
    """The `MessageHandler` of a client that speaks Protobuf only: closed for good, with a reason.

    Not before it has sent something: an SDK whose first command meets a closed connection takes it for a fault of the
    network, and tries again.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._timer = asyncio.get_running_loop().call_later(_SILENT_S, self._close)

    def _close(self) -> None:
        self._timer.cancel()
        self._connection.close(CloseCode.INAPPROPRIATE_PROTOCOL, "Protobuf is not served: use the JSON protocol")

    def message(self, payload: bytes, *, binary: bool) -> None:
        """Its connect command, which nobody can read."""
        self._close()

    def websocket_pong(self) -> None:
        """As above."""

    def replies_taken(self) -> None:
        """Nothing is sent either."""

    def closed(self, *, clean: bool) -> None:
        """Nothing is kept of it."""
        self._timer.cancel()
