"""The Centrifugal protocol in the registry: which handshakes it takes.

Wire protocol, 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from services.edge.domain.connections import Choice, Connection, HandshakeInfo
from services.edge.protocols.base import Host
from services.edge.protocols.centrifugal.close_codes import CloseCode
from services.edge.protocols.centrifugal.codec import Codec
from services.edge.protocols.centrifugal.connection import CentrifugalConnection
from services.edge.protocols.centrifugal.json_codec import CentrifugalJson
from services.edge.protocols.centrifugal.protobuf_codec import CentrifugalProtobuf

_ENCODING_PARAMETERS = ("format", "cf_protocol")


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
        self._json: Codec = CentrifugalJson(host.text_frame)
        self._protobuf: Codec = CentrifugalProtobuf(host.binary_frame)
        self._by_subprotocol: dict[str, Codec] = {"centrifuge-json": self._json, "centrifuge-protobuf": self._protobuf}

    def serves(self, path: str) -> bool:
        """Return whether it is the path of the endpoint."""
        return path == self._path

    def choose(self, info: HandshakeInfo) -> Choice:
        """Choose the encoding of a connection: by subprotocol, else by query, else JSON."""
        for offer in info.offers:
            if offer in self._by_subprotocol:
                return Choice(self._opener(self._by_subprotocol[offer], info), offer)
        wants_protobuf = any(info.query.get(name) == "protobuf" for name in _ENCODING_PARAMETERS)
        return Choice(self._opener(self._protobuf if wants_protobuf else self._json, info))

    def _opener(self, codec: Codec, info: HandshakeInfo) -> Callable[[Connection], CentrifugalConnection]:
        websocket_ping = info.query.get("cf_ws_frame_ping_pong") == "true"
        return partial(
            CentrifugalConnection,
            self._host,
            codec=codec,
            websocket_ping=websocket_ping,
            identity=info.identity,
        )
