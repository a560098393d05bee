"""Methods on conversations as a whole: create, change, join and leave."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from msgspec import UNSET

from services.persistence.chat.domain import names
from services.persistence.chat.domain.rules import Why
from services.persistence.chat.domain.state import PLATFORM
from services.persistence.chat.farewells import Farewell
from services.persistence.chat.methods.context import Call, Done, Result, Tools, reply
from services.persistence.chat.refused_call import RefusedCall, malformed
from services.shared import chat_requests as r
from services.shared.errors import ErrorCode

_CREATE = "create"  # the platform's key under which a direct conversation is created, whoever begins it
_REPEATED = frozenset({ErrorCode.INTERNAL, ErrorCode.TOO_MANY_REQUESTS})  # codes after which the caller repeats
_MAX_TOLD = 1_000  # members that personal channels are told of a phase; of more, none are
_BEGINS_DIRECT = {"kind": "conversation", "op": "create", "type": "direct"}


async def create(tools: Tools, call: Call, request: r.ConversationsCreate) -> Result:
    """Create a conversation; its creator is the owner, and `users` are added."""
    if request.type == "direct":
        return await _create_direct(tools, call, request)
    if request.type == "open" and request.users:
        raise malformed("nobody is added to an open conversation")
    channel = _new_channel(tools, call, request)
    event = _event(request, call)
    done = await tools.write(call, channel, event, call.key)
    result = reply(channel, done)
    if call.user:
        await tools.notify(call, call.user, "added", channel, done)
    refused = await _add(tools, call, channel, [user for user in request.users if user != call.user])
    await tools.settle(channel)
    return {**result, "not_added": refused} if refused else result


def _new_channel(tools: Tools, call: Call, request: r.ConversationsCreate) -> str:
    """Return the channel of a new group or open conversation.

    It follows from the key, if there is one: a repeat must not create another conversation.
    """
    if request.id is not UNSET:
        return names.open_channel(call.namespace, request.id)
    if call.key:
        random = hashlib.sha256(f"{call.key_user}\n{call.key}".encode()).digest()
    else:
        random = tools.random(names.RANDOM_BYTES)
    if request.type == "open":
        return names.open_channel(call.namespace, None, random)
    return names.group_channel(call.namespace, random)


def _event(request: r.ConversationsCreate, call: Call) -> dict[str, Any]:
    """Return the event that creates it, with the namespace's limit of members."""
    given = request.given()
    event: dict[str, Any] = {"kind": "conversation", "op": "create", "type": request.type}
    settings = dict(given.get("settings", {}))
    most = call.options.group_max_members
    if request.type == "group" and most:
        settings.setdefault("max_members", most)  # a higher one is refused, as in an update
    if settings:
        event["settings"] = settings
    if request.name:
        event["name"] = request.name
    return event


async def _add(tools: Tools, call: Call, channel: str, users: list[str]) -> dict[str, str]:
    """Add users to a new group; return why some were not added."""
    refused: dict[str, str] = {}

    async def add(user: str) -> None:
        event = {"kind": "member", "op": "add", "user": user}
        try:
            done = await tools.write(call, channel, event, call.step(f"add {user}"))
        except RefusedCall as error:
            if error.refusal.code in _REPEATED:  # all of the call is repeated then
                raise
            refused[user] = error.refusal.why
            return
        if done.why is None or done.why == Why.UNCHANGED:
            await tools.notify(call, user, "added", channel, done)
        else:
            refused[user] = done.why

    users = list(dict.fromkeys(users))
    if users and call.user == PLATFORM:  # the first member of a group without any is its owner
        await add(users.pop(0))
    for failure in await asyncio.gather(*map(add, users), return_exceptions=True):
        if failure is not None:
            raise failure
    return refused


