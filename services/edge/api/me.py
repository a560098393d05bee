"""The HTTP endpoints of signed-in users: own profile, password and sessions.

Who asks is the user of the bearer token. So a user whose tokens come from another login server has a profile too, but
neither password nor sessions here. And whoever signs tokens for such users could sign one for any user: so sessions
are shown, and ended, only to a token whose `sid` is a live session of its user.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response

from services.edge.api import user_requests as r
from services.edge.api.accounts import reply
from services.edge.api.bearer import BEARER, NotSignedIn, claims_of, not_signed_in
from services.edge.api.bodies import decode, read_body
from services.edge.api.context import ApiContext
from services.edge.api.openapi import Schemas
from services.edge.api.results import Nothing
from services.edge.api.user_limit import UserLimit
from services.edge.api.users import end_sessions
from services.edge.domain.access.claims import ConnectionClaims
from services.edge.domain.ports import AccountRefused
from services.edge.domain.user_ports import LoginSession, User
from services.shared.errors import ErrorCode, Unavailable

SCHEMAS: tuple[type[msgspec.Struct], ...] = (
    *(r.Me, r.Find, r.FoundUser, r.Profiles, r.ProfileList, r.NewPassword, r.SessionOnly, r.AllSessions),
    *(r.UserResult, r.SessionList, Nothing),
)
PROFILES_PER_S = 2.0  # calls of one user to one edge for profiles of others, per second; each has up to 100 ids
PROFILES_AT_ONCE = 60
_Work = Callable[[ConnectionClaims, Any], Awaitable[dict[str, Any]]]


def add_routes(app: FastAPI, context: ApiContext, schemas: Schemas) -> None:
    """Add the routes. The docstring of each piece of work is its summary in OpenAPI."""
    users = context.users

    async def me(claims: ConnectionClaims, _: Any) -> dict[str, Any]:
        """Return the own user."""
        try:
            found = await users.get(user=claims.user)
        except AccountRefused as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            found = _unknown(claims.user)
        return r.user_result(found)

    async def change_me(claims: ConnectionClaims, body: r.Me) -> dict[str, Any]:
        """Change the own profile."""
        changed = await users.update(claims.user, body.change(), if_version=body.if_version, create=True)
        context.profile_news.changed(changed.id, changed.version)
        return r.user_result(changed)

    async def find(claims: ConnectionClaims, body: r.Find) -> dict[str, Any]:
        """Find a user by the whole username, unless that user is hidden."""
        return r.found_result(await users.find(claims.user, body.username))

    async def profiles(claims: ConnectionClaims, body: r.Profiles) -> dict[str, Any]:
        """Return the profiles of up to 100 users, as others see them."""
        found = await context.node.profiles.get(body.users)
        return {"profiles": [r.profile_result(user) for user in found]}

    async def password(claims: ConnectionClaims, body: r.NewPassword) -> dict[str, Any]:
        """Change the own password; all other sessions end."""
        ended = await users.change_password(claims.user, claims.session, body.old_password, body.new_password)
        await end_sessions(context, claims.user, ended)
        return {}

    async def sessions(claims: ConnectionClaims, _: Any) -> dict[str, Any]:
        """Return the own login sessions."""
        found = await live_sessions(claims)
        return {"sessions": [r.session_result(one, claims.session) for one in found]}

    async def live_sessions(claims: ConnectionClaims) -> list[LoginSession]:
        """Return the sessions of the user; none if the token is of none of them."""
        found = await users.sessions(claims.user)
        return found if claims.session in {one.id for one in found} else []

    async def check_session(claims: ConnectionClaims) -> None:
        if not await live_sessions(claims):
            raise AccountRefused(HTTPStatus.NOT_FOUND, ErrorCode.NOT_AVAILABLE, "the token is of no login session")

    async def end_one(claims: ConnectionClaims, body: r.SessionOnly) -> dict[str, Any]:
        """End one of the own login sessions, and close its connections."""
        await check_session(claims)
        await end_sessions(context, claims.user, await users.end_sessions(claims.user, session=body.session))
        return {}

    async def end_all(claims: ConnectionClaims, body: r.AllSessions) -> dict[str, Any]:
        """End all other login sessions, or all, and close their connections."""
        await check_session(claims)
        kept = "" if body.this else claims.session
        await end_sessions(context, claims.user, await users.end_sessions(claims.user, except_session=kept))
        return {}

    reads = UserLimit(PROFILES_PER_S, PROFILES_AT_ONCE, context.node.clock.monotonic, "calls for profiles")

    def endpoint(
        work: _Work, kind: type[msgspec.Struct] | None, limit: UserLimit | None
    ) -> Callable[[Request], Awaitable[Response]]:
        async def run(request: Request) -> Response:
            try:
                claims, _ = claims_of(context, request)
                if not claims.user:
                    raise NotSignedIn("the token names no user")
            except (NotSignedIn, Unavailable) as error:
                return not_signed_in(error)
            refused = None if limit is None else limit.refusal(claims.user)  # before the body is read
            if refused is not None:
                return refused
            body = None if kind is None else decode(await read_body(request), kind)
            return await reply(lambda: work(claims, body))

        return run

    for path, work, kind, result, refusals in (
        ("me", me, None, r.UserResult, []),
        ("profile", change_me, r.Me, r.UserResult, [404, 409]),
        ("find", find, r.Find, r.FoundUser, [404]),
        ("profiles", profiles, r.Profiles, r.ProfileList, []),
        ("password", password, r.NewPassword, Nothing, [403, 404, 409]),
        ("sessions", sessions, None, r.SessionList, []),
        ("sessions/end", end_one, r.SessionOnly, Nothing, [404]),
        ("sessions/end_all", end_all, r.AllSessions, Nothing, [404]),
    ):
        extra: dict[str, Any] = {"security": BEARER}
        if kind is not None:
            extra["requestBody"] = schemas.request(kind, None)
        app.add_api_route(
            f"/auth/{path}",
            endpoint(work, kind, reads if work is profiles else None),
            methods=["GET" if kind is None else "POST"],
            name=f"auth_{work.__name__}",
            tags=["signed-in users"],
            summary=(work.__doc__ or "").strip(),
            openapi_extra=extra,
            responses=schemas.of_users(result, *refusals),
        )


def _unknown(user: str) -> User:
    """Return a user of another login server of whom nothing is known."""
    return User(
        id=user,
        username="",
        display_name="",
        avatar_url="",
        status="",
        custom=b"",
        hidden=False,
        version=0,
        created_at=0,
        is_disabled=False,
    )
