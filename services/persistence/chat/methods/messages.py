"""Methods that write and change messages, reactions and pins."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET

from services.persistence.chat.domain import events, names
from services.persistence.chat.domain.state import Phase
from services.persistence.chat.methods.context import Begins, Call, Done, Result, Tools, reply
from services.persistence.chat.methods.conversations import begin_direct
from services.persistence.chat.refused_call import malformed
from services.shared import chat_requests as r

_ADDRESS = ("channel", "to", "namespace", "key")  # members of requests that are not members of their events


async def send(tools: Tools, call: Call, request: r.MessagesSend) -> Result:
    """Send a message; the direct conversation with `to` is created if there is none."""
    event = _event("message", request)
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
    if done.offset == created + 1:  # the other one has not heard of this conversation
        for user in users[1:]:
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
    return reply(request.channel, await tools.write(call, request.channel, _event("edit", request), call.key))


async def delete(tools: Tools, call: Call, request: r.MessagesDelete) -> Result:
    """Delete a message."""
    return reply(request.channel, await tools.write(call, request.channel, _event("delete", request), call.key))


async def purge(tools: Tools, call: Call, request: r.MessagesPurge) -> Result:
    """Delete all messages of a user, up to an offset.

    One's own also where one is no member any more, but was.
    """
    event = _event("purge", request)
    if request.user == call.user or request.upto is UNSET:
        see = tools.queries.known if request.user == call.user else tools.queries.seen
        event.setdefault("upto", (await see(request.channel, call.user)).position)
    return reply(request.channel, await tools.write(call, request.channel, event, call.key))


async def add_reaction(tools: Tools, call: Call, request: r.ReactionsChange) -> Result:
    """React to a message."""
    return await _change(tools, call, request, "reaction", "add")


async def remove_reaction(tools: Tools, call: Call, request: r.ReactionsChange) -> Result:
    """Take a reaction back."""
    return await _change(tools, call, request, "reaction", "remove")


async def add_pin(tools: Tools, call: Call, request: r.OfMessage) -> Result:
    """Pin a message."""
    return await _change(tools, call, request, "pin", "add")


async def remove_pin(tools: Tools, call: Call, request: r.OfMessage) -> Result:
    """Take a pin off."""
    return await _change(tools, call, request, "pin", "remove")


async def _change(tools: Tools, call: Call, request: r.OfMessage, kind: str, op: str) -> Result:
    event = {**_event(kind, request), "op": op}
    return reply(request.channel, await tools.write(call, request.channel, event, call.key))


def _event(kind: str, request: r.Write) -> dict[str, Any]:
    """Return the event that a request asks for: its members, and the kind."""
    return {"kind": kind, **{name: value for name, value in request.given().items() if name not in _ADDRESS}}