async def _create_direct(tools: Tools, call: Call, request: r.ConversationsCreate) -> Result:
    users = list(dict.fromkeys([call.user, *request.users] if call.user else request.users))
    if len(users) not in (1, 2):
        raise malformed("a direct conversation has one or two users")
    channel = names.direct_channel(call.namespace, users)
    done = await begin_direct(tools, call, channel, users, _event(request, call))
    if done is None:
        offset, epoch = await tools.queries.created(channel, call.user)
        return reply(channel, Done(offset, epoch, None))
    for user in users:
        await tools.notify(call, user, "added", channel, done)
    return reply(channel, done)


async def begin_direct(
    tools: Tools, call: Call, channel: str, users: list[str], event: Result = _BEGINS_DIRECT
) -> Done | None:
    """Create the direct conversation of these users; return None if there is one.

    All who begin it share one key of the platform: two who begin at once create one.
    """
    try:
        done = await tools.write(call, channel, {**event, "users": sorted(users)}, _CREATE, key_user="")
    except RefusedCall as error:
        if error.refusal.why != Why.EXISTS:
            raise
        return None
    await tools.settle(channel)
    return done


async def update(tools: Tools, call: Call, request: r.ConversationsUpdate) -> Result:
    """Change name or settings."""
    event: dict[str, Any] = {"kind": "conversation", "op": "update"}
    if request.name is not UNSET:
        event["name"] = request.name
    if request.settings is not UNSET:
        event["settings"] = request.given()["settings"]
    return reply(request.channel, await tools.write(call, request.channel, event, call.key))


async def close(tools: Tools, call: Call, request: r.ChangeChannel) -> Result:
    """Close it: it can only be read."""
    return await _lifecycle(tools, call, request, "close", "closed")


async def reopen(tools: Tools, call: Call, request: r.ChangeChannel) -> Result:
    """Open a closed conversation again."""
    return await _lifecycle(tools, call, request, "reopen", "reopened")


async def delete(tools: Tools, call: Call, request: r.ChangeChannel) -> Result:
    """Delete it with all its messages."""
    return await _lifecycle(tools, call, request, "delete", "deleted")


async def _lifecycle(tools: Tools, call: Call, request: r.ChangeChannel, op: str, notice: str) -> Result:
    """Change the phase, and tell the members.

    A deletion is told to all, and who was away learns of it later. Closing and opening can be done again and again, so
    these are told to those alone who are connected: they must not take the places of other notices.
    """
    channel, is_end, farewell = request.channel, op == "delete", Farewell()
    if names.type_of(channel) is not None:  # now: a deleted conversation has neither members nor a name
        told = await tools.queries.to_tell(channel, _MAX_TOLD, invited=is_end)
        farewell = Farewell(told, await tools.queries.notice(channel) if told else {})
        if is_end and (call.user in told or (told and call.user == PLATFORM)):  # nobody else deletes it
            await tools.farewells.keep(channel, farewell)
    done = await tools.write(call, channel, {"kind": "conversation", "op": op}, call.key)
    await tools.settle(channel)
    if done.why is None:
        if is_end and not farewell.users:
            farewell = await tools.farewells.kept(channel)
        said = {"kind": notice, **farewell.about, "by": call.user, "offset": done.offset}
        (call.notices if is_end else call.passing).extend((user, said) for user in farewell.users)
    return reply(channel, done)


async def join(tools: Tools, call: Call, request: r.ChangeChannel) -> Result:
    """Join a group, or accept an invitation; the user's other devices are told."""
    return await _oneself(tools, call, request, "join", "added")


async def leave(tools: Tools, call: Call, request: r.ChangeChannel) -> Result:
    """Leave; the user's other devices are told."""
    return await _oneself(tools, call, request, "leave", "removed")


async def decline(tools: Tools, call: Call, request: r.ChangeChannel) -> Result:
    """Decline an invitation; the user's other devices are told."""
    return await _oneself(tools, call, request, "decline", "removed")


async def _oneself(tools: Tools, call: Call, request: r.ChangeChannel, op: str, notice: str) -> Result:
    done = await tools.write(call, request.channel, {"kind": "member", "op": op}, call.key)
    await tools.settle(request.channel)
    await tools.notify(call, call.user, notice, request.channel, done)
    return reply(request.channel, done)
