"""The Centrifugal protocol in the registry: which handshakes it takes. Wire protocol, 1."""

from __future__ import annotations

from functools import partial

from services.edge.domain.connections import Choice, Connection, HandshakeInfo
from services.edge.protocols.base import Host
from services.edge.protocols.centrifugal.close_codes import CloseCode
from services.edge.protocols.centrifugal.codec import Codec
from services.edge.protocols.centrifugal.connection import CentrifugalConnection
from services.edge.protocols.centrifugal.json_codec import CentrifugalJson
from services.edge.protocols.centrifugal.protobuf_refusal import ProtobufRefusal

_PROTOBUF = "protobuf"
_PROTOBUF_OFFER = "centrifuge-protobuf"
_PROTOBUF_PARAMETERS = ("format", "cf_protocol")


class Centrifugal:
    """`ProtocolEntry` of the Centrifugal protocol.

    Args:
        host: The edge.
        path: Path of the WebSocket endpoint.
    """

    close_codes = frozenset(map(int, CloseCode))

    def __init__(self, host: Host, path: str) -> None:
        self._host = host
        self._path = path
        self._default: Codec = CentrifugalJson(host.text_frame)
        self._by_subprotocol: dict[str, Codec] = {"centrifuge-json": self._default}

    def serves(self, path: str) -> bool:
        """Return whether it is the path of the endpoint."""
        return path == self._path

    def choose(self, info: HandshakeInfo) -> Choice:
        """Choose the encoding of a new connection.

        No connection is refused here, because a browser does not show the answer to a refused upgrade. A client that
        asks for Protobuf gets it selected. Then `ProtobufRefusal` closes the connection with a reason.
        """
        websocket_ping = info.query.get("cf_ws_frame_ping_pong") == "true"
        for offer in info.offers:
            codec = self._by_subprotocol.get(offer)
            if codec is not None:
                return Choice(partial(self._open, codec=codec, websocket_ping=websocket_ping), offer)
        if _PROTOBUF_OFFER in info.offers:
            return Choice(ProtobufRefusal, _PROTOBUF_OFFER)
        if any(info.query.get(name) == _PROTOBUF for name in _PROTOBUF_PARAMETERS):
            return Choice(ProtobufRefusal)
        return Choice(partial(self._open, codec=self._default, websocket_ping=websocket_ping))

    def _open(self, connection: Connection, *, codec: Codec, websocket_ping: bool) -> CentrifugalConnection:
        return CentrifugalConnection(self._host, connection, codec, websocket_ping=websocket_ping)
