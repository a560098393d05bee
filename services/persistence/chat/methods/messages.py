"""Methods that write and change messages, reactions and pins."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from services.persistence.chat.domain import events, names
from services.persistence.chat.domain.state import Phase
from services.persistence.chat.methods.context import Begins, Call, Done, Result, Tools, reply
from services.persistence.chat.methods.conversations import begin_direct
from services.persistence.chat.refused_call import malformed
from services.shared import chat_requests as r
from services.shared.chat_events import event_of


class EventsAppend(r.Write, kw_only=True):
    """An event, a JSON object, and tags of its publication."""

    channel: r.Channel
    event: msgspec.Raw
    tags: dict[str, str] | UnsetType = UNSET


class _Kind(msgspec.Struct):
    kind: str


async def send(tools: Tools, call: Call, request: r.MessagesSend) -> Result:
    """Send a message; the direct conversation with `to` is created if there is none."""
    event = event_of("messages.send", request)
    if request.channel is not UNSET:
        return _with_id(request.channel, await tools.write(call, request.channel, event, call.key))
    if not call.user:
        raise malformed("`to` needs the user who sends: `as`")
    users = list(dict.fromkeys([call.user, str(request.to)]))
    channel = names.direct_channel(call.namespace, users)
    if await tools.queries.phase(channel) is Phase.NONE:
        _check(event)
        if call.asks_to_begin:
            raise Begins
        await begin_direct(tools, call, channel, users)
    done = await tools.write(call, channel, event, call.key)
    created, _ = await tools.queries.created(channel, call.user)
    if done.offset == created + 1:  # nobody has heard of this conversation
        for user in users:
            await tools.notify(call, user, "added", channel, done)
    return _with_id(channel, done)


def _check(event: Result) -> None:
    """Refuse what is no event, before a conversation is created for it."""
    try:
        events.parse(msgspec.json.encode(event))
    except events.Malformed as error:
        raise malformed(str(error)) from None


def _with_id(channel: str, done: Done) -> Result:
    return {**reply(channel, done), **({"id": f"{channel}/{done.offset}"} if done.offset else {})}


async def edit(tools: Tools, call: Call, request: r.MessagesEdit) -> Result:
    """Replace the content of a message."""
    return reply(
        request.channel, await tools.write(call, request.channel, event_of("messages.edit", request), call.key)
    )


async def delete(tools: Tools, call: Call, request: r.MessagesDelete) -> Result:
    """Delete a message."""
    return reply(
        request.channel, await tools.write(call, request.channel, event_of("messages.delete", request), call.key)
    )


async def purge(tools: Tools, call: Call, request: r.MessagesPurge) -> Result:
    """Delete all messages of a user, up to an offset.

    One's own also where one is no member any more, but was.
    """
    event = event_of("messages.purge", request)
    if request.user == call.user or request.upto is UNSET:
        see = tools.queries.known if request.user == call.user else tools.queries.seen
        event.setdefault("upto", (await see(request.channel, call.user)).position)
    return reply(request.channel, await tools.write(call, request.channel, event, call.key))


async def add_reaction(tools: Tools, call: Call, request: r.ReactionsChange) -> Result:
    """React to a message."""
    return await _change(tools, call, request, "reactions.add")


async def remove_reaction(tools: Tools, call: Call, request: r.ReactionsChange) -> Result:
    """Take a reaction back."""
    return await _change(tools, call, request, "reactions.remove")


async def add_pin(tools: Tools, call: Call, request: r.OfMessage) -> Result:
    """Pin a message."""
    return await _change(tools, call, request, "pins.add")


async def remove_pin(tools: Tools, call: Call, request: r.OfMessage) -> Result:
    """Take a pin off."""
    return await _change(tools, call, request, "pins.remove")


async def append(tools: Tools, call: Call, request: EventsAppend) -> Result:
    """Append an event that a hook made of another one; answers as the other one does."""
    done = await tools.publish(call, request.channel, bytes(request.event), request.tags or {})
    is_message = _kind(request.event) == "message"
    return _with_id(request.channel, done) if is_message else reply(request.channel, done)


def _kind(event: msgspec.Raw) -> str:
    kind: str = msgspec.json.decode(event, type=_Kind).kind
    return kind


async def _change(tools: Tools, call: Call, request: r.OfMessage, method: str) -> Result:
    return reply(request.channel, await tools.write(call, request.channel, event_of(method, request), call.key))
