"""Revoked users, sign-in sessions and tokens, kept in memory.

They say which tokens are refused although they are signed and have not expired.

**Rules.** A token is revoked if its id (`jti`) or its sign-in session (`sid`) is, or if its user is and the token was
issued (`iat`) at the time of the revocation or before. A token without `iat` counts as issued before. So a user who is
revoked may sign in again and gets good tokens. The clock of who signs tokens may be ahead: a token counts as issued by
the leeway earlier than it says, and at the latest when it was shown, so no connection that is open outlives it.

An entry is kept until no token that it covers could be good. There are 100,000 at most.
`domain/control/revoker.py` has how an entry reaches every edge.

**Disabled users** are no entries: their tokens are refused whenever and by whomever they were issued, for as long as
auth says so.

1. Auth alone knows who is disabled. It tells every edge the digests of all of them (`Watch`), with the version of the
   store at which they were read. Each list replaces the one before. One of a lower version is from a replica that is
   behind, or from a restored store. It ends no refusal, but whoever is in it is refused too. After 600 s without a
   newer one it replaces that.
2. An edge that disables a user tells the others at once (`SetUser`), with a version that auth read after it had done
   so. It only adds a refusal, until a list of that version or a higher one arrives: that list has it, or somebody has
   enabled the user since. It adds nothing where the last list of auth is such a one, however late it arrives.
3. Nothing but a list ends a refusal. So an edge that is cut off from auth refuses too many rather than too few.

Example: edge 1 enables a user (version 11) while edge 2 disables the same one (12). Whatever arrives first, each edge
refuses the user once it has the list of version 12.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Collection, Iterable, Iterator

import msgspec

from services.shared.user_digest import digest_of

MAX_REVOCATIONS = 100_000
OLDER_S = 600.0  # for so long after a list of disabled users an older one is ignored, seconds


class RevokedKind(enum.Enum):
    """What an entry names."""

    USER = "user"
    SESSION = "session"  # a sign-in: the claim `sid`
    TOKEN = "token"  # the claim `jti`
    GRANTS = "grants"  # what edges know of the stored grants of a user; it concerns no tokens (`control/granter.py`)


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
        self._disabled: frozenset[bytes] = frozenset()
        self._version = 0  # of the store of auth, when that list was read
        self._taken_at = 0.0
        self._told: frozenset[bytes] = frozenset()  # the last list of the stream, also an older one
        self._told_version = 0
        self._newly: dict[bytes, int] = {}  # disabled since, and the version that a list with it has at least
        self._digests: dict[str, bytes] = {}  # of the users that were looked at when the last list came

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
        """Return whether a token with these claims is refused; an absent claim is empty."""
        if self.is_disabled(user):
            return True
        by_kind = self._by_kind
        if session and session in by_kind[RevokedKind.SESSION]:
            return True
        if token and token in by_kind[RevokedKind.TOKEN]:
            return True
        entry = by_kind[RevokedKind.USER].get(user) if user else None
        return entry is not None and (issued_at is None or issued_at <= entry.at)

    def is_disabled(self, user: str) -> bool:
        """Return whether the user is disabled; an anonymous one is not."""
        if not user or not (self._disabled or self._told or self._newly):
            return False
        return self._refuses(digest_of(user))

    def _refuses(self, digest: bytes) -> bool:
        return digest in self._disabled or digest in self._told or digest in self._newly

    def disabled_among(self, users: Collection[str]) -> list[str]:
        """Return those of the users that are disabled.

        Digests are kept until the next call: of users who are connected all the time each is computed once.
        """
        before = self._digests
        self._digests = {user: before.get(user) or digest_of(user) for user in users if user}
        return [user for user, digest in self._digests.items() if self._refuses(digest)]

    def set_disabled(self, digests: Iterable[bytes] | None, version: int = 0, *, now: float = 0.0) -> bool:
        """Take the digests of all disabled users; return whether more are refused.

        Args:
            digests: All of them; None: they are as auth said before.
            version: Of the store of auth when they were read; 0: of an auth of before, which does not say.
            now: Monotonic seconds.
        """
        if digests is None and not version:
            return False
        before, self._told_version = self._told, version
        if digests is not None:
            self._told = frozenset(digests)
        is_more = not self._told <= before
        is_older = 0 < version < self._version
        if is_older and now < self._taken_at + OLDER_S:
            return is_more
        # What the store of before counted beyond its last list would be waited for in vain.
        last = self._version if is_older else math.inf
        self._newly = {digest: since for digest, since in self._newly.items() if 0 < version < since <= last}
        self._disabled, self._version, self._taken_at = self._told, version, now
        return is_more

    def add_disabled(self, user: str, version: int) -> None:
        """Refuse a user until a list of that version arrives.

        Nothing if the last one is such a list.
        """
        if version > min(self._version, self._told_version) or not version:
            digest = digest_of(user)
            self._newly[digest] = max(version, self._newly.get(digest, 0))

    def forget_expired(self, now: float) -> None:
        """Remove the entries whose time is over."""
        for entries in self._by_kind.values():
            for key in [key for key, entry in entries.items() if entry.until <= now]:
                del entries[key]
