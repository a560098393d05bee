"""Settings of the public port.

`services/edge/config.py` reads the settings from the environment. What is `fixed` is not read.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.shared.process.config import fixed, number


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportOptions:
    """Settings of the public port.

    Defaults are those of the wire protocol, 17, where it has one.
    """

    allowed_origins: tuple[str, ...] = ()  # as `OriginRules` takes them
    allow_no_origin: bool = True

    trusted_proxies: tuple[str, ...] = ()  # as `TrustedProxies` takes them
    proxy_protocol: bool = False  # whether trusted proxies send a PROXY header before the first request

    max_connections: int = number(15_000, 1)  # WebSocket and HTTP together; beyond: 503
    max_connections_per_address: int = number(0, 0)  # beyond: 429; 0: no limit
    # WebSocket handshakes of one address, at once too; beyond: 429; 0: no limit
    new_connections_per_address_per_s: float = number(0.0, 0)
    handshake_timeout_s: float = number(5.0, 0.01)  # from accept to a complete head
    # Over this period a closed client must take its last bytes at 4 KiB/s, see `ending.py`. Longer would let clients
    # that don't read keep memory; shorter would cut off those with a short pause of their network.
    close_timeout_s: float = fixed(5.0)

    max_message_bytes: int = number(65_536, 1)  # of one message of a client; beyond: close 1009
    max_fragments: int = fixed(128)  # of one message; beyond: close 1009
    max_control_frames_per_s: int = fixed(100)  # pings and pongs of one client; beyond: it is closed

    max_outbox_bytes: int = number(1_048_576, 1)  # pushes that wait for one connection; beyond: it is closed as slow
    # Of all connections. Beyond, one that queues over 64 KiB is closed as slow.
    max_outbox_total_bytes: int = number(536_870_912, 1, 1 << 50)

    max_write_delay_s: float = number(0.025, 0)  # longest wait of frames for the next round of writing, see `outbox.py`

    compression: bool = False  # permessage-deflate with clients that offer it, see `deflate.py`
    compression_min_bytes: int = number(256, 1)  # shorter frames are sent as they are

    http_request_timeout_s: float = fixed(60.0)  # from a complete head to the end of the response
    http_keep_alive_s: int = fixed(5)  # how long an idle HTTP connection stays open
