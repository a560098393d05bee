"""Settings of the edge's domain; `config.py` reads them from the environment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Limits, intervals and switches of one edge.

    Names end in their unit. Defaults are those of wire protocol, 17, unless a comment says otherwise.
    """

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
    expired_close_delay_s: float = 25.0  # from the expiry of a connection to its close
    expired_sub_close_delay_s: float = 25.0  # from the expiry of a subscription to its end
    error_drop_delay_s: float = 5.0  # from an error reply to connect until TCP is dropped

    commands_per_s: float = 50.0  # 0: no limit
    commands_burst: int = 300
    flood_close_s: float = 3.0  # a client whose commands are refused for this long without a pause is closed with 3013
    max_pending_commands: int = 64  # of one client, publications apart; beyond, its socket is not read

    channels_per_client: int = 128
    new_channels_per_minute: int = 200  # that one user may begin on this edge; beyond: error 111; 0: no limit
    connections_per_user: int = 100  # on this edge; 0: no limit
    channel_max_bytes: int = 255  # of a channel name in UTF-8
    max_publish_wait_s: float = 1.0  # longest expected wait of an accepted publication; beyond: error 111, nothing done
    max_pending_publish_bytes: int = 33_554_432  # of all publications that wait on this edge
    max_reads: int = 64  # of logs at the same time (gaps, recovery, history): for `hot` and `stored` channels each
    max_waiting_reads: int = 5_000  # reads under way and waiting together; beyond: error 111
    history_limit: int = 300  # publications of one history reply
    recovery_limit: int = 1_000  # publications of a subscribe reply, and of one page behind it; upstream has 300
    recovery_total: int = 100_000  # publications that a client may have missed; beyond: not recovered
    reply_max_bytes: int = 1_048_576  # of the publications in one reply
    idempotency_key_max_bytes: int = 128  # in UTF-8

    ring_size: int = 256  # publications that an edge keeps per channel, to recover from without a read
    ring_max_bytes: int = 262_144  # the same in bytes
    gap_buffer_size: int = 1_024  # publications kept behind a gap while it is repaired
    join_buffer_size: int = 4_096  # frames held for a subscription until its reply is queued
    top_check_s: float = 5.0  # interval of comparing quiet channels with their logs
    channel_linger_s: float = 1.0  # how long a channel without subscribers stays open


MAX_TTL_S = 365 * 86_400  # largest `ttl` told to a client (wire protocol, 9)
