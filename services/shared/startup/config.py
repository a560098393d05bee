"""Settings of every process, of every service, and of those with gRPC or the feed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from services.shared.hotlog.hotlog import FEED_MAX_ENTRIES
from services.shared.hotlog.keys import DEFAULT_PREFIX
from services.shared.process.config import HIGHEST_PORT, ConfigError, field_env, number
from services.shared.process.secrets import ServiceTokens, TlsFiles, read_service_tokens, redis_address

if TYPE_CHECKING:
    from services.shared.rpc.tls import ServiceIdentity


class ServiceTls(StrEnum):
    """Whether services talk to one another over mTLS.

    A running platform goes from each value to the next one, or back, without an interruption: neighbours understand
    one another.
    """

    OFF = "off"  # service tokens alone
    ACCEPT = "accept"  # servers take both, on two ports; edges call without
    USE = "use"  # servers take both; edges call over mTLS
    REQUIRE = "require"  # servers take nothing else


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessConfig:
    """Settings of every process; `docs/configuration.md` explains each."""

    internal_host: str = "127.0.0.1"
    internal_port: int = number(9100, 0, HIGHEST_PORT)
    redis_url: str = field_env("REDIS_URL", "redis://127.0.0.1:6379/0")
    redis_password_file: Path | None = field_env("REDIS_PASSWORD_FILE", None)
    redis_prefix: str = field_env("REDIS_PREFIX", DEFAULT_PREFIX)
    log_level: str = field_env("LOG_LEVEL", "INFO")

    def redis_address(self) -> str:
        """Return the address of Redis with the password from its file.

        Raises:
            ConfigError: as `secrets.redis_address`.
        """
        return redis_address(self.redis_url, self.redis_password_file)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig(ProcessConfig):
    """Settings of every service that others call or that calls others."""

    host: str = "127.0.0.1"
    service_token_file: Path | None = field_env("SERVICE_TOKEN_FILE", None)
    service_tls: str = field_env("SERVICE_TLS", "off")
    service_tls_ca_file: Path | None = field_env("SERVICE_TLS_CA_FILE", None)
    service_tls_cert_file: Path | None = field_env("SERVICE_TLS_CERT_FILE", None)
    service_tls_key_file: Path | None = field_env("SERVICE_TLS_KEY_FILE", None)

    @property
    def tls(self) -> ServiceTls:
        """Whether services talk over mTLS.

        Raises:
            ConfigError: `SERVICE_TLS` is not one of the words.
        """
        try:
            return ServiceTls(self.service_tls)
        except ValueError:
            raise ConfigError(f"SERVICE_TLS must be {', '.join(ServiceTls)}, not {self.service_tls!r}") from None

    def identity(self) -> ServiceIdentity | None:
        """Read the certificates of this service; None if mTLS is off.

        Raises:
            ConfigError: a file is not set or can't be used.
        """
        if self.tls is ServiceTls.OFF:
            return None
        from services.shared.rpc.tls import (
            ServiceIdentity,  # the command line reads settings too, and gRPC is slow to import
        )

        return ServiceIdentity(self.tls_files())

    def tls_files(self) -> TlsFiles:
        """Return where the certificates of this service are.

        Raises:
            ConfigError: a file is not set.
        """
        found: list[Path] = []
        for name in ("ca", "cert", "key"):
            path = getattr(self, f"service_tls_{name}_file")
            if path is None:
                raise ConfigError(f"SERVICE_TLS_{name.upper()}_FILE must be set, because SERVICE_TLS is {self.tls}")
            found.append(path)
        return TlsFiles(*found)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedConfig:
    """Settings of every service that writes the feed."""

    max_entries: int = number(FEED_MAX_ENTRIES, 1_000, 100_000_000, env="FEED_MAX_ENTRIES")  # of each stream


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcServiceConfig(ServiceConfig):
    """Settings of every service with a gRPC server."""

    grpc_port: int = number(0, 0, HIGHEST_PORT)  # each service has a default of its own
    grpc_tls_port: int = number(0, 0, HIGHEST_PORT)  # likewise
    service_token_previous_file: Path | None = field_env("SERVICE_TOKEN_PREVIOUS_FILE", None)

    def service_tokens(self) -> ServiceTokens:
        """Read the tokens that callers may show.

        Raises:
            ConfigError: as `read_service_tokens`.
        """
        return read_service_tokens(self.service_token_file, self.service_token_previous_file)
