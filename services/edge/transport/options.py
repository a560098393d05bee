"""Settings of the public port, and what a WebSocket handshake results in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

SelectDialect = Callable[[Sequence[str], Mapping[str, str]], tuple[str | None, str]]
"""From the offered subprotocols and the query: the subprotocol to select, or None, and the name of the dialect."""


def json_only(offers: Sequence[str], query: Mapping[str, str]) -> tuple[str | None, str]:
    """Select JSON, whatever is offered: no other dialect is served. Wire protocol, 1."""
    return ("centrifuge-json" if "centrifuge-json" in offers else None), "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportOptions:
    """Settings of the public port.

    Defaults are those of the wire protocol, 17, where it has one.
    """

    websocket_path: str = "/connection/websocket"
    allowed_origins: tuple[str, ...] = ()  # as `OriginRules` takes them
    allow_no_origin: bool = True
    select_dialect: SelectDialect = json_only

    trusted_proxies: tuple[str, ...] = ()  # as `TrustedProxies` takes them
    proxy_protocol: bool = False  # whether trusted proxies send a PROXY header before the first request

    max_connections: int = 15_000  # WebSocket and HTTP together; beyond: 503
    max_connections_per_address: int = 0  # beyond: 429; 0: no limit
    handshake_timeout_s: float = 5.0  # from accept to a complete head
    close_timeout_s: float = 5.0  # for a client that takes hardly any of its last bytes, see `ending.py`

    max_message_bytes: int = 65_536  # of one message of a client; beyond: close 1009
    max_fragments: int = 128  # of one message; beyond: close 1009
    max_control_frames_per_s: int = 100  # pings and pongs of one client; beyond: close 3013

    max_outbox_bytes: int = 1_048_576  # pushes that wait for one connection; beyond: close 3008
    max_outbox_total_bytes: int = 536_870_912  # of all connections; beyond, one that queues over 64 KiB: close 3008

    max_write_delay_s: float = 0.025  # longest wait of frames for the next round of writing, see `outbox.py`

    http_request_timeout_s: float = 60.0  # from a complete head to the end of the response
    http_keep_alive_s: int = 5  # how long an idle HTTP connection stays open


@dataclass(frozen=True, slots=True, kw_only=True)
class HandshakeInfo:
    """Result of one WebSocket handshake."""

    peer: str  # address of the client, not that of a trusted proxy
    query: Mapping[str, str] = field(repr=False)  # may hold a token, so never logged; first value of repeated names
    subprotocol: str | None
    dialect: str  # name of the dialect, such as "json"
    origin: str | None

    @property
    def websocket_ping(self) -> bool:
        """Whether the client wants WebSocket pings instead of those of the protocol.

        Wire protocol, 1.
        """
        return self.query.get("cf_ws_frame_ping_pong") == "true"
