"""What the rules of accounts need: a store, and limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol


@dataclass(frozen=True, slots=True)
class User:
    """`id` is the token's `sub`; `password_hash` an Argon2id string."""

    id: str
    username: str
    password_hash: str


@dataclass(frozen=True, slots=True)
class Refresh:
    """A refresh token as the store has it; its family is the session."""

    user_id: str
    family: str
    expires_at: float
    used: bool
    revoked: bool
    seed: bytes = b""  # what its successor is made of, with its own text; none before its first use


@dataclass(frozen=True, slots=True)
class ApiKeyRow:
    """An API key; only its digest is kept."""

    id: str
    name: str
    sha256: bytes
    created_at: float


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key in PEM; the newest of an algorithm signs, all are published."""

    kid: str
    algorithm: str
    pem: bytes
    created_at: float


class EndedSession(NamedTuple):
    """A session that is over; its access tokens have the family as `sid`."""

    user_id: str
    family: str


class NameTaken(Exception):
    """Another user has that name."""


class AccountStore(Protocol):
    """Users, sessions and keys. Every method raises `Unavailable` where the store can't do it."""

    async def add_user(self, user: User) -> None:
        """Raises `NameTaken`; names are compared without case."""

    async def find_user(self, username: str) -> User | None: ...

    async def user_by_id(self, user_id: str) -> User | None: ...

    async def add_refresh(self, digest: bytes, refresh: Refresh) -> bool:
        """Of a family that was revoked meanwhile: it is revoked from its birth. False: it is there, and was used."""

    async def use_refresh(self, digest: bytes, now: float, seed: bytes) -> Refresh | None:
        """The token, with the seed of its first use; one that is used up revokes its family. Atomic."""

    async def use_up_refresh(self, digest: bytes) -> None:
        """Whoever uses it from now on is not the one who was given its successor."""

    async def revoke_family(self, digest: bytes) -> EndedSession | None:
        """End the session that the token belongs to, and say which; unknown: no effect."""

    async def add_api_key(self, key: ApiKeyRow) -> None: ...

    async def api_keys(self) -> list[ApiKeyRow]: ...

    async def remove_api_key(self, key_id: str) -> bool: ...

    async def signing_keys(self) -> list[SigningKey]: ...

    async def add_signing_key(self, key: SigningKey) -> None: ...

    async def version(self) -> int:
        """Changes whenever keys may have changed, also by another process."""

    async def check_writable(self) -> None:
        """Whether a write would be taken; asked every second, so nothing is written."""


class Limits(Protocol):
    """Counts per window."""

    async def count(self, name: str, window_s: int) -> int:
        """Add one; how many there are in this window, this one included."""

    async def uncount(self, name: str, window_s: int) -> None:
        """Take one back."""

    async def current(self, name: str) -> tuple[int, int]:
        """How many there are, and seconds until the window ends."""
