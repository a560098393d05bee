"""The HTTP endpoints of tickets.

A page signs in over HTTP first, then opens the WebSocket with a ticket in its address.

A ticket stands for a token, is good once, and for 30 s. It is for clients that can't set headers and build their
address for each connection. A user gets 100 in 30 s from one edge: each is up to 8 KiB in Redis.
"""

from __future__ import annotations

import math
import secrets
from collections import OrderedDict
from collections.abc import Callable
from http import HTTPStatus

import msgspec
from fastapi import FastAPI, Request, Response

from services.edge.api.accounts import NO_STORE, Credentials, peer_of, reply, sign_in_body
from services.edge.api.bodies import come_again, refusal, result_response, unauthorized
from services.edge.api.context import ApiContext
from services.edge.api.openapi import EXAMPLES_OF_ACCOUNTS, Schemas
from services.edge.api.results import SessionTicket, Ticket
from services.edge.domain.access.tokens import TokenExpired, TokenInvalid
from services.edge.domain.handshake import TICKET_TTL_S, bearer_token
from services.edge.domain.token_bucket import TokenBucket
from services.shared.errors import ErrorCode, ThalamusError

_CHALLENGE = 'Bearer realm="connection"'
_BAD_TOKEN = f'{_CHALLENGE}, error="invalid_token"'
_TICKET_BYTES = 24
TICKETS_PER_USER = 100  # in the time for which a ticket is good, on one edge; as many as connections by default
_USERS = 100_000  # users with a token bucket; the one that took no token for the longest time is dropped first
SCHEMAS: tuple[type[msgspec.Struct], ...] = (Ticket, SessionTicket)
BEARER: list[dict[str, list[str]]] = [{"bearer": []}]


class TicketLimit:
    """Token bucket per user."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, who: str) -> None:
        """Take a token.

        Raises:
            ThalamusError: 111, there is none.
        """
        bucket = self._buckets.pop(who, None)
        if bucket is None:
            if len(self._buckets) >= _USERS:
                self._buckets.popitem(last=False)
            bucket = TokenBucket(TICKETS_PER_USER / TICKET_TTL_S, TICKETS_PER_USER, self._now())
        self._buckets[who] = bucket
        if not bucket.take(self._now()):
            wait_s = bucket.retry_after_s()
            raise ThalamusError("too many tickets", ErrorCode.TOO_MANY_REQUESTS, retry_after_s=wait_s)


def add_routes(app: FastAPI, context: ApiContext, schemas: Schemas) -> None:
    """Add the routes. The docstring of each endpoint is its summary in OpenAPI."""
    limit = TicketLimit(context.node.clock.monotonic)

    async def ticket(request: Request) -> Response:
        """Exchange a connection token for a ticket: `?ticket=` of one WebSocket handshake."""
        values = request.headers.getlist("authorization")
        token = bearer_token(values[0]) if len(values) == 1 else None
        if token is None:
            return _refused("Authorization must be Bearer with a connection token", _CHALLENGE)
        try:
            claims = context.node.verifier.connection(token, context.node.clock.wall())
        except (TokenExpired, TokenInvalid):
            return _refused("the token is not valid, or has expired", _BAD_TOKEN)
        if claims.has_expired(context.node.clock.wall()):
            return _refused("the token is not valid, or has expired", _BAD_TOKEN)
        try:
            limit.take(f"user {claims.user}" if claims.user else f"address {peer_of(request)}")
        except ThalamusError as error:
            response = refusal(error, 429, {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))})
            response.headers.update(NO_STORE)
            return response
        try:
            made = await _new_ticket(context, token)
        except ThalamusError as error:
            response = come_again(error)
        else:
            response = result_response({"ticket": made, "expires_in_s": TICKET_TTL_S})
        response.headers.update(NO_STORE)
        return response

    async def session(request: Request) -> Response:
        """Sign in with a password, for one WebSocket handshake with `?session=`."""
        body = await sign_in_body(request, Credentials)

        async def sign_in() -> dict[str, object]:
            pair = await context.accounts.login(body.username, body.password, peer_of(request))
            made = await _new_ticket(context, pair.access_token)
            return {"session": made, "expires_in_s": TICKET_TTL_S, "user": pair.user, "username": pair.username}

        return await reply(sign_in)

    app.add_api_route(
        "/auth/ticket",
        ticket,
        methods=["POST"],
        tags=["accounts"],
        summary=(ticket.__doc__ or "").strip(),
        openapi_extra={"security": BEARER},
        responses=schemas.of_tickets(Ticket),
    )
    app.add_api_route(
        "/auth",
        session,
        methods=["POST"],
        name="auth_session",
        tags=["accounts"],
        summary=(session.__doc__ or "").strip(),
        openapi_extra={"requestBody": schemas.request(Credentials, EXAMPLES_OF_ACCOUNTS["session"])},
        responses=schemas.of_accounts(SessionTicket, HTTPStatus.UNAUTHORIZED),
    )


async def _new_ticket(context: ApiContext, token: str) -> str:
    made = secrets.token_urlsafe(_TICKET_BYTES)
    await context.tickets.put(made, token, TICKET_TTL_S)
    return made


def _refused(text: str, challenge: str) -> Response:
    response = unauthorized(text, challenge)
    response.headers.update(NO_STORE)
    return response
