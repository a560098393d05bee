"""Handler of the connect command.

It verifies the token, makes the server-side subscriptions and sends the reply.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from services.edge.domain import commands as c
from services.edge.domain.access.claims import ConnectionClaims, Override, ServerSub
from services.edge.domain.access.permissions import find_namespace
from services.edge.domain.access.token_log import refused
from services.edge.domain.access.tokens import TokenExpired, TokenInvalid
from services.edge.domain.access.user_names import personal_channel
from services.edge.domain.channels.channel import Channel, Subscription
from services.edge.domain.channels.log_reader import PAGE_BYTES
from services.edge.domain.ends import Disconnect, EndReason
from services.edge.domain.handshake import bearer_token
from services.edge.domain.replies import ConnectResult, SubscribeResult
from services.edge.domain.session.handlers.subscribe import Wanted, begin, establish, require_known_delta
from services.shared.errors import ErrorCode, ThalamusError, Unavailable

if TYPE_CHECKING:
    from services.edge.domain.session.session import Session

_Made = tuple[Channel, Subscription, SubscribeResult]


async def connect(session: Session, request: c.Connect, command_id: int) -> None:
    """Execute a connect command. Wire protocol, 5.1 and 12.

    Sends the reply itself, because pushes of the server-side subscriptions must follow it.
    """
    session.begin_connecting()
    for position in request.subs.values():
        require_known_delta(position)
    token = _explicit_token(request)
    claims = _identify(session, token)
    wanted = _server_side(session, request, claims)
    session.user = claims.user if claims else ""
    session.conn_info = claims.info if claims else b""
    if claims:
        session.shows(claims)
    session.name = request.name[:16]
    limit = session.node.settings.connections_per_user
    if limit and session.user and len(session.node.users.get(session.user, ())) >= limit:
        raise Disconnect(EndReason.CONNECTION_LIMIT)
    session.token_channels = frozenset(claims.channels) if claims else frozenset()
    session.node.add(session)
    made = await _establish_all(session, wanted)
    if not session.is_connecting:  # the session ended meanwhile: by the client, or by the server API
        for _, subscription, _ in made:
            session.end_silently(subscription)
        return
    session.opened(claims, can_refresh=bool(token))
    settings = session.node.settings
    expires_at = session.deadlines.expires_at if token else None  # SDKs that can't refresh would end if they knew it
    session.reply(
        command_id,
        ConnectResult(
            client=session.client,
            version=f"{settings.server_name} {settings.version}",
            expires=expires_at is not None,
            ttl=session.deadlines.ttl(expires_at),
            subs={subscription.channel: result for _, subscription, result in made},
        ),
    )
    for channel, subscription, _ in made:
        begin(session, channel, subscription)


def _explicit_token(request: c.Connect) -> str:
    """Return the token of the command; empty if there is none.

    It stands in `token`, or in `Authorization` of the headers, for clients that set headers only.

    Raises:
        Disconnect: both are there and differ.
    """
    tokens = {
        token
        for name, value in request.headers.items()
        if name.lower() == "authorization" and (token := bearer_token(value))
    }
    if request.token:
        tokens.add(request.token)
    if len(tokens) > 1:
        raise Disconnect(EndReason.BAD_REQUEST)
    return next(iter(tokens), "")


def _identify(session: Session, token: str) -> ConnectionClaims | None:
    """Verify the token and return its claims; None: anonymous without a token.

    Without a token the identity of the handshake counts. A token beside an explicit credential of the handshake must be
    of the same user.
    """
    settings = session.node.settings
    identity, session.identity = session.identity, None
    if not token:
        if identity is not None and _is_revoked(session, identity.claims):  # since the handshake
            if identity.is_explicit:
                refused("connection", "it is revoked")
                raise Disconnect(EndReason.INVALID_TOKEN)
            identity = None
        if identity is not None:
            return _checked(session, identity.claims)
        if settings.allow_anonymous or settings.insecure:
            return None
        raise Disconnect(EndReason.BAD_REQUEST)
    try:
        claims = session.node.verifier.connection(token, session.node.clock.wall())
    except TokenExpired:
        raise ThalamusError(code=ErrorCode.TOKEN_EXPIRED) from None
    except TokenInvalid:
        raise Disconnect(EndReason.INVALID_TOKEN) from None
    if identity is not None and identity.is_explicit and identity.claims.user != claims.user:
        refused("connection", "it is for another user than that of the handshake")
        raise Disconnect(EndReason.BAD_REQUEST)
    return _checked(session, claims)


def _is_revoked(session: Session, claims: ConnectionClaims) -> bool:
    return session.node.revocations.covers(
        user=claims.user, session=claims.session, token=claims.token, issued_at=claims.issued_at
    )


def _checked(session: Session, claims: ConnectionClaims) -> ConnectionClaims:
    """Return the claims, if they are good now."""
    settings = session.node.settings
    if not claims.user and settings.disallow_anonymous_tokens:
        raise Disconnect(EndReason.PERMISSION_DENIED)
    if claims.has_expired(session.node.clock.wall()) and not settings.insecure:
        raise ThalamusError(code=ErrorCode.EXPIRED)
    return claims


def _server_side(session: Session, request: c.Connect, claims: ConnectionClaims | None) -> list[Wanted]:
    """Return the server-side subscriptions of the client.

    They are those of the token, and the personal channel. The client's `subs` only give positions to recover from.
    """
    settings = session.node.settings
    subs: dict[str, ServerSub] = dict(claims.channels) if claims else {}
    if settings.personal_channel and claims and claims.user:
        personal = personal_channel(claims.user, settings.personal_channel_namespace)
        subs.setdefault(personal, ServerSub(info=b"", data=b"", override=Override()))
    if len(subs) > settings.channels_per_client:
        raise Disconnect(EndReason.CHANNEL_LIMIT)
    return [
        Wanted(
            channel,
            find_namespace(session.node.namespaces, channel, settings.channel_max_bytes),
            request.subs.get(channel) or c.Subscribe(),
            server_side=True,
            granted=True,
            info=sub.info,
            data=sub.data,
            override=sub.override,
            most_bytes=PAGE_BYTES // len(subs),
        )
        for channel, sub in subs.items()
    ]


async def _establish_all(session: Session, wanted: list[Wanted]) -> list[_Made]:
    """Make all subscriptions or none.

    An SDK would take one that is missing in the reply for unsubscribed.
    """
    if not wanted:
        return []
    outcomes = await asyncio.gather(*(establish(session, one) for one in wanted), return_exceptions=True)
    failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    made = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    if not failures:
        ended = [one for _, one, _ in made if one.broken or session.subscriptions.get(one.channel) is not one]
        if not ended:
            return made
        failures = [Unavailable("a subscription ended while others were made")]
    for _, subscription, _ in made:
        session.end_silently(subscription)
    for failure in failures:
        if not isinstance(failure, ThalamusError):
            raise failure
    raise next((f for f in failures if isinstance(f, ThalamusError)), Unavailable())
