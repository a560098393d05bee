"""Handler of the publish command."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from services.edge.domain import commands as c
from services.edge.domain.access.authorize import GrantsUnknown, authorize, authorize_at_once
from services.edge.domain.access.grants import Operation
from services.edge.domain.channels.publisher import Outcome
from services.edge.domain.ends import Disconnect
from services.edge.domain.hooks.model import Answer
from services.edge.domain.limits.publishes import PublishLimit
from services.edge.domain.replies import PublishResult
from services.edge.domain.session import membership
from services.edge.domain.session.handlers.common import (
    admit_new,
    namespace_of,
    require_format,
    try_admit_new,
    who_of,
)
from services.edge.domain.session.hooked import ask_publish
from services.edge.domain.token_bucket import TokenBucket
from services.shared.errors import ErrorCode, ThalamusError, Unavailable
from services.shared.namespaces import Durability, Namespace

if TYPE_CHECKING:
    from services.edge.domain.session.session import Session


class AsksHook(Exception):
    """A hook of the namespace must be asked before the publication goes on."""


class AsksLimit(Exception):
    """A limit of the user must be asked for before the publication goes on."""


MustWait = (GrantsUnknown, AsksHook, AsksLimit)


def can_begin(session: Session, request: c.Publish) -> bool:
    """Return whether `begin_publish` can decide at once; if not, use `publish`."""
    node = session.node
    if node.publish_limit is not None and not node.publish_limit.is_ready(who_of(session)):
        return False
    return request.channel in node.hub.channels or try_admit_channel(session, request)


def try_admit_channel(session: Session, request: c.Publish) -> bool:
    """Accept the channel of a publish command without waiting; False if not possible.

    It takes a token of the user if the channel is new. If it returns False, the user began too many channels lately:
    use `publish`. It returns True too if the command will be refused: `begin_publish` raises the error.
    """
    node = session.node
    if request.channel in node.hub.channels or node.new_channels.has_seen(request.channel):
        return True
    try:
        namespace = namespace_of(session, request.channel)
        require_format(session, namespace)
        authorize_at_once(session, namespace, request.channel, Operation.PUBLISH, request.command_token)
    except (ThalamusError, Disconnect, GrantsUnknown):
        return True  # `begin_publish` finds the same
    if namespace.durability is Durability.NONE:
        return True
    return try_admit_new(session, namespace, request.channel)


async def publish(session: Session, request: c.Publish, _: int) -> PublishResult:
    """Do what has to wait, then publish and wait for the outcome.

    For users who began too many channels lately (see `try_admit_channel`), whose stored grants must be read first, or
    whose limits must be asked for; and for namespaces with a hook, which is asked last.

    Raises:
        ThalamusError: the command is refused, or it failed.
        Disconnect: misuse of the protocol.
    """
    namespace = namespace_of(session, request.channel)
    require_format(session, namespace)
    await authorize(session, namespace, request.channel, Operation.PUBLISH, request.command_token)
    await admit_new(session, namespace, request.channel)
    events = _limit_of_events(session, request) if namespace.conversations else None
    for limit in (session.node.publish_limit, events):
        if limit is not None:
            await limit.refill(who_of(session))
    # Grants may be forgotten meanwhile.
    await authorize(session, namespace, request.channel, Operation.PUBLISH, request.command_token)
    if request.to_map:
        raise ThalamusError("map publish", ErrorCode.NOT_AVAILABLE)
    _count(session, namespace, events)
    answer = None
    if namespace.publish_hook:
        if namespace.conversations:
            await membership.require_reader(session, request.channel)
        answer = await ask_publish(session, namespace, request)
        if session.was_sent_away:  # its user was revoked, or a backend sent the client away
            raise Unavailable("the connection is over")
        if answer.skip:
            return PublishResult()
        await authorize(session, namespace, request.channel, Operation.PUBLISH, request.command_token)
    future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    begin_publish(
        session,
        request,
        lambda outcome: None if future.done() else future.set_result(outcome),
        answer,
        is_counted=True,
    )
    outcome = await future
    if isinstance(outcome, ThalamusError):
        raise outcome
    return PublishResult(outcome.position.offset, outcome.position.epoch)


def begin_publish(
    session: Session,
    request: c.Publish,
    settle: Callable[[Outcome], None],
    answer: Answer | None = None,
    *,
    is_counted: bool = False,
) -> None:
    """Check a publish command and hand it to the channel's log. Wire protocol, 5.4.

    `settle` is called with the outcome, once the log has answered; it is not called if this raises. `answer` is that of
    the namespace's hook. `is_counted`: limits were looked at already.

    Raises:
        ThalamusError: the command is refused.
        Disconnect: misuse of the protocol.
        GrantsUnknown: the stored grants of the user must be read first: use `publish`.
        AsksHook: a hook must be asked first: use `publish`.
        AsksLimit: a limit must be asked for first: use `publish`.
    """
    namespace = namespace_of(session, request.channel)
    if namespace.publish_hook and answer is None:
        raise AsksHook
    require_format(session, namespace)
    if request.to_map:
        raise ThalamusError("map publish", ErrorCode.NOT_AVAILABLE)
    if request.data is None:
        raise ThalamusError("no data", ErrorCode.BAD_REQUEST)
    authorize_at_once(session, namespace, request.channel, Operation.PUBLISH, request.command_token)
    if not is_counted:
        events = _limit_of_events(session, request) if namespace.conversations else None
        if events is not None and not events.is_ready(who_of(session)):
            raise AsksLimit
        _count(session, namespace, events)
    subscription = session.subscriptions.get(request.channel)
    session.node.publisher.begin(
        request.channel,
        namespace,
        request.data if answer is None or answer.data is None else answer.data,
        settle,
        time_ms=int(session.node.clock.wall() * 1000),
        info=subscription.info if subscription is not None else session.info(),
        tags=None if answer is None else answer.tags,
        key_user=f"u:{session.user}" if session.user else f"c:{session.client}",  # anonymous clients share no keys
        key=request.idempotency_key,
        exclude_client=session.client if request.exclude_self else "",
        admitted=answer is None,
    )


def _limit_of_events(session: Session, request: c.Publish) -> PublishLimit | None:
    """Return the limit for which an event counts; None: there is none."""
    return None if request.data is None else session.node.chat_limits.of_event(request.data)


def _count(session: Session, namespace: Namespace, events: PublishLimit | None) -> None:
    """Count a publication, whatever becomes of it.

    `events`: what `_limit_of_events` returned.

    Raises:
        ThalamusError: 111, it is over a limit.
    """
    if namespace.publish_rate > 0:
        _take_of_connection(session, namespace)
    if session.node.publish_limit is not None:
        session.node.publish_limit.take(who_of(session))
    if events is not None:
        events.take(who_of(session))


def _take_of_connection(session: Session, namespace: Namespace) -> None:
    """Raise `ThalamusError` (111) if the client exceeds the `publish_rate`."""
    now = session.node.clock.monotonic()
    if session.publish_buckets is None:
        session.publish_buckets = {}
    bucket = session.publish_buckets.get(namespace.name)
    if bucket is None:
        bucket = TokenBucket(namespace.publish_rate, namespace.publish_rate, now)
        session.publish_buckets[namespace.name] = bucket
    if not bucket.take(now):
        raise ThalamusError(code=ErrorCode.TOO_MANY_REQUESTS, retry_after_s=bucket.retry_after_s())
