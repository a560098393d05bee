"""Handler of the connect command.

It verifies the token, makes the server-side subscriptions and sends the reply.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from services.edge.domain import commands as c
from services.edge.domain.access.channel_names import find_namespace
from services.edge.domain.access.claims import ConnectionClaims, Override, ServerSub
from services.edge.domain.access.token_log import refused
from services.edge.domain.access.tokens import TokenExpired, TokenInvalid
from services.edge.domain.access.user_names import personal_channel
from services.edge.domain.channels.channel import Channel, Subscription
from services.edge.domain.channels.log_reader import PAGE_BYTES
from services.edge.domain.ends import Disconnect, EndReason
from services.edge.domain.handshake import bearer_token
from services.edge.domain.replies import ConnectResult, SubscribeResult
from services.edge.domain.resume import REFRESH_WITHIN_S
from services.edge.domain.session.handlers.subscribe import Wanted, begin, establish, require_known_delta
from services.edge.domain.session.hooked import ask_connect
from services.edge.domain.session.renewal import Renewal
from services.shared.errors import ErrorCode, ThalamusError, Unavailable

if TYPE_CHECKING:
    from services.edge.domain.session.session import Session

_RETRY_AFTER_S = 2.0  # for an address with too many connections, seconds; as with `EDGE_MAX_CONNECTIONS_PER_ADDRESS`
_Made = tuple[Channel, Subscription, SubscribeResult]


async def connect(session: Session, request: c.Connect, command_id: int) -> None:
    """Execute a connect command. Wire protocol, 5.1 and 12.

    Sends the reply itself, because pushes of the server-side subscriptions must follow it.
    """
    session.begin_connecting()
    for position in request.subs.values():
        require_known_delta(position)
    token = _explicit_token(request)
    of_token = await _identify(session, token)
    if not session.is_connecting:  # it ended while the session table was asked
        return
    claims, data = of_token, b""
    if session.node.hooks.connect is not None:
        claims, data = await ask_connect(session, request, of_token)
        if not session.is_connecting:
            return
    if of_token is None and not (claims and claims.user):
        _require_anonymous(session)
    wanted = _server_side(session, request, claims)
    session.user = claims.user if claims else ""
    session.conn_info = claims.info if claims else b""
    session.presence.set_who(session.info())
    session.name = request.name[:16]
    limit = session.node.settings.connections_per_user
    # At least so many are open on all edges; and it is the cap where Redis is not asked.
    if limit and session.user and len(session.node.users.get(session.user, ())) >= limit:
        raise Disconnect(EndReason.CONNECTION_LIMIT)
    session.token_channels = frozenset(of_token.channels) if of_token else frozenset()
    session.node.add(session)
    await _count(session)
    made = await _establish_all(session, wanted) if session.is_connecting else []
    if not session.is_connecting:  # the session ended meanwhile: by the client, or by the server API
        for _, subscription, _ in made:
            session.end_silently(subscription)
        return
    has_resumed = claims is not None and claims.is_late
    session.opened(claims, has_delay=(bool(token) or of_token is None) and not has_resumed)
    node, settings = session.node, session.node.settings
    if of_token is None and node.hooks.refresh is not None:
        Renewal(session, node.hooks.refresh)
    if settings.online:
        opened_s = node.clock.wall() - (node.clock.monotonic() - session.opened_at)
        session.presence.come_online(since_s=opened_s, events=settings.connection_events)
    expires_at = session.deadlines.expires_at if token else None  # SDKs that can't refresh would end if they knew it
    ttl = session.deadlines.ttl(expires_at)
    if has_resumed and expires_at is not None:  # not all at the same moment
        ttl = session.node.rng.randint(1, min(ttl, REFRESH_WITHIN_S))
    session.reply(
        command_id,
        ConnectResult(
            client=session.client,
            version=f"{settings.server_name} {settings.version}",
            expires=expires_at is not None,
            ttl=ttl,
            data=data,
            subs={subscription.channel: result for _, subscription, result in made},
        ),
    )
    for channel, subscription, _ in made:
        begin(session, channel, subscription)


async def _count(session: Session) -> None:
    """Count the connection towards the caps over all edges.

    Raises:
        Disconnect: the user has too many connections.
        ThalamusError: 111, the address has too many.
    """
    caps = session.node.connection_caps
    for counted in caps.of(session.user, session.connection.peer):
        admitted = await counted.cap.enter(counted.name)
        if admitted and not session.is_connecting:  # the session ended meanwhile
            counted.cap.leave(counted.name)
            return
        if admitted:
            session.counted = (*session.counted, counted)
        elif counted.cap is caps.per_user:
            raise Disconnect(EndReason.CONNECTION_LIMIT)
        else:
            raise ThalamusError(code=ErrorCode.TOO_MANY_REQUESTS, retry_after_s=_RETRY_AFTER_S)


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


async def _identify(session: Session, token: str) -> ConnectionClaims | None:
    """Verify the token and return its claims; None: anonymous without a token.

    Without a token the identity of the handshake counts. A token beside an explicit credential of the handshake must be
    of the same user. A token that has just expired may be good to resume: then the session table is asked.
    """
    node = session.node
    identity, session.identity = session.identity, None
    if not token:
        if identity is not None and _is_revoked(session, identity.claims):  # since the handshake
            if identity.is_explicit:
                refused("connection", "it is revoked")
                raise Disconnect(EndReason.INVALID_TOKEN)
            identity = None
        if identity is not None:
            return _checked(session, identity.claims, identity.token)
        if not node.hooks.may_sign_in:
            _require_anonymous(session)
        return None
    try:
        claims = node.verifier.connection(token, node.clock.wall(), late_s=node.resume.resume_s)
    except TokenExpired:
        raise ThalamusError(code=ErrorCode.TOKEN_EXPIRED) from None
    except TokenInvalid:
        raise Disconnect(EndReason.INVALID_TOKEN) from None
    if identity is not None and identity.is_explicit and identity.claims.user != claims.user:
        refused("connection", "it is for another user than that of the handshake")
        raise Disconnect(EndReason.BAD_REQUEST)
    if claims.is_late:
        resumed = await node.resume.admit(claims, token)
        if resumed is None:
            raise ThalamusError(code=ErrorCode.TOKEN_EXPIRED)
        claims = resumed
    return _checked(session, claims, token)


def _require_anonymous(session: Session) -> None:
    """Raise `Disconnect` (`BAD_REQUEST`) if a client may not connect without a user."""
    settings = session.node.settings
    if not (settings.allow_anonymous or settings.insecure):
        raise Disconnect(EndReason.BAD_REQUEST)


def _is_revoked(session: Session, claims: ConnectionClaims) -> bool:
    return session.node.revocations.covers(
        user=claims.user, session=claims.session, token=claims.token, issued_at=claims.issued_at
    )


def _checked(session: Session, claims: ConnectionClaims, token: str) -> ConnectionClaims:
    """Return the claims, if they are good now; the session notes the token."""
    settings = session.node.settings
    if not claims.user and settings.disallow_anonymous_tokens:
        raise Disconnect(EndReason.PERMISSION_DENIED)
    if claims.has_expired(session.node.clock.wall()) and not settings.insecure:
        raise ThalamusError(code=ErrorCode.EXPIRED)
    session.shows(claims, token)
    node = session.node
    if node.newcomers.is_wanted and node.verifier.is_foreign(token):
        node.newcomers.saw(claims.user, claims.info)
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

    Those to conversations that the client may not read are left out. An SDK takes one that is missing in the reply for
    unsubscribed.
    """
    if not wanted:
        return []
    outcomes = await asyncio.gather(*(_establish(session, one) for one in wanted), return_exceptions=True)
    failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    made = [outcome for outcome in outcomes if outcome is not None and not isinstance(outcome, BaseException)]
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


async def _establish(session: Session, wanted: Wanted) -> _Made | None:
    """Make a subscription; None: it is of a conversation that the client may not read.

    Without it the client goes on: a token that still names it must not shut out a user who was removed.
    """
    try:
        return await establish(session, wanted)
    except ThalamusError as error:
        if wanted.namespace.conversations and error.code is ErrorCode.PERMISSION_DENIED:
            return None
        raise
