"""Methods that search: messages, and conversations by name."""

from __future__ import annotations

from msgspec import UNSET

from services.persistence.chat.domain.names import namespace_of
from services.persistence.chat.index.query import BadQuery, read_query
from services.persistence.chat.methods.context import Call, Result, Tools
from services.persistence.chat.new_events import Refused
from services.persistence.chat.refused_call import FORBIDDEN, RefusedCall, malformed
from services.persistence.chat.search.cursors import decoded
from services.persistence.chat.search.search import Wanted
from services.shared import chat_requests as r
from services.shared.errors import ErrorCode

_NOT_HERE = Refused(ErrorCode.NOT_AVAILABLE, "not_available", "search is not available with this store")


async def messages(tools: Tools, call: Call, request: r.MessagesSearch) -> Result:
    """Return a page of messages that a query finds."""
    if tools.search is None:
        raise RefusedCall(_NOT_HERE)
    try:
        query = read_query(request.query, call.user)
    except BadQuery as error:
        raise malformed(str(error)) from None
    try:
        cursor = decoded(request.cursor) if request.cursor else None
    except ValueError:
        raise malformed("not a cursor of a search") from None
    best = request.sort == "best" if cursor is None else cursor.best
    named = {*query.channels, *(() if request.channel is UNSET else (request.channel,))}
    if len(named) > 1:
        raise malformed("a search is in one conversation, or in all of the caller's")
    channel = next(iter(named), "")
    if not channel and not call.user:
        raise malformed("a search in all conversations is a user's: `as`")
    if channel and request.namespace and namespace_of(channel) != request.namespace:
        raise RefusedCall(FORBIDDEN)
    return await tools.search.messages(
        Wanted(call.user, query, channel, request.namespace, request.limit, best, cursor)
    )


async def conversations(tools: Tools, call: Call, request: r.ConversationsSearch) -> Result:
    """Return a page of conversations by name."""
    if not request.query and not request.member:
        raise malformed("neither `query` nor `member`")
    return await tools.name_search.conversations(
        call.user, request.query, request.member, call.namespace, request.limit, request.cursor
    )
