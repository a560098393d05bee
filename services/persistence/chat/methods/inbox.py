"""Methods on inboxes: the list for users, and what edges watch for them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from services.persistence.chat.inbox.cursors import page_of, since_of
from services.persistence.chat.methods.context import Call, Result, Tools
from services.persistence.chat.refused_call import malformed
from services.shared import chat_requests as r
from services.shared.checks import MAX_USER_BYTES

_User = Annotated[str, Meta(min_length=1, max_length=MAX_USER_BYTES)]


class Watch(r.ChatRequest, kw_only=True):
    """What an edge asks for somebody who watches an inbox."""

    user: _User


class Members(r.ChatRequest, kw_only=True):
    """Which of these users are members of a conversation."""

    channel: r.Channel
    users: Annotated[list[_User], Meta(max_length=1_000)]


async def page(tools: Tools, call: Call, request: r.InboxList) -> Result:
    """Return a page of the caller's inbox, or of what changed in it."""
    if not call.user:
        raise malformed("an inbox is a user's: `as`")
    if request.cursor and request.since:
        raise malformed("`cursor` and `since` don't go together: a cursor knows since when")
    try:
        cursor = page_of(request.cursor) if request.cursor else None
        since = since_of(request.since) if request.since else None
    except ValueError:
        raise malformed("not a cursor of an inbox") from None
    return await tools.inbox.page(call.user, request.limit, cursor, since, request.namespace)


async def watch(tools: Tools, call: Call, request: Watch) -> Result:
    """Return the conversations of a user: channel → offset and count."""
    return await tools.inbox.watched(request.user)


async def members(tools: Tools, call: Call, request: Members) -> Result:
    """Return which of the users are members."""
    return await tools.inbox.members(request.channel, request.users)
