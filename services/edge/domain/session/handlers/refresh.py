"""Handlers of refresh and sub_refresh: take new tokens that expire later."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.edge.domain import commands as c
from services.edge.domain.access.token_log import refused
from services.edge.domain.access.tokens import TokenExpired, TokenInvalid
from services.edge.domain.ends import Disconnect, EndReason
from services.edge.domain.replies import RefreshResult, SubRefreshResult
from services.edge.domain.session.hooked import ask_refresh, sooner
from services.edge.domain.session.withdrawal import look_again_at
from services.shared.errors import ErrorCode, ThalamusError, Unavailable

if TYPE_CHECKING:
    from services.edge.domain.session.session import Session


async def refresh(session: Session, request: c.Refresh, _: int) -> RefreshResult:
    """Take a new connection token of the same user. Wire protocol, 5.8.

    Return the new expiry; a hook may refuse, or set an earlier one. A new `info` is what publications and the roster
    show from now on. `caps` replace those of the last token.
    """
    if not request.token:
        raise Disconnect(EndReason.BAD_REQUEST)
    try:
        claims = session.node.verifier.connection(request.token, session.node.clock.wall())
    except TokenExpired:
        raise Disconnect(EndReason.EXPIRED) from None
    except TokenInvalid:
        raise Disconnect(EndReason.INVALID_TOKEN) from None
    if claims.user != session.user:
        refused("connection", "it is for another user")
        raise Disconnect(EndReason.INVALID_TOKEN)
    if claims.has_expired(session.node.clock.wall()):
        raise Disconnect(EndReason.EXPIRED)
    if frozenset(claims.channels) != session.token_channels:
        raise Disconnect(EndReason.INSUFFICIENT_STATE)  # the client reconnects and gets the new set
    info, expires_at = claims.info, claims.expires_at
    hook = session.node.hooks.refresh
    if hook is not None:
        answer = await ask_refresh(session, hook, expires_at, has_token=True)
        if not session.is_open:
            raise Unavailable("the connection is over")
        info = info if answer.info is None else answer.info
        expires_at = sooner(expires_at, answer.expires_at)
    session.replace_info(info)
    session.shows(claims, request.token)
    ttl = session.deadlines.set_expiry(expires_at)
    await look_again_at(session)
    return RefreshResult(expires=session.deadlines.expires_at is not None, ttl=ttl)


async def sub_refresh(session: Session, request: c.SubRefresh, _: int) -> SubRefreshResult:
    """Take a new subscription token; return the new expiry. Wire protocol, 5.9 and 20."""
    channel = request.channel
    if not channel and not request.token:
        raise Disconnect(EndReason.BAD_REQUEST)
    if channel and channel not in session.subscriptions:
        raise ThalamusError(code=ErrorCode.PERMISSION_DENIED)
    if not request.token:
        raise ThalamusError("no token", ErrorCode.BAD_REQUEST)
    try:
        claims = session.node.verifier.subscription(request.token, session.node.clock.wall())
    except TokenExpired:
        raise ThalamusError(code=ErrorCode.TOKEN_EXPIRED) from None
    except TokenInvalid:
        if not channel:
            raise Disconnect(EndReason.BAD_REQUEST) from None
        raise Disconnect(EndReason.INVALID_TOKEN) from None
    if not channel:  # centrifuge-python 0.5.0 leaves the channel out; the token has it
        channel = claims.channel
    if claims.channel != channel or claims.user != session.user or claims.client not in ("", session.client):
        refused("subscription", "it is for another channel, user or connection")
        raise Disconnect(EndReason.INVALID_TOKEN)
    subscription = session.subscriptions.get(channel)
    if subscription is None:
        raise ThalamusError(code=ErrorCode.PERMISSION_DENIED)
    if claims.has_expired(session.node.clock.wall()):
        raise ThalamusError(code=ErrorCode.EXPIRED)
    subscription.expires_at = claims.expires_at
    session.deadlines.reschedule()
    return SubRefreshResult(expires=claims.expires_at is not None, ttl=session.deadlines.ttl(claims.expires_at))
