"""The HTTP endpoints `/auth/*`: register, sign in, refresh, sign out, public keys.

The auth service decides; the edge passes requests on. When a session ends, all edges close its connections.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import FastAPI, Request, Response

from services.edge.api.bodies import NO_STORE, come_again, decode, plain_error, read_body, refusal, result_response
from services.edge.api.context import ApiContext
from services.edge.api.cookies import clear_session_cookie, may_change_cookie, set_session_cookie
from services.edge.api.openapi import EXAMPLES_OF_ACCOUNTS, JWK_SET, Schemas
from services.edge.api.results import Nothing, Registrations, SignedIn
from services.edge.api.texts import text_of
from services.edge.api.users import end_sessions
from services.edge.domain.ports import AccountRefused, Caller, EndedSession, TokenPair
from services.edge.domain.user_ports import EndedSessions
from services.shared.errors import ErrorCode, ThalamusError, Unavailable
from services.shared.text_rules import USERNAME

logger = logging.getLogger(__name__)
T = TypeVar("T")

_MAX_BODY_BYTES = 8_192
_USER_AGENT = 256  # characters of a user agent that are passed on
_CHALLENGE = 'Bearer realm="accounts"'  # not Basic, for which browsers would open their own password dialog


class Registration(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A new user. The password may have at most 1,024 bytes in UTF-8.

    `invite`: the code of an invite, where registration asks for one. `cookie`: see `Login`.
    """

    username: Annotated[str, text_of(USERNAME)]
    password: Annotated[str, msgspec.Meta(min_length=8, max_length=1_024)]
    invite: Annotated[str, msgspec.Meta(max_length=64)] = ""
    cookie: bool = False


class Credentials(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Name and password of a user."""

    username: str
    password: Annotated[str, msgspec.Meta(max_length=1_024)]


class Login(Credentials, kw_only=True, forbid_unknown_fields=True):
    """Name and password of a user.

    `cookie`: the access token is set as a cookie too, for WebSocket handshakes of web pages.
    """

    cookie: bool = False


class RefreshToken(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The refresh token of the last response. Each can be used once."""

    refresh_token: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]


class Refresh(RefreshToken, kw_only=True, forbid_unknown_fields=True):
    """The refresh token of the last response.

    Each can be used once. `cookie`: see `Login`.
    """

    cookie: bool = False


SCHEMAS = (Registration, Credentials, Login, RefreshToken, Refresh, SignedIn, Registrations, Nothing)


def add_routes(app: FastAPI, context: ApiContext, schemas: Schemas) -> None:
    """Add the routes of accounts, and that of the public keys.

    The docstring of each endpoint is its summary in OpenAPI.
    """
    accounts = context.accounts

    async def register(request: Request) -> Response:
        """Create a user with a password, and sign in."""
        body = await sign_in_body(request, Registration)

        def sign_up() -> Awaitable[TokenPair]:
            return accounts.register(body.username, body.password, caller_of(request), body.invite)

        return await respond_with_tokens(request, sign_up, cookie=body.cookie)

    async def login(request: Request) -> Response:
        """Sign in with a password."""
        body = await sign_in_body(request, Login)
        return await respond_with_tokens(
            request, lambda: accounts.login(body.username, body.password, caller_of(request)), cookie=body.cookie
        )

    async def refresh(request: Request) -> Response:
        """Exchange a refresh token for new tokens; a second use of one ends its session."""
        body = await sign_in_body(request, Refresh)

        async def exchange() -> TokenPair:
            try:
                return await accounts.refresh(body.refresh_token, caller_of(request))
            except AccountRefused as error:
                if error.ended is not None:
                    await _revoke_session_or_log(context, error.ended)
                raise

        return await respond_with_tokens(request, exchange, cookie=body.cookie)

    async def logout(request: Request) -> Response:
        """End the session of a refresh token, and close its connections."""
        body = await sign_in_body(request, RefreshToken)

        async def end() -> dict[str, Any]:
            ended = await accounts.logout(body.refresh_token)
            if ended is not None:
                await _revoke_session(context, ended)
            return {}

        response = await reply(end)
        if may_change_cookie(request, context.is_own_page):
            clear_session_cookie(request, response, context.websocket_path)
        return response

    async def respond_with_tokens(
        request: Request, sign_in: Callable[[], Awaitable[TokenPair]], *, cookie: bool
    ) -> Response:
        """Return the response with the tokens of `sign_in`, or its error; set the cookie."""
        if cookie and not may_change_cookie(request, context.is_own_page):
            text = "only https pages of this host, and of origins that EDGE_ALLOWED_ORIGINS names, may have the cookie"
            return plain_error(HTTPStatus.FORBIDDEN, text, ErrorCode.PERMISSION_DENIED)
        pairs: list[TokenPair] = []

        async def run() -> dict[str, Any]:
            pair = await sign_in()
            await end_surplus(context, pair)
            pairs.append(pair)
            return {
                "access_token": pair.access_token,
                "expires_in_s": pair.expires_in_s,
                "refresh_token": pair.refresh_token,
                "user": pair.user,
                "username": pair.username,
            }

        response = await reply(run)
        if cookie and pairs:
            token, max_age_s = pairs[0].access_token, pairs[0].expires_in_s
            set_session_cookie(request, response, token, max_age_s, context.websocket_path)
        return response

    async def registration() -> Response:
        """Return who may make an account, for pages that offer it."""
        known = accounts.registration
        response = result_response({"registration": known}) if known else come_again(Unavailable("auth did not say"))
        response.headers.update(NO_STORE)
        return response

    async def jwks() -> Response:
        """Return the public keys that verify our tokens, as a JWK Set."""
        return Response(context.keyring.jwks, media_type="application/json", headers={"Cache-Control": "max-age=60"})

    for name, endpoint, kind, result, refusals in (
        ("register", register, Registration, SignedIn, [403, 409]),
        ("login", login, Login, SignedIn, [401, 403]),
        ("refresh", refresh, Refresh, SignedIn, [401, 403]),
        ("logout", logout, RefreshToken, Nothing, []),
    ):
        app.add_api_route(
            f"/auth/{name}",
            endpoint,
            methods=["POST"],
            name=f"auth_{name}",
            tags=["accounts"],
            summary=(endpoint.__doc__ or "").strip(),
            openapi_extra={"requestBody": schemas.request(kind, EXAMPLES_OF_ACCOUNTS.get(name))},
            responses=schemas.of_accounts(result, *refusals),
        )
    app.add_api_route(
        "/auth/registration",
        registration,
        methods=["GET"],
        name="auth_registration",
        tags=["accounts"],
        summary=(registration.__doc__ or "").strip(),
        responses=schemas.of_what_auth_says(Registrations),
    )
    for path, summary in (
        ("/auth/jwks", "Public keys as a JWK Set."),
        ("/auth/.well-known/jwks.json", "The same, at the path where other software looks for it."),
    ):
        app.add_api_route(
            path,
            jwks,
            methods=["GET"],
            name=path.removeprefix("/auth/"),
            tags=["accounts"],
            summary=summary,
            responses={200: JWK_SET},
        )


