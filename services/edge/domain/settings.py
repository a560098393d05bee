"""Numbers and switches that the edge's rules read; `services/edge/config.py` fills them from the environment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Defaults are those of the wire protocol, 17, unless a comment says otherwise."""

    insecure: bool = False
    allow_anonymous: bool = False  # connect without a token
    disallow_anonymous_tokens: bool = False  # a token without `sub` closes 3507
    personal_channel: bool = False
    personal_channel_namespace: str = ""
    server_name: str = "thalamus"
    version: str = "0.1.0"

    connect_timeout_s: float = 10.0
    ping_interval_s: float = 25.0  # 0: no pings
    pong_timeout_s: float = 8.0  # 0: no pong expected
    expired_close_delay_s: float = 25.0
    expired_sub_close_delay_s: float = 25.0
    error_drop_delay_s: float = 5.0  # TCP ends so long after an error reply to connect

    commands_per_s: float = 50.0  # 0: no limit
    commands_burst: int = 300
    flood_close_s: float = 3.0  # refused for so long without a pause: 3013
    max_pending_commands: int = 64  # beyond, the socket is not read

    channels_per_client: int = 128
    new_channels_per_minute: int = 200  # of one user on this edge; beyond: 111; 0: no limit
    connections_per_user: int = 100  # on this edge; 0: no limit
    channel_max_bytes: int = 255
    max_publish_wait_s: float = 1.0  # that a publication may have to expect; beyond: 111, nothing was done
    max_pending_publish_bytes: int = 33_554_432
    max_reads: int = 64  # of logs at a time, for gaps, recovery and history
    max_waiting_reads: int = 5_000
    history_limit: int = 300
    recovery_limit: int = 1_000  # publications of a subscribe reply, and read at a time behind it; upstream has 300
    recovery_total: int = 100_000  # missed, reliability, promise 4; beyond: not recovered
    reply_max_bytes: int = 1_048_576
    idempotency_key_max_bytes: int = 128

    ring_size: int = 256
    ring_max_bytes: int = 262_144
    gap_buffer_size: int = 1_024
    join_buffer_size: int = 4_096
    top_check_s: float = 5.0
    channel_linger_s: float = 1.0  # a channel nobody listens to is kept so long


MAX_TTL_S = 365 * 86_400  # wire protocol, 9: `ttl` is capped
