"""Methods of the server API about users.

The auth service keeps the users. When sessions end here, all edges refuse their access tokens and close their
connections. The first line of each docstring is the method's summary in OpenAPI.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec

from services.edge.api import user_requests as r
from services.edge.api.context import ApiContext
from services.edge.api.results import Nothing
from services.edge.domain.access.revocations import RevokedKind
from services.edge.domain.control import operations as ops
from services.edge.domain.ports import AccountRefused
from services.edge.domain.user_ports import EndedSessions
from services.shared.checks import MAX_GRANT_USER_BYTES
from services.shared.errors import ErrorCode, ThalamusError, Unavailable

logger = logging.getLogger(__name__)

_MOST = 1_000  # users of a page
_ENDED_AT_ONCE = 16  # sessions whose tokens are revoked at the same time


@contextlib.contextmanager
def refusals_of_auth() -> Iterator[None]:
    """Raise refusals of auth as errors of the server API."""
    try:
        yield
    except AccountRefused as error:
        raise ThalamusError(str(error), ErrorCode(error.code), retry_after_s=error.retry_after_s) from error


async def create(context: ApiContext, request: r.UsersCreate) -> dict[str, Any]:
    """Make a user: with a password, or one of another login server."""
    if bool(request.user) == bool(request.username):
        raise ThalamusError("username and password, or user", ErrorCode.BAD_REQUEST)
    with refusals_of_auth():
        made = await context.users.create(
            user=request.user, username=request.username, password=request.password, change=request.change()
        )
    context.profile_news.changed(made.id, made.version)
    return r.user_result(made)


async def profiles(context: ApiContext, request: r.Profiles) -> dict[str, Any]:
    """Return the profiles of up to 100 users, from the cache of the edge."""
    return {"profiles": [r.found_result(user) for user in await context.node.profiles.get(request.users)]}


async def get(context: ApiContext, request: r.UsersGet) -> dict[str, Any]:
    """Return a user, by id or by username."""
    if bool(request.user) == bool(request.username):
        raise ThalamusError("one of user and username", ErrorCode.BAD_REQUEST)
    with refusals_of_auth():
        return r.user_result(await context.users.get(user=request.user, username=request.username))


async def list_(context: ApiContext, request: r.UsersList) -> dict[str, Any]:
    """Return a page of all users."""
    if not 1 <= request.limit <= _MOST:
        raise ThalamusError(f"limit must be 1 to {_MOST:,}", ErrorCode.BAD_REQUEST)
    with refusals_of_auth():
        users, following = await context.users.page(request.after, int(request.limit))
    return {"users": [r.user_result(user) for user in users], "next": following}


async def update(context: ApiContext, request: r.UsersUpdate) -> dict[str, Any]:
    """Change the profile of a user."""
    with refusals_of_auth():
        changed = await context.users.update(request.user, request.change(), if_version=request.if_version)
    context.profile_news.changed(changed.id, changed.version)
    return r.user_result(changed)


async def password(context: ApiContext, request: r.UsersPassword) -> dict[str, Any]:
    """Set the password of a user, and end all sessions."""
    with refusals_of_auth():
        ended = await context.users.set_password(request.user, request.password)
    await end_sessions(context, request.user, ended)
    return {}


async def disable(context: ApiContext, request: r.UserOnly) -> dict[str, Any]:
    """Disable a user: refuse logins, refreshes and tokens, and close all connections."""
    with refusals_of_auth():
        ended = await context.users.disable(request.user)
    await _tell(context, request.user, ended.version)
    done = await asyncio.gather(
        _refuse_tokens(context, request.user, ended), context.chat.forget_devices(request.user), return_exceptions=True
    )
    for error in filter(None, done):
        raise error
    return {}


async def enable(context: ApiContext, request: r.UserOnly) -> dict[str, Any]:
    """Enable a user again; sessions that have ended stay ended."""
    with refusals_of_auth():
        await context.users.enable(request.user)  # auth tells the edges: see `Revocations`
    await _tell(context, request.user, 0, disabled=False)  # of the profile
    return {}


async def delete(context: ApiContext, request: r.UserOnly) -> dict[str, Any]:
    """Delete a user with all that is known of them, and close all connections."""
    with refusals_of_auth():
        await context.users.get(user=request.user)  # whoever is not known keeps the grants
    if len(request.user.encode("utf-8", "surrogatepass")) <= MAX_GRANT_USER_BYTES:  # longer ids have no grants
        try:  # first, so that edges forget the grants; auth deletes them with the user in any case
            await context.granter.take(request.user, [], [])
        except ThalamusError as error:
            logger.warning("not every edge forgot the grants of a deleted user", extra={"error": repr(error)})
    await context.chat.forget_devices(request.user)  # first: after an error it can be repeated
    with refusals_of_auth():
        ended = await context.users.delete(request.user)
    await asyncio.gather(_tell(context, request.user, ended.version), _end_or_log(context, request.user, ended))
    await _forget_or_log(context, request.user)  # those that were set meanwhile
    return {}


async def _forget_or_log(context: ApiContext, user: str) -> None:
    try:
        await context.chat.forget_devices(user)
    except ThalamusError as error:
        logger.warning("a device that a deleted user has just set may be left", extra={"error": repr(error)})


async def _end_or_log(context: ApiContext, user: str, ended: EndedSessions) -> None:
    """Refuse the tokens of a deleted user's sessions; log a failure.

    A repeat of the request would find no user. Auth has every edge refuse the id in any case.
    """
    try:
        await _refuse_tokens(context, user, ended)
    except ThalamusError as error:
        logger.warning("not every edge ended the sessions of a deleted user", extra={"error": repr(error)})


async def _tell(context: ApiContext, user: str, version: int, *, disabled: bool = True) -> None:
    """Have every edge refuse the user at once.

    Auth tells those that do not hear it, a second later.
    """
    try:
        await context.cluster.everywhere(ops.SetUser(user, disabled, version))
    except ThalamusError as error:
        logger.warning("not every edge answers; auth tells them of the user", extra={"error": repr(error)})


async def end_sessions(context: ApiContext, user: str, ended: EndedSessions) -> None:
    """Refuse the tokens of ended sessions, and forget the devices set in them.

    Their connections are closed. Done on every edge, for all sessions, also if it fails for one.

    Raises:
        ThalamusError: perhaps not every edge did, the list is full, or persistence is away. The sessions have ended in
            any case. Auth returns them again to whoever repeats the request.
    """
    # Devices afterwards: one that is set meanwhile finds its session refused (`ChatMethods`), or is forgotten here.
    try:
        await _refuse_tokens(context, user, ended)
    finally:
        await context.chat.forget_devices_of_sessions(user, ended.sessions)


async def _refuse_tokens(context: ApiContext, user: str, ended: EndedSessions) -> None:
    at_once = asyncio.Semaphore(_ENDED_AT_ONCE)

    async def end(session: str) -> None:
        async with at_once:
            await context.revoker.revoke(RevokedKind.SESSION, session, ended.access_ttl_s, user=user)

    results = await asyncio.gather(*map(end, ended.sessions), return_exceptions=True)
    for error in results:
        if isinstance(error, ThalamusError) and error.code is ErrorCode.LIMIT_EXCEEDED:
            # as it is, it would say that the request is too large
            raise Unavailable("the list is full: tokens of the session stay good until they expire") from error
        if error is not None:
            raise error


UserMethod = Callable[[ApiContext, Any], Awaitable[dict[str, Any]]]
USER_METHODS: dict[str, tuple[type[msgspec.Struct], UserMethod]] = {
    "users_create": (r.UsersCreate, create),
    "users_get": (r.UsersGet, get),
    "users_profiles": (r.Profiles, profiles),
    "users_list": (r.UsersList, list_),
    "users_update": (r.UsersUpdate, update),
    "users_password": (r.UsersPassword, password),
    "users_disable": (r.UserOnly, disable),
    "users_enable": (r.UserOnly, enable),
    "users_delete": (r.UserOnly, delete),
}
USER_RESULTS: dict[str, type[msgspec.Struct]] = {
    "users_create": r.UserResult,
    "users_get": r.UserResult,
    "users_profiles": r.ProfileList,
    "users_list": r.UserPage,
    "users_update": r.UserResult,
    "users_password": Nothing,
    "users_disable": Nothing,
    "users_enable": Nothing,
    "users_delete": Nothing,
}