async def end_surplus(context: ApiContext, pair: TokenPair) -> None:
    """Close the connections of sessions that a sign-in has ended.

    They have ended in any case; what fails is logged, and their access tokens may be good until they expire.
    """
    try:
        await end_sessions(context, pair.user, EndedSessions(pair.ended, pair.expires_in_s))
    except ThalamusError as error:
        _log_unclosed(error)


async def _revoke_session(context: ApiContext, ended: EndedSession) -> None:
    """Do what `end_sessions` does for one session, and raise what it raises."""
    await end_sessions(context, ended.user, EndedSessions((ended.session,), ended.access_ttl_s))


async def _revoke_session_or_log(context: ApiContext, ended: EndedSession) -> None:
    """Revoke an ended session; log a failure instead of raising it.

    The caller is refused in any case. The next use of the token revokes it again.
    """
    try:
        await _revoke_session(context, ended)
    except ThalamusError as error:
        _log_unclosed(error)


def _log_unclosed(error: ThalamusError) -> None:
    logger.warning("an ended session may have connections or devices left", extra={"error": repr(error)})


def peer_of(request: Request) -> str:
    """Return the address of the client, for limits; empty if it is not known."""
    return request.client.host if request.client else ""


def caller_of(request: Request) -> Caller:
    """Return who sends the request, for limits and the list of sessions."""
    return Caller(peer_of(request), request.headers.get("user-agent", "")[:_USER_AGENT])


async def sign_in_body(request: Request, kind: type[T]) -> T:
    """Return the body of a request, of 8 KiB at most.

    Raises as `read_body` and `decode` do.
    """
    return decode(await read_body(request, _MAX_BODY_BYTES), kind)


async def reply(call: Callable[[], Awaitable[dict[str, Any]]]) -> Response:
    """Return the response with the result of `call`, or with its error."""
    try:
        response = result_response(await call())
    except AccountRefused as error:
        response = plain_error(error.status, str(error), ErrorCode(error.code))
        if error.status == HTTPStatus.UNAUTHORIZED:
            response.headers["WWW-Authenticate"] = _CHALLENGE
        if error.retry_after_s:
            response.headers["Retry-After"] = str(error.retry_after_s)
    except ThalamusError as error:
        too_large = error.code is ErrorCode.LIMIT_EXCEEDED
        response = refusal(error, HTTPStatus.REQUEST_ENTITY_TOO_LARGE) if too_large else come_again(error)
    response.headers.update(NO_STORE)
    return response
