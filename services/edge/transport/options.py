"""What the transport is told from outside: its bounds, and of each handshake what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

SelectDialect = Callable[[Sequence[str], Mapping[str, str]], tuple[str | None, str]]
"""From the offered subprotocols and the query: the subprotocol to select, or None, and the name of the dialect."""


def json_only(offers: Sequence[str], query: Mapping[str, str]) -> tuple[str | None, str]:
    """JSON whatever is offered, as long as no other dialect is served. Wire protocol, 1."""
    return ("centrifuge-json" if "centrifuge-json" in offers else None), "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportOptions:
    """Bounds of the public port. Defaults are those of the wire protocol, 17, where it names one."""

    websocket_path: str = "/connection/websocket"
    allowed_origins: tuple[str, ...] = ()  # as `OriginRules` takes them
    allow_no_origin: bool = True
    select_dialect: SelectDialect = json_only

    trusted_proxies: tuple[str, ...] = ()  # as `TrustedProxies` takes them
    proxy_protocol: bool = False  # these send a PROXY header before anything else

    max_connections: int = 15_000  # WebSocket and HTTP together; beyond: 503
    max_connections_per_address: int = 0  # beyond: 429; 0: no limit
    handshake_timeout_s: float = 5.0  # from accept to a whole head
    close_timeout_s: float = 5.0  # for a client that takes hardly any of its last bytes; else TCP ends in a second

    max_message_bytes: int = 65_536
    max_fragments: int = 128  # of one message
    max_control_frames_per_s: int = 100  # pings and pongs of one client; beyond: 3013

    max_outbox_bytes: int = 1_048_576  # of one connection; beyond: 3008
    max_outbox_total_bytes: int = 536_870_912  # of all; beyond, a slow connection with over 64 KiB ends: 3008

    max_write_delay_s: float = 0.025  # so long at most may what is to be sent wait for more, where writing takes long

    http_request_timeout_s: float = 60.0  # from a whole head to the end of the response
    http_keep_alive_s: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class HandshakeInfo:
    """What the handshake of one WebSocket connection said and chose."""

    peer: str  # address of the client, also behind proxies
    query: Mapping[str, str] = field(repr=False)  # may hold a token; of repeated names the first value
    subprotocol: str | None
    dialect: str  # name of the dialect, such as "json"
    origin: str | None

    @property
    def websocket_ping(self) -> bool:
        """The client wants WebSocket pings in place of those of the protocol. Wire protocol, 1."""
        return self.query.get("cf_ws_frame_ping_pong") == "true"
