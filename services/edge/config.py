"""Settings of the edge, read once from environment variables before it starts."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from services.edge.domain.settings import Settings
from services.shared.checks import MAX_CHANNEL_BYTES
from services.shared.hotlog.keys import DEFAULT_PREFIX
from services.shared.process.config import HIGHEST_PORT, ConfigError, field_env, number

_DEFAULT = Settings()
_AUTO = "auto"
_MOST_WORKERS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeConfig:
    """All settings of an edge; `docs/configuration.md` explains each."""

    name: str = ""  # shown by /api/info; empty: made from the edge's id
    host: str = "127.0.0.1"
    port: int = number(8001, 0, HIGHEST_PORT)
    internal_host: str = "127.0.0.1"
    internal_port: int = number(9100, 0, HIGHEST_PORT)
    workers: str = "1"  # processes on the public port, see `workers.py`; `auto`: see `worker_count`
    redis_url: str = field_env("REDIS_URL", "redis://127.0.0.1:6379/0")
    redis_password_file: Path | None = field_env("REDIS_PASSWORD_FILE", None)
    redis_prefix: str = field_env("REDIS_PREFIX", DEFAULT_PREFIX)
    service_token_file: Path | None = field_env("SERVICE_TOKEN_FILE", None)
    channels_file: Path = field_env("CHANNELS_FILE", Path("config/channels.toml"))
    log_level: str = field_env("LOG_LEVEL", "INFO")
    auth_addr: str = "127.0.0.1:9001"
    presence_addr: str = "127.0.0.1:9002"
    persistence_addr: str = "127.0.0.1:9003"
    web_dir: Path = Path("web")
    drain_grace_s: float = number(25.0, 0)

    # Tokens.
    hs256_secret_file: Path | None = field_env("AUTH_HS256_SECRET_FILE", None)
    hs256_previous_secret_file: Path | None = field_env("AUTH_HS256_PREVIOUS_SECRET_FILE", None)
    token_audience: str = ""
    token_issuer: str = ""
    token_leeway_s: float = number(0.0, 0)
    token_not_before_leeway_s: float = number(10.0, 0)

    # Transport.
    websocket_path: str = "/connection/websocket"
    allowed_origins: tuple[str, ...] = ()
    allow_no_origin: bool = True
    trusted_proxies: tuple[str, ...] = ()
    proxy_protocol: bool = False
    max_connections: int = number(15_000, 1)
    max_connections_per_address: int = number(0, 0)
    max_message_bytes: int = number(65_536, 1)
    max_outbox_bytes: int = number(1_048_576, 1)
    max_outbox_total_bytes: int = number(536_870_912, 1, 1 << 50)
    max_write_delay_s: float = number(0.025, 0)
    max_batch_delay_s: float = number(0.015, 0)
    handshake_timeout_s: float = number(5.0, 0.01)
    close_timeout_s: float = number(5.0, 0.01)

    # Domain; the defaults are those of `domain/settings.py`.
    insecure: bool = _DEFAULT.insecure
    allow_anonymous: bool = _DEFAULT.allow_anonymous
    disallow_anonymous_tokens: bool = _DEFAULT.disallow_anonymous_tokens
    personal_channel: bool = _DEFAULT.personal_channel
    personal_channel_namespace: str = _DEFAULT.personal_channel_namespace
    connect_timeout_s: float = number(_DEFAULT.connect_timeout_s, 0.01)
    ping_interval_s: float = number(_DEFAULT.ping_interval_s, 0)
    pong_timeout_s: float = number(_DEFAULT.pong_timeout_s, 0)
    expired_close_delay_s: float = number(_DEFAULT.expired_close_delay_s, 0)
    expired_sub_close_delay_s: float = number(_DEFAULT.expired_sub_close_delay_s, 0)
    commands_per_s: float = number(_DEFAULT.commands_per_s, 0)
    commands_burst: int = number(_DEFAULT.commands_burst, 1)
    channels_per_client: int = number(_DEFAULT.channels_per_client, 1)
    new_channels_per_minute: int = number(_DEFAULT.new_channels_per_minute, 0)
    connections_per_user: int = number(_DEFAULT.connections_per_user, 0)
    channel_max_bytes: int = number(_DEFAULT.channel_max_bytes, 1, MAX_CHANNEL_BYTES)
    history_meta_ttl_s: int = number(720 * 3_600, 1)
    max_publish_wait_s: float = number(_DEFAULT.max_publish_wait_s, 0.01, 60)
    max_pending_publish_bytes: int = number(_DEFAULT.max_pending_publish_bytes, 1, 1 << 50)
    max_reads: int = number(_DEFAULT.max_reads, 1)
    max_waiting_reads: int = number(_DEFAULT.max_waiting_reads, 1)
    history_limit: int = number(_DEFAULT.history_limit, 1)
    recovery_limit: int = number(_DEFAULT.recovery_limit, 1)
    recovery_total: int = number(_DEFAULT.recovery_total, 1)
    reply_max_bytes: int = number(_DEFAULT.reply_max_bytes, 1)
    top_check_s: float = number(_DEFAULT.top_check_s, 0.01)

    def __post_init__(self) -> None:
        if 0 < self.ping_interval_s <= self.pong_timeout_s:
            raise ConfigError("EDGE_PONG_TIMEOUT_S must be shorter than EDGE_PING_INTERVAL_S")
        if self.workers != _AUTO and self.workers not in map(str, range(1, _MOST_WORKERS + 1)):
            raise ConfigError(f"EDGE_WORKERS must be auto, or a number from 1 to {_MOST_WORKERS}, not {self.workers!r}")
        if self.internal_port + self.worker_count() - 1 > HIGHEST_PORT:
            raise ConfigError(
                f"EDGE_INTERNAL_PORT={self.internal_port} leaves no port for {self.worker_count()} workers"
            )

    def worker_count(self) -> int:
        """Return the number of edge processes.

        `auto` is one per core, less one core for Redis and the other services, and at least one.
        """
        return max(_cores() - 1, 1) if self.workers == _AUTO else int(self.workers)

    def settings(self) -> Settings:
        """Return the settings that the domain uses."""
        shared = {field.name for field in dataclasses.fields(Settings)} & {
            field.name for field in dataclasses.fields(self)
        }
        return Settings(**{name: getattr(self, name) for name in shared})


def _cores() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
