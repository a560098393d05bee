"""Recovery: sends a client that comes back the publications that it missed.

**Purpose.** A client comes back with the position of the last publication that it has. It gets everything after it,
without a hole or a repetition, and then what is live; or it is told that this is impossible.

**Rules.**

1. If it missed at most `recovery_limit` (1,000) publications and 64 KiB, the reply has all of them. What comes
   meanwhile is held by the channel and sent behind the reply. The channels of one connect reply share the 64 KiB.
2. If it missed more, the reply has the first page, and the client's own offset as its position. The other pages follow
   as ordinary publication pushes (`catch_up`). A client that drops out among them recovers from the last one received.
   If a part of it is not for the client (`Subscription.history_from`), it recovers as if it had that part.
3. Not recovered: another epoch, an offset beyond the newest one, more than `recovery_total` (100,000) publications, or
   a log that does not have them any more.
4. The client's reading sets the speed: the next page is read once at most 64 KiB of replies wait for it. The whole edge
   sends one page per round of the event loop, so that others get their turn.
5. While a client catches up, no publications with offsets are held or sent to it but its own pages, and no page goes
   beyond what this edge has delivered. Once the ring has all the rest, that is sent, and the subscription becomes live
   in the same tick. So nothing is missed and nothing comes twice.
6. If the log loses what comes next while the client catches up, or the client lags by more than `recovery_total`, it
   gets a gap notification: unsubscribe 2500, or the end of the connection for a server-side subscription.

**Example.** A client comes back with offset 100; this edge has delivered 5,000 publications of 1 KB. The reply has
about the first 64 of them, and offset 100. Pages of about 64 KiB follow. Meanwhile 5,001 to 5,200 are published. When
the client is at 4,990, the ring (256) has the rest: 4,991 to 5,200 are sent, and 5,201 comes live.

**Trade-offs.** A client that missed much sees new publications only after the old ones. In return the edge keeps
nothing for it, however slowly it reads, and it sees the first page at once.

Decision: docs/decisions/0025-recovery-goes-on-behind-the-reply.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from services.edge.domain import commands as c
from services.edge.domain.channels.channel import Channel, Subscription
from services.edge.domain.channels.log_reader import PAGE_BYTES, TooMuch, read_backoff, within
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
    """Return the missed publications for the reply: all of them, or the first page.

    They are those after the client's offset, up to `top`. None if recovery is impossible (wire protocol, 11.4).

    If it is the first page, the subscription is catching up from now on. Then the caller queues the reply, calls
    `Channel.go_live`, and starts `catch_up`, which sends the rest.

    Args:
        top: Position of the channel in the tick of the join.
        most_bytes: Largest size of the result, unless one publication is larger. SDKs wait 5 s for a reply and then
            begin again: a client that reads slowly would never receive a larger one.
    """
    log, settings = channel.log, session.node.settings
    if log is None or request.epoch not in ("", top.epoch) or request.offset > top.offset:
        return None
    offset = max(request.offset, subscription.history_from)
    count = top.offset - offset
    if count > _most_missed(settings):
        return None
    most_bytes = min(most_bytes, settings.reply_max_bytes)
    page: list[Publication] | None = None
    if count <= settings.recovery_limit:
        with contextlib.suppress(TooMuch):
            page = await _all_missed(session, channel, offset, top)
            if page is None or sum(one.size for one in page) <= most_bytes:
                return page
    channel.stop_holding(subscription)
    if page is None:
        page = await session.node.reader.page(channel.name, channel.namespace, log, offset)
    if page is None:
        return None
    first = within([one for one in page if one.offset <= log.delivered], most_bytes)
    subscription.caught_up_to = offset + len(first)
    return first


def _most_missed(settings: Settings) -> int:
    """Return how many publications a client may have missed."""
    return max(settings.recovery_limit, settings.recovery_total)


async def _all_missed(session: Session, channel: Channel, offset: int, top: StreamPosition) -> list[Publication] | None:
    log = channel.log
    assert log is not None
    missed = log.since(offset, session.node.clock.wall())
    if missed is not None:  # what came since the join is held for the subscription
        missed = [one for one in missed if one.offset <= top.offset]
    for _ in range(_READ_ATTEMPTS):
        if missed is not None:
            break
        page = await session.node.reader.missed(channel.name, channel.namespace, log, offset)
        if page is None:
            return None
        if page.top.offset >= top.offset:
            missed = [one for one in page.publications if offset < one.offset <= top.offset]
        # else: another client's read, which began before this one joined; read again
    return missed if missed is not None and len(missed) == top.offset - offset else None


async def catch_up(session: Session, channel: Channel, subscription: Subscription) -> None:
    """Send the rest of the missed publications page by page, then go live.

    Sends a gap notification if the rest can't be read.
    """
    try:
        await _push_pages(session, channel, subscription)
    except Exception:
        logger.exception("what was missed could not be read to its end", extra={"channel": channel.name})
        if channel.is_catching_up(subscription):  # without this, it would get no publications and no notification
            session.insufficient_state(subscription)


async def _push_pages(session: Session, channel: Channel, subscription: Subscription) -> None:
    node, log = session.node, channel.log
    assert log is not None
    backoff = read_backoff()
    while True:
        await _wait_for_turn(session)
        if session.is_closed or not channel.is_catching_up(subscription):
            return
        if log.delivered - subscription.caught_up_to > _most_missed(node.settings):
            session.insufficient_state(subscription)
            return
        page = log.since(subscription.caught_up_to, node.clock.wall())
        if page is not None:  # the ring has all the rest; there is no wait between here and `receive_live`
            if not _push_to_the_end(session, subscription, page):
                channel.receive_live(subscription)
            return
        try:
            page = await node.reader.page(channel.name, channel.namespace, log, subscription.caught_up_to)
        except (Unavailable, Busy):
            await asyncio.sleep(backoff.next_s())
            continue
        backoff.reset()
        await _wait_for_turn(session)
        if session.is_closed or not channel.is_catching_up(subscription):
            return
        if page is None:
            session.insufficient_state(subscription)
            return
        # What this edge has not delivered yet comes from the ring or by the fan-out.
        page = [one for one in page if one.offset <= log.delivered]
        if _push_to_the_end(session, subscription, page):
            return
        if page:
            subscription.caught_up_to = page[-1].offset


def _push_to_the_end(session: Session, subscription: Subscription, page: list[Publication]) -> bool:
    """Send a page, and end the subscription if it ends within; return whether it did."""
    end = subscription.ends_at
    if not end:
        session.push_recovered(subscription, page)
        return False
    session.push_recovered(subscription, [one for one in page if one.offset <= end])
    if not page or page[-1].offset < end:
        return False
    session.no_longer_member(subscription)
    return True


async def _wait_for_turn(session: Session) -> None:
    """Wait until a page may be sent: few replies wait, and it is this client's turn.

    At most 64 KiB of replies may wait, those for other channels of the client included.
    """
    while True:
        await session.until_replies_taken()
        await session.node.turns.mine()
        if session.is_over or not session.connection.replies_wait:
            return
