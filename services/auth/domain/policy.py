"""What the operator decides about accounts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class RegistrationMode(StrEnum):
    """Who may make an account for themselves."""

    OPEN = "open"  # anybody
    INVITE = "invite"  # whoever has an invite
    CLOSED = "closed"  # nobody: backends and the command line make users


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Numbers for the rules; see AuthConfig."""

    access_ttl_s: int
    refresh_ttl_s: int
    issuer: str
    audience: str
    logins_per_account: int
    attempts_per_address: int
    limit_window_s: int
    registration: RegistrationMode = RegistrationMode.CLOSED
    password_min_length: int = 8
    sessions_per_user: int = 100
    insert_unknown_users: bool = False
