"""Handler of the publish command."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from services.edge.domain import commands as c
from services.edge.domain.channels.publisher import Outcome
from services.edge.domain.ends import Disconnect
from services.edge.domain.replies import PublishResult
from services.edge.domain.session.handlers.common import (
    admit_new,
    namespace_of,
    require,
    require_format,
    try_admit_new,
)
from services.edge.domain.token_bucket import TokenBucket
from services.shared.errors import ErrorCode, ThalamusError
from services.shared.namespaces import Durability, Namespace

if TYPE_CHECKING:
    from services.edge.domain.session.session import Session


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
        require(session, namespace, request.channel, namespace.publish, request.command_token)
    except (ThalamusError, Disconnect):
        return True  # `begin_publish` refuses it
    if namespace.durability is Durability.NONE:
        return True
    return try_admit_new(session, namespace, request.channel)


async def publish(session: Session, request: c.Publish, _: int) -> PublishResult:
    """Check that the channel exists, then publish and wait for the outcome.

    For users who began too many channels lately; see `try_admit_channel`.

    Raises:
        ThalamusError: the command is refused, or it failed.
        Disconnect: misuse of the protocol.
    """
    namespace = namespace_of(session, request.channel)
    require_format(session, namespace)
    require(session, namespace, request.channel, namespace.publish, request.command_token)
    await admit_new(session, namespace, request.channel)
    future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    begin_publish(session, request, lambda outcome: None if future.done() else future.set_result(outcome))
    outcome = await future
    if isinstance(outcome, ThalamusError):
        raise outcome
    return PublishResult(outcome.position.offset, outcome.position.epoch)


def begin_publish(session: Session, request: c.Publish, settle: Callable[[Outcome], None]) -> None:
    """Check a publish command and hand it to the channel's log. Wire protocol, 5.4.

    `settle` is called with the outcome, once the log has answered; it is not called if this raises.

    Raises:
        ThalamusError: the command is refused.
        Disconnect: misuse of the protocol.
    """
    namespace = namespace_of(session, request.channel)
    require_format(session, namespace)
    if request.to_map:
        raise ThalamusError("map publish", ErrorCode.NOT_AVAILABLE)
    if request.data is None:
        raise ThalamusError("no data", ErrorCode.BAD_REQUEST)
    require(session, namespace, request.channel, namespace.publish, request.command_token)
    _limit(session, namespace)
    subscription = session.subscriptions.get(request.channel)
    session.node.publisher.begin(
        request.channel,
        namespace,
        request.data,
        settle,
        time_ms=int(session.node.clock.wall() * 1000),
        info=subscription.info if subscription is not None else session.info(),
        key_user=f"u:{session.user}" if session.user else f"c:{session.client}",  # anonymous clients share no keys
        key=request.idempotency_key,
        exclude_client=session.client if request.exclude_self else "",
        admitted=True,
    )


def _limit(session: Session, namespace: Namespace) -> None:
    """Raise `ThalamusError` (111) if the client exceeds the `publish_rate`."""
    if namespace.publish_rate <= 0:
        return
    now = session.node.clock.monotonic()
    if session.publish_buckets is None:
        session.publish_buckets = {}
    bucket = session.publish_buckets.get(namespace.name)
    if bucket is None:
        bucket = TokenBucket(namespace.publish_rate, namespace.publish_rate, now)
        session.publish_buckets[namespace.name] = bucket
    if not bucket.take(now):
        raise ThalamusError(code=ErrorCode.TOO_MANY_REQUESTS, retry_after_s=bucket.retry_after_s())
