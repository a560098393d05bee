"""The HTTP endpoints of tickets.

A page signs in over HTTP first, then opens the WebSocket with a ticket in its address.

A ticket stands for a token, is good once, and for 30 s. It is for clients that can't set headers and build their
address for each connection. A user gets 100 in 30 s from one edge: each is up to 8 KiB in Redis.
"""

from __future__ import annotations

from http import HTTPStatus

import msgspec
from fastapi import FastAPI, Request, Response

from services.edge.api.accounts import Credentials, caller_of, end_surplus, peer_of, reply, sign_in_body
from services.edge.api.bearer import BEARER, NotSignedIn, claims_of, not_signed_in
from services.edge.api.bodies import NO_STORE, come_again, result_response
from services.edge.api.context import ApiContext
from services.edge.api.openapi import EXAMPLES_OF_ACCOUNTS, Schemas
from services.edge.api.results import SessionTicket, Ticket
from services.edge.api.user_limit import UserLimit
from services.edge.domain.handshake import TICKET_TTL_S
from services.shared.errors import ThalamusError, Unavailable

TICKETS_PER_USER = 100  # in the time for which a ticket is good, on one edge; as many as connections by default
SCHEMAS: tuple[type[msgspec.Struct], ...] = (Ticket, SessionTicket)


def add_routes(app: FastAPI, context: ApiContext, schemas: Schemas) -> None:
    """Add the routes. The docstring of each endpoint is its summary in OpenAPI."""
    limit = UserLimit(TICKETS_PER_USER / TICKET_TTL_S, TICKETS_PER_USER, context.node.clock.monotonic, "tickets")

    async def ticket(request: Request) -> Response:
        """Exchange a connection token for a ticket: `?ticket=` of one WebSocket handshake."""
        try:
            claims, token = claims_of(context, request)
        except (NotSignedIn, Unavailable) as error:
            return not_signed_in(error)
        refused = limit.refusal(f"user {claims.user}" if claims.user else f"address {peer_of(request)}")
        if refused is not None:
            return refused
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
            pair = await context.accounts.login(body.username, body.password, caller_of(request))
            await end_surplus(context, pair)
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
        responses=schemas.of_accounts(SessionTicket, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN),
    )


async def _new_ticket(context: ApiContext, token: str) -> str:
    return await context.tickets.issue(token, TICKET_TTL_S)
