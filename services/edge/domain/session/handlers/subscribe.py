"""Handlers of subscribe and unsubscribe; makes server-side subscriptions, too."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from services.edge.domain import commands as c
from services.edge.domain.access.authorize import GrantsUnknown, authorize, is_permitted_as
from services.edge.domain.access.channel_names import find_namespace
from services.edge.domain.access.claims import Override, SubscriptionClaims
from services.edge.domain.access.grants import Operation
from services.edge.domain.access.membership import ask
from services.edge.domain.access.stored_grants import TRIES
from services.edge.domain.access.token_log import refused
from services.edge.domain.access.tokens import TokenExpired, TokenInvalid
from services.edge.domain.channels.channel import Channel, Subscription
from services.edge.domain.channels.log_reader import PAGE_BYTES
from services.edge.domain.chat.ports import Access
from services.edge.domain.ends import Disconnect, EndReason
from services.edge.domain.hooks.hook import Hook
from services.edge.domain.model import StreamPosition
from services.edge.domain.replies import SubscribeResult, UnsubscribeResult
from services.edge.domain.session import membership
from services.edge.domain.session.handlers.common import admit_new, require_format, required_channel
from services.edge.domain.session.handlers.recovery import catch_up, recover
from services.edge.domain.session.hooked import ask_subscribe
from services.shared.errors import ErrorCode, ThalamusError, Unavailable
from services.shared.namespaces import Delta, Durability, Mode, Namespace

if TYPE_CHECKING:
    from services.edge.domain.session.session import Session

_OPEN_ATTEMPTS = 3
_CATCH_UP_S = 2.0  # longest wait until this edge is level with the log, for a client that is ahead, seconds
_MANY = 100  # publications in a reply that are written in a fraction of a millisecond; from here on it waits its turn


@dataclass(slots=True)
class Wanted:
    """A permitted subscription that is to be made, with its options."""

    channel: str
    namespace: Namespace
    request: c.Subscribe
    server_side: bool = False
    granted: bool = False
    info: bytes = b""
    data: bytes = b""
    expires_at: float | None = None
    override: Override = field(default_factory=Override)
    most_bytes: int = PAGE_BYTES  # of recovered publications in the reply
    access: Access | None = None  # to the conversation, if persistence was asked already


async def subscribe(session: Session, request: c.Subscribe, command_id: int) -> None:
    """Execute a subscribe command. Wire protocol, 5.2.

    Sends the reply itself, because it must precede every push of the channel.
    """
    wanted = await _check(session, request)
    hook = session.node.hooks.subscribe.get(wanted.namespace.name)
    if hook is not None:
        await _ask(session, hook, wanted)
    channel, subscription, result = await establish(session, wanted)
    try:
        session.reply(command_id, result)
    except BaseException:
        session.end_silently(subscription)
        raise
    begin(session, channel, subscription)
    if subscription.expires_at is not None:
        session.deadlines.reschedule()


def require_known_delta(request: c.Subscribe) -> None:
    """Raise `Disconnect` (`BAD_REQUEST`) if the format of deltas is unknown."""
    if request.delta not in ("", Delta.FOSSIL):
        raise Disconnect(EndReason.BAD_REQUEST)


async def unsubscribe(session: Session, request: c.Unsubscribe, _: int) -> UnsubscribeResult:
    """Execute an unsubscribe command. Wire protocol, 5.3.

    It also ends server-side subscriptions. No effect if there is no subscription.
    """
    required_channel(request.channel)
    subscription = session.subscriptions.get(request.channel)
    if subscription is not None:
        session.drop(subscription)
        if session.presence.get(request.channel) is not None:
            session.presence_over(subscription)
            await session.node.presence.written(request.channel, session.client)
    return UnsubscribeResult()


async def _check(session: Session, request: c.Subscribe) -> Wanted:
    """Check a subscribe command, in the order of wire protocol, 5.2."""
    channel = request.channel
    settings = session.node.settings
    required_channel(channel)
    require_known_delta(request)
    if len(channel.encode("utf-8", "surrogatepass")) > settings.channel_max_bytes:
        raise ThalamusError("channel name too long", ErrorCode.BAD_REQUEST)
    if channel in session.subscriptions:
        raise ThalamusError(code=ErrorCode.ALREADY_SUBSCRIBED)
    if len(session.subscriptions) >= settings.channels_per_client:
        raise ThalamusError(code=ErrorCode.LIMIT_EXCEEDED)
    namespace = find_namespace(session.node.namespaces, channel, settings.channel_max_bytes)
    if request.kind is not c.SubscriptionKind.STREAM:
        is_poll = request.kind is c.SubscriptionKind.SHARED_POLL
        raise ThalamusError("subscription type", ErrorCode.NOT_AVAILABLE if is_poll else ErrorCode.PERMISSION_DENIED)
    if request.has_tags_filter:
        raise ThalamusError("tags filter", ErrorCode.BAD_REQUEST)
    if request.token:
        claims = _token(session, request)
        return Wanted(
            channel,
            namespace,
            request,
            granted=True,
            info=claims.info,
            data=claims.data,
            expires_at=claims.expires_at,
            override=claims.override,
        )
    hook = session.node.hooks.subscribe.get(namespace.name)
    granted = hook is not None and hook.options.grants  # unless it refuses, which is asked next
    access = None
    if not granted or namespace.conversations:  # no hook makes a member
        access = await authorize(session, namespace, channel, Operation.SUBSCRIBE)
    return Wanted(channel, namespace, request, granted=granted, access=access)


async def _ask(session: Session, hook: Hook, wanted: Wanted) -> None:
    """Let the namespace's hook refuse the subscription, or set its options."""
    require_format(session, wanted.namespace)
    answer = await ask_subscribe(session, hook, wanted.request)
    if not wanted.granted:  # what permitted it may be gone
        await authorize(session, wanted.namespace, wanted.channel, Operation.SUBSCRIBE)
    if answer.info is not None:
        wanted.info = answer.info
    if answer.data is not None:
        wanted.data = answer.data
    wanted.override = wanted.override.under(answer.override)


