"""What auth reads from AUTH_* variables, once, before anything starts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from services.shared.config import ConfigError, field_env
from services.shared.hotlog.keys import DEFAULT_PREFIX


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthConfig:
    """`docs/configuration.md` explains each."""

    host: str = "127.0.0.1"
    grpc_port: int = 9001
    internal_host: str = "127.0.0.1"
    internal_port: int = 9100
    redis_url: str = field_env("REDIS_URL", "redis://127.0.0.1:6379/0")
    redis_password_file: Path | None = field_env("REDIS_PASSWORD_FILE", None)
    redis_prefix: str = field_env("REDIS_PREFIX", DEFAULT_PREFIX)
    service_token_file: Path | None = field_env("SERVICE_TOKEN_FILE", None)
    service_token_previous_file: Path | None = field_env("SERVICE_TOKEN_PREVIOUS_FILE", None)
    log_level: str = field_env("LOG_LEVEL", "INFO")
    store: str = "sqlite"
    db: Path = Path("data/auth.sqlite3")
    access_ttl_s: int = 600
    refresh_ttl_s: int = 30 * 86_400
    signing_algorithm: str = "EdDSA"
    issuer: str = ""
    audience: str = ""
    argon2_memory_kib: int = 19_456
    argon2_time_cost: int = 2
    hash_threads: int = os.cpu_count() or 1
    logins_per_account: int = 10  # failures within the window
    attempts_per_address: int = 60  # registrations and logins within the window; 0: no limit
    limit_window_s: int = 60

    def __post_init__(self) -> None:
        if self.store not in ("sqlite", "dynamodb"):
            raise ConfigError("AUTH_STORE must be sqlite or dynamodb")
        if self.signing_algorithm not in ("EdDSA", "RS256"):
            raise ConfigError("AUTH_SIGNING_ALGORITHM must be EdDSA or RS256")
        if self.argon2_memory_kib < 19_456 or self.argon2_time_cost < 2:
            raise ConfigError("AUTH_ARGON2_MEMORY_KIB must be at least 19456, AUTH_ARGON2_TIME_COST at least 2")
        for name in ("access_ttl_s", "refresh_ttl_s", "hash_threads", "logins_per_account", "limit_window_s"):
            if getattr(self, name) < 1:
                raise ConfigError(f"AUTH_{name.upper()} must be at least 1")
