"""Revoked users, sign-in sessions and tokens, kept in memory.

They say which tokens are refused although they are signed and have not expired.

**Rules.** A token is revoked if its id (`jti`) or its sign-in session (`sid`) is, or if its user is and the token was
issued (`iat`) at the time of the revocation or before. A token without `iat` counts as issued before. So a user who is
revoked may sign in again and gets good tokens.

An entry is kept until no token that it covers could be good. There are 100,000 at most.
`domain/control/revoker.py` has how an entry reaches every edge.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator

import msgspec

MAX_REVOCATIONS = 100_000


class RevokedKind(enum.Enum):
    """What an entry names."""

    USER = "user"
    SESSION = "session"  # a sign-in: the claim `sid`
    TOKEN = "token"  # the claim `jti`


class Revocation(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the list.

    It was made at `at` and is kept until `until`; both are Unix seconds.
    """

    kind: RevokedKind
    id: str
    at: float
    until: float


class Revocations:
    """The entries that this edge knows. No I/O."""

    def __init__(self) -> None:
        self._by_kind: dict[RevokedKind, dict[str, Revocation]] = {kind: {} for kind in RevokedKind}

    def __len__(self) -> int:
        return sum(map(len, self._by_kind.values()))

    def __iter__(self) -> Iterator[Revocation]:
        for entries in self._by_kind.values():
            yield from entries.values()

    def add(self, entry: Revocation) -> bool:
        """Add an entry; return False if it changes nothing.

        Of two entries for the same thing, the later times hold.
        """
        entries = self._by_kind[entry.kind]
        known = entries.get(entry.id)
        if known is not None:
            if entry.at <= known.at and entry.until <= known.until:
                return False
            entry = Revocation(
                kind=entry.kind, id=entry.id, at=max(entry.at, known.at), until=max(entry.until, known.until)
            )
        entries[entry.id] = entry
        return True

    def covers(self, *, user: str, session: str, token: str, issued_at: float | None) -> bool:
        """Return whether a token with these claims is revoked; an absent claim is empty."""
        by_kind = self._by_kind
        if session and session in by_kind[RevokedKind.SESSION]:
            return True
        if token and token in by_kind[RevokedKind.TOKEN]:
            return True
        entry = by_kind[RevokedKind.USER].get(user) if user else None
        return entry is not None and (issued_at is None or issued_at <= entry.at)

    def forget_expired(self, now: float) -> None:
        """Remove the entries whose time is over."""
        for entries in self._by_kind.values():
            for key in [key for key, entry in entries.items() if entry.until <= now]:
                del entries[key]
