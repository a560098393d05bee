"""Tokens of single commands: a namespace may require one beside every command.

A verified token is remembered by its digest, until it expires, is revoked, or keys are replaced, so that a client that
sends the same token with each command pays for one signature.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

from services.edge.domain.access.claims import ConnectionClaims
from services.edge.domain.access.revocations import Revocations
from services.edge.domain.access.token_log import refused
from services.edge.domain.access.tokens import TokenExpired, TokenInvalid, TokenVerifier
from services.shared.errors import ErrorCode, ThalamusError

_MOST = 4_096  # remembered tokens of an edge


class CommandTokens:
    """Checks the tokens of commands. `wall` is the clock, in Unix seconds."""

    def __init__(self, verifier: TokenVerifier, revocations: Revocations, wall: Callable[[], float]) -> None:
        self._verifier = verifier
        self._revocations = revocations
        self._wall = wall
        self._known: OrderedDict[bytes, ConnectionClaims] = OrderedDict()
        self._key_changes = verifier.key_changes  # when they were verified

    def require(self, token: str, user: str) -> None:
        """Check that it is a good connection token of the user.

        Raises:
            ThalamusError: 109 if it has expired; 103 if it is missing, wrong, revoked or of another user.
        """
        claims = self._claims(token)
        if claims.has_expired(self._wall()):
            raise ThalamusError(code=ErrorCode.TOKEN_EXPIRED)
        if claims.user != user:
            refused("command", "it is for another user")
            raise ThalamusError(code=ErrorCode.PERMISSION_DENIED)

    def _claims(self, token: str) -> ConnectionClaims:
        if not token:
            raise ThalamusError(code=ErrorCode.PERMISSION_DENIED)
        if self._key_changes != self._verifier.key_changes:
            self._key_changes = self._verifier.key_changes
            self._known.clear()
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._known.get(digest)
        if known is not None:
            if self._revocations.covers(
                user=known.user, session=known.session, token=known.token, issued_at=known.issued_at
            ):
                raise ThalamusError(code=ErrorCode.PERMISSION_DENIED)
            self._known.move_to_end(digest)
            return known
        try:
            claims = self._verifier.connection(token, self._wall())
        except TokenExpired:
            raise ThalamusError(code=ErrorCode.TOKEN_EXPIRED) from None
        except TokenInvalid:
            raise ThalamusError(code=ErrorCode.PERMISSION_DENIED) from None
        self._known[digest] = claims
        if len(self._known) > _MOST:
            self._known.popitem(last=False)
        return claims
