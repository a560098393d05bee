"""Client protocols of the edge, and which of them a connection speaks. Source: wire protocol, 1."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from services.edge.dialects.centrifugal_json import CentrifugalJson
from services.edge.domain.ports import Dialect


class Selection(NamedTuple):
    """What an upgrade leads to. `subprotocol`: what the answer selects, None for nothing.

    `websocket_ping`: the client wants WebSocket pings in place of those of the dialect.
    """

    dialect: Dialect
    subprotocol: str | None = None
    websocket_ping: bool = False


class Dialects:
    """Every dialect that this edge speaks, once; a new one is one more entry here.

    Args:
        text_frame: Makes a WebSocket text frame, ready for the socket, of a payload.
    """

    def __init__(self, text_frame: Callable[[bytes], bytes]) -> None:
        self._default: Dialect = CentrifugalJson(text_frame)
        self._by_subprotocol: dict[str, Dialect] = {"centrifuge-json": self._default}

    def select(self, offers: Iterable[str], query: Mapping[str, str]) -> Selection:
        """Choose by the subprotocols that the client offers, its favourite first, and the query of the address.

        Nothing is refused: where no offer is known, and where the query asks for Protobuf, JSON is spoken.
        """
        websocket_ping = query.get("cf_ws_frame_ping_pong") == "true"
        for offer in offers:
            dialect = self._by_subprotocol.get(offer)
            if dialect is not None:
                return Selection(dialect, offer, websocket_ping)
        return Selection(self._default, None, websocket_ping)
