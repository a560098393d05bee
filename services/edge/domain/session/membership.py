"""Whether a client may read a conversation, asked each time.

**Purpose.** Membership is in the log of the conversation, and persistence knows it at every position. An edge keeps no
copy: what was true a second ago lets somebody read who was removed since.

**Rules.**

1. A live subscription is the permission. It was checked when it was made, and the event that takes it away arrives by
   the same view as every publication, before anything behind it (`channels/conversation_channel.py`).
2. Without one, persistence is asked each time. Nothing is remembered, for however short a time.
3. An answer counts up to its position (`Access.as_of`). Who gets something newer by it must be asked about again.
4. A client without a user is no member of anything, also where the edge is insecure.
5. A hook is asked about publications of those who may read alone, as for all other namespaces. Persistence decides
   about the publication itself.
6. A conversation that does not exist, and one that the user may not read, get the same error after the same question.

**Example.** Bob reads history without a subscription. Persistence says at position 7 that he may; the page that is read
then ends at 9. He may have been removed at 8, so persistence is asked again, and says no at 9: error 103.

Decision: docs/decisions/0054-membership-is-checked-by-position.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.edge.domain.access.membership import ask
from services.edge.domain.chat.ports import Access
from services.edge.domain.model import HistoryPage, StreamPosition
from services.shared.errors import Unavailable

if TYPE_CHECKING:
    from services.edge.domain import commands as c
    from services.edge.domain.channels.channel import Channel, Subscription
    from services.edge.domain.session.session import Session
    from services.shared.namespaces import Namespace

_TRIES = 3  # questions about something that is newer than the answer


async def confirm(session: Session, channel: Channel, subscription: Subscription, access: Access) -> None:
    """Check that an answer covers the position at which a subscription has joined.

    It is called in the tick of the join. If the answer is older, what happened between the two is not known, and is not
    delivered any more either: persistence is asked again.

    Raises:
        ThalamusError: 103, the client may not read the conversation; 100, that can't be found out at the moment.
    """
    assert channel.log is not None
    joined_at = channel.log.position
    tries = _TRIES
    while not _covers(access.as_of, joined_at):
        if not tries:
            raise Unavailable("the membership is not known yet at the position of this edge", retry_after_s=1.0)
        tries -= 1
        access = await ask(session, channel.name)
    if access.history_from > joined_at.offset:  # removed and added again: it joined too early
        raise Unavailable("the membership has begun behind the position of this edge", retry_after_s=1.0)
    subscription.history_from, subscription.checked_at = access.history_from, access.as_of.offset


async def history(
    session: Session, namespace: Namespace, request: c.History, access: Access | None, limit: int
) -> HistoryPage:
    """Return a page of what the client may see of a conversation's log.

    `access`: what persistence said; None: the client has a live subscription. Raises as `LogReader.history`, and:

    Raises:
        ThalamusError: 103, the client may not read what the page has; 100, that can't be found out at the moment.
    """
    access = _of_subscription(session, request.channel) or access or await ask(session, request.channel)
    page = await session.node.reader.history(
        request.channel,
        namespace,
        limit=limit,
        since=request.since,
        reverse=request.reverse,
        above=access.history_from,
    )
    if not page.publications:
        return page
    last = StreamPosition(max(one.offset for one in page.publications), page.top.epoch)
    for _ in range(_TRIES):
        access = _of_subscription(session, request.channel) or access
        if _covers(access.as_of, last):
            visible = [one for one in page.publications if one.offset > access.history_from]
            return HistoryPage(visible, page.top)
        access = await ask(session, request.channel)
    raise Unavailable("the membership is not known yet at the end of the page", retry_after_s=1.0)


async def require_reader(session: Session, channel: str) -> None:
    """Check that the client may read a conversation.

    Raises:
        ThalamusError: 103, it may not; 100, that can't be found out at the moment.
    """
    if _of_subscription(session, channel) is None:
        await ask(session, channel)


def _of_subscription(session: Session, channel: str) -> Access | None:
    """Return what a live subscription permits; None: there is none.

    It covers what this edge has delivered.
    """
    subscription, opened = session.subscriptions.get(channel), session.node.hub.channels.get(channel)
    if subscription is None or not subscription.live or subscription.ends_at or opened is None or opened.log is None:
        return None
    return Access(True, False, subscription.history_from, opened.log.position)


def _covers(as_of: StreamPosition, position: StreamPosition) -> bool:
    return as_of.epoch == position.epoch and as_of.offset >= position.offset
