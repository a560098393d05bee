"""What presence reads from PRESENCE_* variables, once, before anything starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services.presence.adapters.redis_roster import SWEEP_S
from services.shared.config import ConfigError, field_env
from services.shared.hotlog.keys import DEFAULT_PREFIX


@dataclass(frozen=True, slots=True, kw_only=True)
class PresenceConfig:
    """`docs/configuration.md` explains each."""

    host: str = "127.0.0.1"
    grpc_port: int = 9002
    internal_host: str = "127.0.0.1"
    internal_port: int = 9100
    redis_url: str = field_env("REDIS_URL", "redis://127.0.0.1:6379/0")
    redis_password_file: Path | None = field_env("REDIS_PASSWORD_FILE", None)
    redis_prefix: str = field_env("REDIS_PREFIX", DEFAULT_PREFIX)
    service_token_file: Path | None = field_env("SERVICE_TOKEN_FILE", None)
    service_token_previous_file: Path | None = field_env("SERVICE_TOKEN_PREVIOUS_FILE", None)
    log_level: str = field_env("LOG_LEVEL", "INFO")
    lease_ttl_s: float = 12.0
    sweep_s: float = SWEEP_S

    def __post_init__(self) -> None:
        if self.lease_ttl_s < 1:
            raise ConfigError("PRESENCE_LEASE_TTL_S must be at least 1")
        if self.sweep_s <= 0:
            raise ConfigError("PRESENCE_SWEEP_S must be above 0")
