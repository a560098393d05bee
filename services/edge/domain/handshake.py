"""Who a client is, by its WebSocket handshake.

**Purpose.** A client may show its token in the handshake. Then a bad one is refused before the upgrade, and the connect
command needs none.

**Rules.**

1. Explicit credentials are `Authorization: Bearer <token>`, the subprotocol `bearer.<token>` or a bare JWT as a
   subprotocol, `?ticket=` or `?session=` (a ticket), and `?token=` if a setting allows it. Other schemes of
   `Authorization` are left to a proxy in front.
2. An explicit credential that is bad is refused. Two that differ are refused, too: nobody can tell which one is meant.
3. The cookie counts only if there is no explicit credential and the page is of the edge's own host (over https, or on
   this machine) or of an origin that is listed by name: any other page could make the browser send it. A bad or expired
   cookie counts as none, because a browser that is refused sees no reason and would reconnect for ever.
4. A token that has just expired may be good to resume (`resume.py`), but not as a cookie: a browser that has a
   new one would send that.
5. A ticket stands for a token. It is good once and for 30 s, on any edge. The token behind it is verified as any other.

**Example.** A page signs in at `/auth/login` with `"cookie": true` and opens a WebSocket. The handshake brings the
cookie and the page's origin. An hour later the cookie has expired: the handshake succeeds without an identity, and the
connect command brings a token, or is refused.

**Trade-offs.** A token in the URL may end in logs of proxies, so it is off by default, and a ticket is good once. An
SDK that keeps one address would use a ticket again when it reconnects: tickets are for clients that build their address
for each connection.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from services.edge.domain.access.claims import ConnectionClaims
from services.edge.domain.access.token_log import refused
from services.edge.domain.access.tokens import TokenExpired, TokenInvalid, TokenVerifier
from services.edge.domain.connections import HandshakeInfo, HandshakeRejected, Identity
from services.edge.domain.ports import Tickets
from services.edge.domain.resume import Resume

COOKIE = "thalamus_session"
TICKET_TTL_S = 30
_TICKET_FIELDS = ("ticket", "session")  # of the query; the second is the older name
_TOKEN_FIELD = "token"
_BEARER_OFFER = "bearer."
_MOST_TICKET_CHARACTERS = 128
_EXPIRED = "the token has expired"
_JWT = re.compile(r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")  # a JSON object in base64url begins with eyJ


class HandshakeAuthenticator:
    """The `Authenticator` of the transport; see the module.

    Args:
        verifier: Verifies the tokens.
        tickets: Where tickets are kept.
        resume: Decides about tokens that have just expired.
        wall: The clock, in Unix seconds.
        takes_query_tokens: Whether `?token=` is accepted.
        is_own_page: Whether pages of this origin may use the cookie, for a request with this Host.
    """

    def __init__(
        self,
        verifier: TokenVerifier,
        tickets: Tickets,
        resume: Resume,
        wall: Callable[[], float],
        *,
        takes_query_tokens: bool,
        is_own_page: Callable[[str, str], bool],
    ) -> None:
        self._verifier = verifier
        self._tickets = tickets
        self._resume = resume
        self._wall = wall
        self._takes_query_tokens = takes_query_tokens
        self._is_own_page = is_own_page

    def identify(self, info: HandshakeInfo) -> Identity | Coroutine[Any, Any, Identity | None] | None:
        """Return who the client is; None: the handshake does not say.

        If something must be looked up, a coroutine does all of this.

        Raises:
            HandshakeRejected: an explicit credential is bad, or two differ. A ticket is unknown, used or too old.
            Unavailable: keys are not known yet; or, of the coroutine, Redis did not answer. The ticket may be used up.
        """
        if any(name in info.query for name in _TICKET_FIELDS):
            return self._by_ticket(info)
        return self._by_tokens(info, self._explicit_tokens(info))

    async def _by_ticket(self, info: HandshakeInfo) -> Identity | None:
        """Use up the ticket of the query, then go on with its token."""
        tokens = self._explicit_tokens(info)
        tickets = {info.query[name] for name in _TICKET_FIELDS if name in info.query}
        if len(tickets) > 1:
            raise _rejected("it has two tickets", conflict=True)
        (ticket,) = tickets
        token = await self._tickets.take(ticket) if 0 < len(ticket) <= _MOST_TICKET_CHARACTERS else None
        if token is None:
            raise _rejected("the ticket is unknown, used, or too old")
        found = self._by_tokens(info, [*tokens, token])
        return await found if isinstance(found, Awaitable) else found

    def _by_tokens(
        self, info: HandshakeInfo, tokens: list[str]
    ) -> Identity | Coroutine[Any, Any, Identity | None] | None:
        if not tokens:
            return self._by_cookie(info) if info.cookies else None
        if len(set(tokens)) > 1:
            raise _rejected("it has two tokens that differ", conflict=True)
        try:
            claims = self._verifier.connection(tokens[0], self._wall(), late_s=self._resume.resume_s)
        except TokenExpired:
            raise HandshakeRejected(_EXPIRED) from None
        except TokenInvalid:
            raise HandshakeRejected("the token is not valid") from None
        if claims.is_late:
            return self._by_late_token(claims, tokens[0])
        if claims.has_expired(self._wall()):
            raise HandshakeRejected(_EXPIRED)
        return Identity(claims, tokens[0])

    async def _by_late_token(self, claims: ConnectionClaims, token: str) -> Identity:
        resumed = await self._resume.admit(claims, token)
        if resumed is None:
            raise HandshakeRejected(_EXPIRED)
        return Identity(resumed, token)

    def _by_cookie(self, info: HandshakeInfo) -> Identity | None:
        token = _cookie(info.cookies)
        if not token or info.origin is None or not self._is_own_page(info.origin, info.host):
            return None
        try:
            claims = self._verifier.connection(token, self._wall())
        except (TokenExpired, TokenInvalid):
            return None
        if claims.has_expired(self._wall()):
            return None
        return Identity(claims, token, is_explicit=False)

    def _explicit_tokens(self, info: HandshakeInfo) -> list[str]:
        """Return the tokens of the handshake, but for cookie and ticket."""
        if not info.ambiguous.isdisjoint((_TOKEN_FIELD, *_TICKET_FIELDS)):
            raise _rejected("the query has two credentials that differ", conflict=True)
        tokens = []
        for value in info.authorization:
            if (token := bearer_token(value)) is not None:
                tokens.append(token)
        for offer in info.offers:
            if offer[: len(_BEARER_OFFER)].lower() == _BEARER_OFFER:
                tokens.append(offer[len(_BEARER_OFFER) :])
            elif _JWT.fullmatch(offer):
                tokens.append(offer)
        if _TOKEN_FIELD in info.query:
            if not self._takes_query_tokens:
                raise _rejected("a token in the query is accepted only with EDGE_TOKEN_IN_QUERY=true")
            tokens.append(info.query[_TOKEN_FIELD])
        return tokens


def bearer_token(authorization: str) -> str | None:
    """Return the token of an `Authorization` header; None if it has another scheme."""
    scheme, _, token = authorization.strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _cookie(headers: Iterable[str]) -> str:
    """Return the value of our cookie; empty if there is none. RFC 6265, 4.2."""
    for header in headers:
        for pair in header.split(";"):
            name, _, value = pair.strip().partition("=")
            if name == COOKIE:
                return value.strip().strip('"')
    return ""


def _rejected(reason: str, *, conflict: bool = False) -> HandshakeRejected:
    """Log the reason and return the exception with a text for the client."""
    refused("handshake", reason)
    text = "there are two credentials that differ" if conflict else "the credential is not valid"
    return HandshakeRejected(text, conflict=conflict)
