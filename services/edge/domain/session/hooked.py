"""Asks hooks about what a client wants to do, and applies their answers.

One function for each event. An answer is checked for its place before it counts, so that a wrong one is a failure of
the hook (error 114, or ignored where the hook fails open), and never half applied.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from typing import TYPE_CHECKING, Any

from services.edge.domain import commands as c
from services.edge.domain.access.channel_names import find_namespace
from services.edge.domain.access.channel_patterns import ChannelPattern
from services.edge.domain.access.claims import ConnectionClaims
from services.edge.domain.ends import Disconnect, EndReason
from services.edge.domain.handshake import bearer_token
from services.edge.domain.hooks import publications
from services.edge.domain.hooks.hook import Hook
from services.edge.domain.hooks.model import Answer, Event, Failure, HookFailed, HookPublication, HookRequest
from services.edge.domain.hooks.options import Scope
from services.edge.domain.model import Publication
from services.shared.errors import ThalamusError
from services.shared.namespaces import Namespace

if TYPE_CHECKING:
    from services.edge.domain.session.session import Session


def _request(session: Session, event: Event, **members: Any) -> HookRequest:
    node = session.node
    return HookRequest(
        event=event,
        id=f"{event}_{secrets.token_hex(16)}",
        edge=node.edge_name,
        time_ms=int(node.clock.wall() * 1000),
        client=session.client,
        **{"user": session.user, "info": session.conn_info} | members,
    )


async def ask_connect(
    session: Session, request: c.Connect, claims: ConnectionClaims | None
) -> tuple[ConnectionClaims | None, bytes]:
    """Ask the hook of connects; return who the client is now, and `data` of the reply.

    Args:
        claims: Of the token; None: the client has shown none.

    Raises:
        ThalamusError: the client may not connect, or the hook failed.
        Disconnect: the user that the hook names is disabled, or was signed out meanwhile.
    """
    hook = session.node.hooks.connect
    if hook is None:
        return claims, b""
    options, wall = hook.options, session.node.clock.wall
    asked_at = wall()

    def check(answer: Answer) -> None:
        if answer.user is not None and answer.user != (claims.user if claims else "") and not options.sign_in:
            raise _bad("it names a user, which needs sign_in = true")
        if answer.user is not None and claims is not None and answer.user != claims.user:
            raise _bad("it names another user than the token")
        if answer.expires_at is not None and answer.expires_at <= wall():
            raise _bad("`expires_at` is past")
        for channel in answer.channels:
            _require_channel(session, channel)

    answer = await hook.ask(
        _request(
            session,
            Event.CONNECT,
            user=claims.user if claims else "",
            info=claims.info if claims else b"",
            peer=session.connection.peer,
            name=request.name,
            headers={name: value for name, value in request.headers.items() if bearer_token(value) is None},
            has_token=claims is not None,
            expires_at=claims.expires_at if claims else None,
            data=request.data,
        ),
        check,
    )
    if claims is None and (answer.user or answer.info or answer.channels or answer.expires_at is not None):
        claims = ConnectionClaims(user=answer.user or "", issued_at=asked_at)
        if claims.user:
            _sign_in(session, claims, answer)
    if claims is not None:
        claims = dataclasses.replace(
            claims,
            info=claims.info if answer.info is None else answer.info,
            expires_at=sooner(claims.expires_at, answer.expires_at),
            channels={**claims.channels, **answer.channels},
        )
    return claims, answer.data or b""


def _sign_in(session: Session, claims: ConnectionClaims, answer: Answer) -> None:
    """Note when a hook signed the client in: who is revoked later is closed."""
    node = session.node
    if node.revocations.covers(user=claims.user, session="", token="", issued_at=claims.issued_at):
        raise Disconnect(EndReason.INVALID_TOKEN)
    session.token_issued_at = claims.issued_at
    if node.newcomers.is_wanted:
        node.newcomers.saw(claims.user, answer.info or b"")


async def ask_refresh(session: Session, hook: Hook, expires_at: float | None, *, has_token: bool) -> Answer:
    """Ask whether a connection may go on, and until when.

    Args:
        expires_at: When it expires: by its new token, or as it is. Unix seconds; None: never.
        has_token: The client has shown a new token.

    Raises:
        ThalamusError: it may not, or the hook failed.
    """

    def check(answer: Answer) -> None:
        if answer.expires_at is not None and answer.expires_at <= session.node.clock.wall():
            raise _bad("`expires_at` is past")

    return await hook.ask(_request(session, Event.REFRESH, expires_at=expires_at, has_token=has_token), check)


async def ask_subscribe(session: Session, hook: Hook, request: c.Subscribe) -> Answer:
    """Ask whether the client may subscribe, and how.

    Raises:
        ThalamusError: it may not, or the hook failed.
    """
    return await hook.ask(
        _request(session, Event.SUBSCRIBE, channel=request.channel, has_token=bool(request.token)),
    )


async def ask_publish(session: Session, namespace: Namespace, request: c.Publish) -> Answer:
    """Ask the namespace's hook about a publication that is permitted.

    Raises:
        ThalamusError: it is refused: by the hook, because the hook failed, or because no channel of the namespace takes
            such data, about which no hook is asked.
    """
    data = publications.publishable(namespace, request.data)
    question = _request(
        session, Event.PUBLISH, channel=request.channel, data=data, idempotency_key=request.idempotency_key
    )
    return await publications.ask(session.node.hooks.publish[namespace.name], namespace, question)


async def ask_rpc(session: Session, hook: Hook, method: str, data: bytes) -> bytes:
    """Ask a hook about an rpc, publish what it wants published, and return the reply.

    Raises:
        ThalamusError: the hook refuses or failed, or a publication failed. In the last case some of the others may be
            published.
    """

    def check(answer: Answer) -> None:
        if answer.publish and hook.options.scope is Scope.REPLY:
            raise _bad('it publishes, which needs scope = "node" or "cluster"')
        for one in answer.publish:
            if not any(ChannelPattern(pattern).matches(one.channel) for pattern in hook.options.channels):
                raise _bad(f"it publishes to {one.channel!r}, which `channels` does not have")
            namespace = _require_channel(session, one.channel)
            if namespace.conversations and hook.options.scope is Scope.NODE:
                raise _bad('it publishes to a conversation, which needs scope = "cluster"')
            publications.require_publishable(namespace, one.data, one.tags)

    answer = await hook.ask(_request(session, Event.RPC, method=method, data=data), check)
    if answer.publish:
        await _publish(session, hook, answer.publish)
    return answer.data or b"null"


async def _publish(session: Session, hook: Hook, publications: tuple[HookPublication, ...]) -> None:
    node = session.node
    time_ms = int(node.clock.wall() * 1000)
    if hook.options.scope is Scope.NODE:
        for one in publications:
            node.hub.publication(one.channel, "", Publication(data=one.data, tags=one.tags, time_ms=time_ms))
        return
    # Those of one channel are handed over in their order, which is then their order in its log.
    outcomes = await asyncio.gather(
        *(
            node.publisher.publish(
                one.channel,
                _require_channel(session, one.channel),
                one.data,
                time_ms=time_ms,
                tags=one.tags,
                key_user="api",
                key=one.idempotency_key,
            )
            for one in publications
        ),
        return_exceptions=True,
    )
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


def _require_channel(session: Session, channel: str) -> Namespace:
    """Return the namespace of a channel that an answer names."""
    try:
        return find_namespace(session.node.namespaces, channel, session.node.settings.channel_max_bytes)
    except ThalamusError as error:
        raise _bad(f"{channel[:100]!r}: {error}") from None


def sooner(one: float | None, other: float | None) -> float | None:
    """Return the earlier of two expiries; None: never."""
    return min((at for at in (one, other) if at is not None), default=None)


def _bad(text: str) -> HookFailed:
    return HookFailed(Failure.BAD_ANSWER, text)
