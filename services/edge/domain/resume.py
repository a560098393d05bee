"""Resume without a login: come back with a token that expired meanwhile.

**Purpose.** Tokens are short-lived. A client that loses its connection just before its token expires would need a new
one to come back, and who gives out tokens may be down for the same reason. So for 120 s its old token is enough.

**Rules.**

1. A connect, or a handshake, with a token that expired at most `resume_s` ago is accepted if the session table shows a
   connection of it that was open at most `resume_s` ago, on any edge. The table may still show it as open: a client is
   often back before its edge has noticed that it is gone.
2. Connections are found by user and sign-in session (`sid`), without one by the digest of the token.
3. It grants nothing. The token is verified and all limits apply, as always. Revocations are looked at last, and whoever
   is revoked gets the answer of a stranger, after the same look at the table.
4. The connection ends `resume_s` later, unless the client brings a fresh token. After a connect with a token it is told
   to do so within 10 s; with a credential of the handshake it is not, as always. When it is lost again, rule 1 holds
   for the same token: so nothing is open more than twice `resume_s` after the expiry.
5. A backend closes connections by `/api/disconnect`, `/api/refresh` (at once, or at the expiry that it set), a
   revocation, or by disabling the user. That counts for all connections of rule 2: what had ended until then, on any
   edge, can't be resumed. Those that stay open (another tab) can, and so can what opens later. An edge that is dead
   counts as open until its lease runs out. Redis is told within 20 ms, or when it is back. If the edge dies before it
   could tell, or Redis refuses to write, its connections count by rule 1. So do those of a user who has none open when
   the backend closes: no edge has anything to note. A revocation has no such gaps.
6. An edge lists a connection from 30 s before rule 1 could need it: `resume_s` before its token expires. Most
   connections end or get a new token before, so most connects and ends write nothing.
7. If Redis does not answer, nobody resumes: the token has expired, as always.

**Example.** A token expires at 12:00:00. At 11:57:30 its edge lists the connection, which is lost at 11:59:30. The
client comes to another edge at 12:01:00 and goes on; at 12:01:31 it could not. Its new connection ends at 12:03:00.

**Trade-offs.** Who steals a token that has just expired can use it as long as its owner could. Of the connections with
one `sid` an edge says only whether there is one, so a sign-in with many of them costs one entry.

Decision: docs/decisions/0040-resume-without-a-login.md.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import replace

from services.edge.domain.access.claims import ConnectionClaims
from services.edge.domain.access.revocations import Revocations
from services.edge.domain.access.token_log import refused
from services.edge.domain.ports import SessionTable
from services.shared.errors import Unavailable

REFRESH_WITHIN_S = 10  # within which a client that has resumed is told to refresh, seconds
_EARLY_S = 30.0  # how long before it could be needed a connection is listed, seconds
_CLOCKS_S = 5.0  # by which an entry may be ahead of the clock here, seconds
_KEY_CHARACTERS = 32  # of the hex digest: 128 bits


class Resume:
    """Lists this edge's connections, and decides who may resume. `resume_s` 0: nobody."""

    def __init__(
        self, table: SessionTable | None, revocations: Revocations, wall: Callable[[], float], resume_s: float
    ) -> None:
        self._table = table
        self._revocations = revocations
        self._wall = wall
        self.resume_s = resume_s if table is not None else 0.0
        self.outcomes: dict[str, int] = {}  # for metrics: resumed, refused, unavailable
        self._listed: dict[str, int] = {}  # key → connections here

    def __len__(self) -> int:
        return len(self._listed)

    # Listing. The caller lists a connection once, and takes it off once, under the same key.

    def key(self, claims: ConnectionClaims, token: str) -> str:
        """Return under which key connections with a token are listed.

        Empty: they need no list.
        """
        if not self.resume_s or claims.token_expires_at is None:
            return ""
        if claims.session:
            name = f"s{len(claims.user)} {claims.user}{claims.session}".encode("utf-8", "surrogatepass")
        else:
            name = b"t" + token.encode("utf-8", "surrogatepass")
        return hashlib.sha256(name).hexdigest()[:_KEY_CHARACTERS]

    def list_from(self, token_expires_at: float) -> float:
        """Return from when on a connection must be listed, Unix seconds."""
        return token_expires_at - self.resume_s - _EARLY_S

    def began(self, key: str) -> None:
        """List a connection."""
        count = self._listed.get(key, 0)
        self._listed[key] = count + 1
        if self._table is not None:  # also if it is not the first: the entry may have lapsed
            self._table.opened(key)

    def ended(self, key: str, *, may_resume: bool) -> None:
        """Take a connection off the list, because it has ended or has another token."""
        count = self._listed.pop(key)
        if count > 1:
            self._listed[key] = count - 1
        elif self._table is not None:
            if may_resume:
                self._table.ended(key, self._wall())
            else:
                self._table.removed(key)

    def closed_by_backend(self, key: str) -> None:
        """Note that a backend has closed a connection (rule 5), listed or not."""
        if self._table is not None:
            self._table.closed(key, self._wall())

    def list_again(self) -> None:
        """Write all entries again, because Redis may have lost them."""
        if self._table is not None:
            for key in self._listed:
                self._table.opened(key)

    # Resuming.

    async def admit(self, claims: ConnectionClaims, token: str) -> ConnectionClaims | None:
        """Return the claims with which a client with a late token may go on.

        None: it may not.

        Args:
            claims: Claims of a token that is verified but for its expiry and revocations (`claims.is_late`).
            token: The token.
        """
        outcome, seen = "refused", None
        if self._table is not None:
            try:  # in a task of its own, because the connect command may have none
                seen = await asyncio.create_task(self._table.last_seen(self.key(claims, token)))
            except Unavailable:
                outcome = "unavailable"
        now = self._wall()
        if seen is not None and self._may(claims, seen, now):
            outcome = "resumed"
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        if outcome != "resumed":
            refused("connection", "it has expired, and its client may not resume")
            return None
        ends_at = now + self.resume_s
        if claims.expires_at is not None and claims.expires_at > now:  # `expire_at` says so
            ends_at = min(ends_at, claims.expires_at)
        return replace(claims, expires_at=ends_at)

    def _may(self, claims: ConnectionClaims, seen: float, now: float) -> bool:
        since = now - self.resume_s
        return (
            since <= seen <= now + _CLOCKS_S
            and claims.token_expires_at is not None
            and claims.token_expires_at > since
            and (claims.expires_at is None or claims.expires_at > since)
            and not self._revocations.covers(
                user=claims.user, session=claims.session, token=claims.token, issued_at=claims.issued_at
            )
        )