def _token(session: Session, request: c.Subscribe) -> SubscriptionClaims:
    now = session.node.clock.wall()
    try:
        claims = session.node.verifier.subscription(request.token, now)
    except TokenExpired:
        raise ThalamusError(code=ErrorCode.TOKEN_EXPIRED) from None
    except TokenInvalid:
        raise ThalamusError(code=ErrorCode.PERMISSION_DENIED) from None
    if claims.channel != request.channel or claims.user != session.user or claims.client not in ("", session.client):
        refused("subscription", "it is for another channel, user or connection")
        raise Disconnect(EndReason.INVALID_TOKEN)
    if claims.has_expired(now):
        raise ThalamusError(code=ErrorCode.EXPIRED)
    return claims


async def establish(session: Session, wanted: Wanted) -> tuple[Channel, Subscription, SubscribeResult]:
    """Join the channel, recover, and enter the roster.

    The caller queues the result, and then calls `begin`. Whoever has permitted the subscription: in a conversation the
    client must be one who may read it.

    Raises:
        ThalamusError: 103 if it may not; 112 if recovery is impossible and the client asked for an error then; 100 if
            Redis or the store does not answer; 111 if the user began too many channels lately; 108 if the client's
            protocol can't carry the channel's data. The subscription is undone then.
    """
    require_format(session, wanted.namespace)
    access = wanted.access
    if access is None and wanted.namespace.conversations:
        access = await ask(session, wanted.channel)
    subscription = await _permitted(session, wanted)
    if access is not None:
        subscription.history_from = access.history_from
    if session.is_closed:
        raise Unavailable("the connection is over")
    if wanted.channel in session.subscriptions:  # made by a backend, while grants were read
        raise ThalamusError(code=ErrorCode.ALREADY_SUBSCRIBED)
    session.subscriptions[wanted.channel] = subscription
    try:
        if not wanted.granted:
            await admit_new(session, wanted.namespace, wanted.channel)
        channel = await _join(session, wanted, subscription)
        joined_at = channel.log.position if channel.log is not None else None
        if access is not None:
            await membership.confirm(session, channel, subscription, access)
        result = await _result(session, wanted, channel, subscription, joined_at)
        if result.was_recovering and not result.recovered and wanted.request.rejects_gap:
            raise ThalamusError(code=ErrorCode.UNRECOVERABLE_POSITION)
        await _enter(session, wanted, subscription)
        if len(result.publications) >= _MANY:
            await session.node.turns.mine()
        if subscription.ends_at > subscription.checked_at:  # a removal came meanwhile
            raise ThalamusError(code=ErrorCode.PERMISSION_DENIED)
        if subscription.broken or session.subscriptions.get(wanted.channel) is not subscription:
            raise Unavailable("the subscription ended while it was made")
    except BaseException:
        session.end_silently(subscription)
        raise
    return channel, subscription, result


async def _permitted(session: Session, wanted: Wanted) -> Subscription:
    """Return the subscription; read stored grants if its options depend on them."""
    for _ in range(TRIES):
        try:
            return _subscription(session, wanted)
        except GrantsUnknown:  # it depends on them whether the client may recover, or see joins
            await session.node.grants.load(session.user)
        if not wanted.granted:  # what permitted it may be gone; from here to the next attempt there is no wait
            await authorize(session, wanted.namespace, wanted.channel, Operation.SUBSCRIBE)
    raise Unavailable("grants change too often", retry_after_s=1.0)


