"""Settings of auth, read from AUTH_* variables once at the start."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from services.auth.domain.password_rules import LEAST_LENGTH
from services.auth.domain.policy import RegistrationMode
from services.auth.domain.signing import KEY_OVERLAP_S
from services.shared.process.config import HIGHEST_PORT, ConfigError, number, shown
from services.shared.startup.config import GrpcServiceConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthConfig(GrpcServiceConfig):
    """The settings. `docs/configuration.md` explains each."""

    grpc_port: int = number(9001, 0, HIGHEST_PORT)
    grpc_tls_port: int = number(9011, 0, HIGHEST_PORT)
    store: str = "sqlite"
    db: Path = Path("data/auth.sqlite3")
    access_ttl_s: int = number(600, 1)
    refresh_ttl_s: int = number(30 * 86_400, 1)
    signing_algorithm: str = "EdDSA"
    key_overlap_s: int = number(KEY_OVERLAP_S, 1, 7 * 86_400)  # from the making of a key to its first signature
    issuer: str = ""
    audience: str = ""
    argon2_memory_kib: int = number(19_456, 19_456, 1 << 22)
    argon2_time_cost: int = number(2, 2, 1_000)
    hash_threads: int = number(os.cpu_count() or 1, 1, 1_024)
    logins_per_account: int = number(10, 1)  # failed logins of one account within the window
    attempts_per_address: int = number(60, 0)  # registrations and logins of one address within the window; 0: no limit
    limit_window_s: int = number(60, 1)
    registration: str = "closed"
    insert_unknown_users: bool = False
    sessions_per_user: int = number(100, 0)  # login sessions; a login beyond ends the oldest ones. 0: no limit
    password_min_length: int = number(LEAST_LENGTH, LEAST_LENGTH, 256)  # of new passwords, characters

    def __post_init__(self) -> None:
        if self.store not in ("sqlite", "dynamodb"):
            raise ConfigError("AUTH_STORE must be sqlite or dynamodb")
        if self.signing_algorithm not in ("EdDSA", "RS256"):
            raise ConfigError("AUTH_SIGNING_ALGORITHM must be EdDSA or RS256")
        if self.registration not in list(RegistrationMode):
            raise ConfigError(
                f"AUTH_REGISTRATION must be {', '.join(RegistrationMode)}, not {shown(self.registration)}"
            )
