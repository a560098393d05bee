"""The bearer token of HTTP requests of signed-in users."""

from __future__ import annotations

from fastapi import Request, Response

from services.edge.api.bodies import NO_STORE, come_again, unauthorized
from services.edge.api.context import ApiContext
from services.edge.domain.access.claims import ConnectionClaims
from services.edge.domain.access.tokens import TokenExpired, TokenInvalid
from services.edge.domain.handshake import bearer_token
from services.shared.errors import Unavailable

CHALLENGE = 'Bearer realm="connection"'
_BAD_TOKEN = f'{CHALLENGE}, error="invalid_token"'
BEARER: list[dict[str, list[str]]] = [{"bearer": []}]


class NotSignedIn(Exception):
    """Raised for a request without a good token; answered with 401 and `challenge`."""

    def __init__(self, text: str, challenge: str = _BAD_TOKEN) -> None:
        self.challenge = challenge
        super().__init__(text)


def claims_of(context: ApiContext, request: Request) -> tuple[ConnectionClaims, str]:
    """Return the claims of the connection token of a request, and the token.

    Raises:
        NotSignedIn: there is none, or it is not good now.
        Unavailable: the keys for it are not known yet.
    """
    values = request.headers.getlist("authorization")
    token = bearer_token(values[0]) if len(values) == 1 else None
    if token is None:
        raise NotSignedIn("Authorization must be Bearer with a connection token", CHALLENGE)
    now = context.node.clock.wall()
    try:
        claims = context.node.verifier.connection(token, now)
    except (TokenExpired, TokenInvalid):
        raise NotSignedIn("the token is not valid, or has expired") from None
    if claims.has_expired(now):
        raise NotSignedIn("the token is not valid, or has expired")
    return claims, token


def not_signed_in(error: NotSignedIn | Unavailable) -> Response:
    """Return the response to a request whose token `claims_of` did not accept."""
    response = unauthorized(str(error), error.challenge) if isinstance(error, NotSignedIn) else come_again(error)
    response.headers.update(NO_STORE)
    return response
