"""Settings that every service has, and those of every service with a gRPC server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services.shared.hotlog.keys import DEFAULT_PREFIX
from services.shared.process.config import HIGHEST_PORT, field_env, number
from services.shared.process.secrets import ServiceTokens, read_service_tokens, redis_address


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """Settings of every service; `docs/configuration.md` explains each."""

    host: str = "127.0.0.1"
    internal_host: str = "127.0.0.1"
    internal_port: int = number(9100, 0, HIGHEST_PORT)
    redis_url: str = field_env("REDIS_URL", "redis://127.0.0.1:6379/0")
    redis_password_file: Path | None = field_env("REDIS_PASSWORD_FILE", None)
    redis_prefix: str = field_env("REDIS_PREFIX", DEFAULT_PREFIX)
    service_token_file: Path | None = field_env("SERVICE_TOKEN_FILE", None)
    log_level: str = field_env("LOG_LEVEL", "INFO")

    def redis_address(self) -> str:
        """Return the address of Redis with the password from its file.

        Raises:
            ConfigError: as `secrets.redis_address`.
        """
        return redis_address(self.redis_url, self.redis_password_file)


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcServiceConfig(ServiceConfig):
    """Settings of every service with a gRPC server."""

    grpc_port: int = number(0, 0, HIGHEST_PORT)  # each service has a default of its own
    service_token_previous_file: Path | None = field_env("SERVICE_TOKEN_PREVIOUS_FILE", None)

    def service_tokens(self) -> ServiceTokens:
        """Read the tokens that callers may show.

        Raises:
            ConfigError: as `read_service_tokens`.
        """
        return read_service_tokens(self.service_token_file, self.service_token_previous_file)