def _subscription(session: Session, wanted: Wanted) -> Subscription:
    namespace, request, override = wanted.namespace, wanted.request, wanted.override

    def may(operation: Operation) -> bool:
        return is_permitted_as(session, namespace, wanted.channel, operation, True, wanted.granted)

    def is_on(mode: Mode, override: bool | None, *, asked: bool) -> bool:
        """Return whether it is forced, or asked for and allowed.

        A client that may read the history may also recover and be positioned (wire protocol, 10).
        """
        forced = mode is Mode.FORCE if override is None else override
        return forced or (asked and (mode is not Mode.OFF or may(Operation.HISTORY)))

    keeps_log = namespace.durability is not Durability.NONE and namespace.history_size > 0
    recoverable = keeps_log and is_on(namespace.recovery, override.force_recovery, asked=request.recoverable)
    positioned = keeps_log and (
        recoverable or is_on(namespace.positioning, override.force_positioning, asked=request.positioned)
    )
    announces = namespace.join_leave is not Mode.OFF if override.join_leave is None else override.join_leave
    forced = (
        namespace.join_leave is Mode.FORCE if override.force_push_join_leave is None else override.force_push_join_leave
    )
    asks_joins = announces and not forced and request.join_leave
    wants_joins = (announces and forced) or (asks_joins and may(Operation.PRESENCE))
    return Subscription(
        session=session,
        channel=wanted.channel,
        info=session.info(wanted.info),
        delta=session.encoder.delta if request.delta and namespace.delta is not Delta.OFF else None,
        server_side=wanted.server_side,
        granted=wanted.granted,
        recoverable=recoverable,
        positioned=positioned,
        wants_joins=wants_joins,
        asks_joins=asks_joins,
        announces=announces,
        expires_at=None if session.node.settings.insecure else wanted.expires_at,
    )


async def _join(session: Session, wanted: Wanted, subscription: Subscription) -> Channel:
    hub = session.node.hub
    for attempt in range(_OPEN_ATTEMPTS):
        channel = await hub.open(wanted.channel, wanted.namespace)
        request = wanted.request
        if (
            channel.log is not None
            and subscription.recoverable
            and request.recover
            and request.offset > channel.log.delivered
            and request.epoch in ("", channel.log.epoch)
        ):
            await hub.catch_up(channel, _CATCH_UP_S)  # the client is ahead of this edge
        if channel.log is not None and subscription.history_from > channel.log.delivered:
            await hub.catch_up(channel, _CATCH_UP_S)  # what this edge delivers next is not for the client
        if session.subscriptions.get(wanted.channel) is not subscription:
            break
        try:
            return hub.join(channel, subscription)
        except Unavailable:
            if attempt == _OPEN_ATTEMPTS - 1:
                raise
    raise Unavailable("the subscription ended while it was made")


async def _result(
    session: Session, wanted: Wanted, channel: Channel, subscription: Subscription, top: StreamPosition | None
) -> SubscribeResult:
    """Build the reply, with the publications that the client missed.

    `top` is the position in the tick of the join: everything after it is held for the subscription. None: no log.
    """
    request = wanted.request
    result = SubscribeResult(
        expires=subscription.expires_at is not None,
        ttl=session.deadlines.ttl(subscription.expires_at),
        recoverable=subscription.recoverable,
        positioned=subscription.positioned,
        data=wanted.data,
        was_recovering=request.recover,
        delta=subscription.delta is not None,
    )
    if channel.log is None or top is None or not subscription.positioned:
        return result
    result.offset, result.epoch = top
    if not (request.recover and subscription.recoverable):
        return result
    missed = await recover(session, channel, subscription, request, top, most_bytes=wanted.most_bytes)
    outcomes = session.node.counters.recoveries
    outcome = "recovered" if missed is not None else "not_recovered"
    outcomes[outcome] = outcomes.get(outcome, 0) + 1
    if missed is not None:
        result.recovered = True
        result.publications = missed
        result.offset = max(request.offset, subscription.history_from)
    elif channel.is_catching_up(subscription):  # the first page can't be read: the client begins at the newest position
        channel.hold_again(subscription)
        result.offset, result.epoch = channel.log.position
    return result


def begin(session: Session, channel: Channel, subscription: Subscription) -> None:
    """Start the pushes of a subscription whose reply is queued.

    If it missed too much for the reply, the rest of it is sent first, in the background.
    """
    channel.go_live(subscription)
    if channel.is_catching_up(subscription):
        session.node.spawn(catch_up(session, channel, subscription))


async def _enter(session: Session, wanted: Wanted, subscription: Subscription) -> None:
    """Put the client on the roster, and wait until presence has it, 1 s at most.

    If presence does not answer, the subscription goes on without it.
    """
    channel, namespace, override = wanted.channel, wanted.namespace, wanted.override.presence
    enters = namespace.presence and namespace.presence_auto if override is None else override
    if session.is_closed or session.subscriptions.get(channel) is not subscription:
        return
    session.presence.subscribed(namespace, subscription, enters=enters)
    if session.presence.get(channel) is not None:
        await session.node.presence.written(channel, session.client)
