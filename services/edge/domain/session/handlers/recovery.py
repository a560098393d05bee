"""What a client that comes back has missed: all of it in the reply, or page by page behind it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from services.edge.domain import commands as c
from services.edge.domain.channels.channel import Channel, Subscription
from services.edge.domain.channels.log_reader import PAGE_BYTES, TooMuch, pause_s, within
from services.edge.domain.model import Publication, StreamPosition
from services.edge.domain.settings import Settings
from services.shared.errors import Busy, Unavailable

if TYPE_CHECKING:
    from services.edge.domain.session.session import Session

logger = logging.getLogger(__name__)

_READ_ATTEMPTS = 3


async def recover(
    session: Session,
    channel: Channel,
    subscription: Subscription,
    request: c.Subscribe,
    top: StreamPosition,
    *,
    most_bytes: int = PAGE_BYTES,
) -> list[Publication] | None:
    """All of (the client's offset, top], or its first page; None: it can't be had. Wire protocol, 11.4.

    Where it is the first page, the channel holds nothing for the subscription any more: the caller queues the reply,
    calls `Channel.go_live`, and lets `catch_up` do the rest.

    Args:
        most_bytes: Of the page, unless one publication is larger. SDKs wait 5 s for a reply, then begin anew: who reads
            slowly would never get past a larger one.
    """
    log, settings = channel.log, session.node.settings
    if log is None or request.epoch not in ("", top.epoch) or request.offset > top.offset:
        return None
    count = top.offset - request.offset
    if count > _most(settings):
        return None
    most_bytes = min(most_bytes, settings.reply_max_bytes)
    page: list[Publication] | None = None
    if count <= settings.recovery_limit:
        with contextlib.suppress(TooMuch):
            page = await _at_once(session, channel, request.offset, top)
            if page is None or sum(one.size for one in page) <= most_bytes:
                return page
    channel.stop_holding(subscription)
    if page is None:
        page = await session.node.reader.page(channel.name, channel.namespace, log, request.offset)
    if page is None:
        return None
    first = within([one for one in page if one.offset <= log.delivered], most_bytes)
    subscription.caught_up_to = request.offset + len(first)
    return first


def _most(settings: Settings) -> int:
    """Publications that a client may have missed."""
    return max(settings.recovery_limit, settings.recovery_total)


async def _at_once(session: Session, channel: Channel, offset: int, top: StreamPosition) -> list[Publication] | None:
    log = channel.log
    assert log is not None
    missed = log.since(offset, session.node.clock.wall())
    for _ in range(_READ_ATTEMPTS):
        if missed is not None:
            break
        page = await session.node.reader.missed(channel.name, channel.namespace, log, offset)
        if page is None:
            return None
        if page.top.offset >= top.offset:
            missed = [one for one in page.publications if offset < one.offset <= top.offset]
        # else: a read that others had begun before this one joined; the next is later
    return missed if missed is not None and len(missed) == top.offset - offset else None


async def catch_up(session: Session, channel: Channel, subscription: Subscription) -> None:
    """Push the rest page by page, no faster than the client takes it, then let it hear what comes live.

    Nothing is kept for it meanwhile. A drop midway costs nothing: each push has its offset. Where the log no longer
    has what comes next, or another one began, the client is told (2500; 3010 for a server-side subscription).
    """
    try:
        await _push_pages(session, channel, subscription)
    except Exception:
        logger.exception("what was missed could not be read to its end", extra={"channel": channel.name})
        if channel.is_catching_up(subscription):  # else it would hear nothing, and not know
            session.insufficient_state(subscription)


async def _push_pages(session: Session, channel: Channel, subscription: Subscription) -> None:
    node, log = session.node, channel.log
    assert log is not None
    failures = 0
    while True:
        await _turn(session)
        if session.is_closed or not channel.is_catching_up(subscription):
            return
        if log.delivered - subscription.caught_up_to > _most(node.settings):
            session.insufficient_state(subscription)
            return
        page = log.since(subscription.caught_up_to, node.clock.wall())
        if page is not None:  # all that there is: from here to the fan-out nobody else gets a turn
            for publication in page:
                session.push_publication(channel.name, publication)
            channel.hear_live(subscription)
            return
        try:
            page = await node.reader.page(channel.name, channel.namespace, log, subscription.caught_up_to)
        except (Unavailable, Busy):
            failures += 1
            await asyncio.sleep(pause_s(failures))
            continue
        failures = 0
        await _turn(session)
        if session.is_closed or not channel.is_catching_up(subscription):
            return
        if page is None:
            session.insufficient_state(subscription)
            return
        for publication in page:
            if publication.offset > log.delivered:
                break  # the fan-out brings it
            session.push_publication(channel.name, publication)
            subscription.caught_up_to = publication.offset


async def _turn(session: Session) -> None:
    """Return when it is its turn, and nothing of what it asked for, maybe in another channel, waits for it."""
    while True:
        await session.until_replies_taken()
        await session.node.turns.mine()
        if session.is_over or not session.connection.replies_wait:
            return
