"""Interfaces that the rules of accounts need: a store, and rate limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from services.auth.domain.user_ports import UserStore


@dataclass(frozen=True, slots=True)
class User:
    """A user. `id` is the `sub` of tokens, `password_hash` an Argon2id string."""

    id: str
    username: str
    password_hash: str


@dataclass(frozen=True, slots=True)
class Refresh:
    """A stored refresh token. Its family is its session."""

    user_id: str
    family: str
    expires_at: float
    used: bool
    revoked: bool
    seed: bytes = b""  # with the token's text it gives the successor; empty before the first use


@dataclass(frozen=True, slots=True)
class ApiKeyRow:
    """An API key. Only the SHA-256 of its text is stored.

    `scopes`: what it may do; empty: everything. Times are Unix seconds. `expires_at` 0: never. `last_used_at` 0: not
    known.
    """

    id: str
    name: str
    sha256: bytes
    created_at: float
    scopes: tuple[str, ...] = ()
    expires_at: float = 0.0
    last_used_at: float = 0.0

    @property
    def is_limited(self) -> bool:
        """Whether services that know no scopes must not see it."""
        return bool(self.scopes or self.expires_at)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key in PEM.

    One of them signs, see `Signer`; the public parts of all keys are published.
    """

    kid: str
    algorithm: str
    pem: bytes
    created_at: float


class EndedSession(NamedTuple):
    """A session that is over. Its access tokens carry the family as `sid`."""

    user_id: str
    family: str


class GrantRow(NamedTuple):
    """A stored grant of a user. `expires_at` is in Unix seconds; 0: never."""

    channel: str
    operation: str
    expires_at: float = 0.0


class GrantStore(Protocol):
    """Store of grants.

    Every method raises `Unavailable` if the store does not answer or fails.
    """

    async def give(self, user: str, rows: Sequence[GrantRow]) -> None:
        """Add grants, 100 at most: all of them or none.

        One of the same channel and operation is replaced.
        """

    async def take(self, user: str, rows: Sequence[GrantRow]) -> None:
        """Remove the grants of these channels and operations, 100 at most."""

    async def of(self, user: str) -> list[GrantRow]:
        """Return the grants of a user by channel and operation; some may have expired."""


@dataclass(frozen=True, slots=True)
class Invite:
    """A code that is good for one registration.

    Only the SHA-256 of it is stored. `note` says for operators what it is for. Times are Unix seconds.
    """

    sha256: bytes
    note: str
    created_at: float
    expires_at: float


class InviteStore(Protocol):
    """Store of invites that are good. `AccountStore.add_user` uses them up.

    Every method raises `Unavailable` if the store does not answer or fails.
    """

    async def add(self, invite: Invite, now: float) -> None: ...

    async def all(self, now: float) -> list[Invite]:
        """Return those that are neither used nor expired, in no particular order."""

    async def is_good(self, sha256: bytes, now: float) -> bool: ...

    async def remove(self, sha256: bytes) -> bool:
        """Remove an invite; False if it was used before, or removed long ago."""


class NameTaken(Exception):
    """Another user has that name."""


class NoInvite(Exception):
    """The invite is unknown, used or expired."""


class AccountStore(Protocol):
    """Store of users, sessions and keys.

    Every method raises `Unavailable` if the store does not answer or fails.
    """

    @property
    def grants(self) -> GrantStore: ...

    @property
    def invites(self) -> InviteStore: ...

    @property
    def users(self) -> UserStore:
        """What is known of users besides their passwords."""

    async def add_user(self, user: User, now: float = 0.0, invite: bytes = b"") -> None:
        """Add a user, created at `now`, and use up the invite with this SHA-256.

        Both or none of it. Empty: there is none. Raises `NoInvite`, or `NameTaken`; names are compared without case.
        """

    async def find_user(self, username: str) -> User | None: ...

    async def user_by_id(self, user_id: str) -> User | None: ...

    async def add_refresh(self, digest: bytes, refresh: Refresh) -> bool:
        """Add a refresh token, revoked if its family has been revoked meanwhile.

        Returns False if it is there already and was used; then nothing changes.
        """

    async def use_refresh(self, digest: bytes, now: float, seed: bytes) -> Refresh | None:
        """Store `seed` for the token if it has none, and return the token; None: unknown.

        If the token is used up, its family is revoked. Atomic.
        """

    async def use_up_refresh(self, digest: bytes) -> None:
        """Mark the token as used up: the next use of it ends its family."""

    async def revoke_family(self, digest: bytes) -> EndedSession | None:
        """End the session of this token and return it; None if the token is unknown."""

    async def add_api_key(self, key: ApiKeyRow) -> None: ...

    async def api_keys(self) -> list[ApiKeyRow]: ...

    async def remove_api_key(self, key_id: str) -> bool: ...

    async def note_api_key_uses(self, uses: Mapping[str, float]) -> None:
        """Note when keys were last used, by id.

        An earlier use than the one known changes nothing. It is no change of keys (`version`).
        """

    async def signing_keys(self) -> list[SigningKey]: ...

    async def add_signing_key(self, key: SigningKey) -> None: ...

    async def remove_signing_key(self, kid: str) -> bool:
        """Remove a key; False if it does not exist."""

    async def version(self) -> int:
        """Return a number that changes when keys may have changed, by any process."""

    async def check_writable(self) -> None:
        """Raise `Unavailable` if a write would fail. Called every second; writes nothing."""


class Limits(Protocol):
    """Counters per name and time window."""

    async def count(self, name: str, window_s: int) -> int:
        """Add one and return the count of this window, this one included."""

    async def uncount(self, name: str, window_s: int) -> None:
        """Take one back."""

    async def current(self, name: str) -> tuple[int, int]:
        """Return the count, and the seconds until the window ends."""
