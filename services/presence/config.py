"""Settings of presence, read from PRESENCE_* variables once at the start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services.presence.adapters.redis_roster import SWEEP_S
from services.shared.hotlog.keys import DEFAULT_PREFIX
from services.shared.process.config import HIGHEST_PORT, field_env, number


@dataclass(frozen=True, slots=True, kw_only=True)
class PresenceConfig:
    """The settings. `docs/configuration.md` explains each."""

    host: str = "127.0.0.1"
    grpc_port: int = number(9002, 0, HIGHEST_PORT)
    internal_host: str = "127.0.0.1"
    internal_port: int = number(9100, 0, HIGHEST_PORT)
    redis_url: str = field_env("REDIS_URL", "redis://127.0.0.1:6379/0")
    redis_password_file: Path | None = field_env("REDIS_PASSWORD_FILE", None)
    redis_prefix: str = field_env("REDIS_PREFIX", DEFAULT_PREFIX)
    service_token_file: Path | None = field_env("SERVICE_TOKEN_FILE", None)
    service_token_previous_file: Path | None = field_env("SERVICE_TOKEN_PREVIOUS_FILE", None)
    log_level: str = field_env("LOG_LEVEL", "INFO")
    lease_ttl_s: float = number(12.0, 1)
    sweep_s: float = number(SWEEP_S, 0.01)
