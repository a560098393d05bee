"""Methods that read: conversations, members, messages, reactions and pins."""

from __future__ import annotations

from msgspec import UNSET

from services.persistence.chat.domain.events import MAX_OFFSET
from services.persistence.chat.domain.names import direct_channel
from services.persistence.chat.methods.context import Call, Result, Tools
from services.persistence.chat.pages import Page, Shown, View
from services.persistence.chat.refused_call import malformed
from services.shared import chat_requests as r


async def conversation(tools: Tools, call: Call, request: r.OfChannel) -> Result:
    """Return a conversation, and the caller's place in it."""
    return await tools.queries.conversation(request.channel, call.user)


async def conversations(tools: Tools, call: Call, request: r.ConversationsList) -> Result:
    """List the caller's conversations and invitations."""
    if not call.user:
        raise malformed("a list of conversations is a user's: `as`")
    return await tools.queries.conversations_of(call.user, request.limit, request.cursor, request.namespace)


async def directory(tools: Tools, call: Call, request: r.ConversationsDirectory) -> Result:
    """List open conversations by name."""
    namespace = request.namespace or call.namespace
    return await tools.queries.directory(namespace, request.prefix, request.limit, request.cursor)


async def members(tools: Tools, call: Call, request: r.MembersList) -> Result:
    """List the members of a conversation."""
    return await tools.queries.members(request.channel, call.user, request.limit, request.cursor)


async def message(tools: Tools, call: Call, request: r.MessageOnly) -> Result:
    """Return a message."""
    return await tools.queries.message(request.channel, call.user, request.offset)


async def messages(tools: Tools, call: Call, request: r.MessagesList) -> Result:
    """Return a page of messages, the newest last."""
    return await _page(tools, call, request.channel, request)


async def between(tools: Tools, call: Call, request: r.MessagesBetween) -> Result:
    """Return a page of messages between two users, who may read them."""
    users = {call.user, request.other} if request.other is not UNSET else {str(request.sender), str(request.to)}
    if "" in users:
        raise malformed("`with` needs a user: `as`")
    return await _page(tools, call, direct_channel(call.namespace, users), request)


async def _page(tools: Tools, call: Call, channel: str, request: r.MessagesList | r.MessagesBetween) -> Result:
    pages, limit = tools.queries.pages, request.limit
    around = getattr(request, "around", UNSET)

    async def read(at: View) -> Page:
        if around is not UNSET:
            return await pages.around(at, around, limit)
        if request.after is not UNSET:
            return await pages.above(at, request.after, limit)
        return await pages.below(at, MAX_OFFSET if request.before is UNSET else request.before, limit)

    return await tools.queries.page(channel, call.user, read)


async def marker(tools: Tools, call: Call, request: r.OfChannel) -> Result:
    """Return how far the caller has read, and what is unread."""
    if not call.user:
        raise malformed("a marker is a user's: `as`")
    return await tools.queries.marker(request.channel, call.user)


async def thread(tools: Tools, call: Call, request: r.MessagesThread) -> Result:
    """Return a page of the live messages of a thread, the newest last."""
    pages, limit = tools.queries.pages, request.limit

    async def read(at: View, root: Shown) -> Page:
        if request.before is not UNSET:
            return await pages.answers_below(at, root, request.before, limit)
        return await pages.answers_above(at, root, 0 if request.after is UNSET else request.after, limit)

    return await tools.queries.thread(request.channel, call.user, request.thread, read)


async def versions(tools: Tools, call: Call, request: r.MessageOnly) -> Result:
    """Return the versions of a message, the oldest first."""
    return await tools.queries.versions(request.channel, call.user, request.offset)


async def reactions(tools: Tools, call: Call, request: r.ReactionsList) -> Result:
    """Return who reacted to a message."""
    name = None if request.name is UNSET else request.name
    return await tools.queries.reactions(request.channel, call.user, request.offset, name)


async def pins(tools: Tools, call: Call, request: r.OfChannel) -> Result:
    """Return the pinned messages."""
    return await tools.queries.pins(request.channel, call.user)
