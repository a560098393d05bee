"""Settings of persistence, read from the environment (PERSISTENCE_*) at the start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services.shared.hotlog.keys import DEFAULT_PREFIX
from services.shared.process.config import HIGHEST_PORT, ConfigError, field_env, number


@dataclass(frozen=True, slots=True, kw_only=True)
class PersistenceConfig:
    """Settings; `docs/configuration.md` explains each."""

    host: str = "127.0.0.1"
    grpc_port: int = number(9003, 0, HIGHEST_PORT)
    internal_host: str = "127.0.0.1"
    internal_port: int = number(9100, 0, HIGHEST_PORT)
    redis_url: str = field_env("REDIS_URL", "redis://127.0.0.1:6379/0")
    redis_password_file: Path | None = field_env("REDIS_PASSWORD_FILE", None)
    redis_prefix: str = field_env("REDIS_PREFIX", DEFAULT_PREFIX)
    service_token_file: Path | None = field_env("SERVICE_TOKEN_FILE", None)
    service_token_previous_file: Path | None = field_env("SERVICE_TOKEN_PREVIOUS_FILE", None)
    log_level: str = field_env("LOG_LEVEL", "INFO")
    channels_file: Path = field_env("CHANNELS_FILE", Path("config/channels.toml"))
    store: str = "sqlite"
    db: Path = Path("data/persistence.sqlite3")
    max_unstored: int = number(10_000, 1)  # publications of a channel; beyond, appends are refused as busy
    max_waiting: int = number(20_000, 1)  # publications that wait for a batch, of all edges
    max_batch: int = number(1_024, 1)  # publications of one batch
    sweep_s: float = number(1.0, 0.01)  # seconds between heartbeats, and between sweeps

    def __post_init__(self) -> None:
        if self.store not in ("sqlite", "dynamodb"):
            raise ConfigError("PERSISTENCE_STORE must be sqlite or dynamodb")
