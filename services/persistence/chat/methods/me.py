"""Methods on all that a user wrote: export it, and erase it.

Each call works for a time and says how far it has come. Whatever ends a call, it may be repeated: what is done already
is found to be done.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from services.persistence.chat import views
from services.persistence.chat.domain.rights import Role
from services.persistence.chat.domain.state import PLATFORM, Phase, Type
from services.persistence.chat.live import Live
from services.persistence.chat.markers.ports import Of
from services.persistence.chat.methods.context import Call, Result, Tools
from services.persistence.chat.methods.devices import devices_of
from services.persistence.chat.methods.markers import place_of
from services.persistence.chat.refused_call import RefusedCall, malformed
from services.persistence.chat.traces import Place, Walk
from services.shared import chat_requests as r
from thalamus.common.v1.common_pb2 import ClientInfo

_WORK_S = 1.2  # of a call; then nothing more is begun
_ENDS_S = 2.0  # after which a call is interrupted; edges wait for 2.5 s
_LOOKED_AT = 500  # messages of a conversation that are read at once
_PLACES = "places "  # first word of a cursor: places are still to be exported; no cursor of a walk has a space
_PLACES_AT_ONCE = 1_000
_GONE = (404, 410)  # the conversation, or the membership, meanwhile


async def export(tools: Tools, call: Call, request: r.MeExport) -> Result:
    """Return what the caller wrote and did not delete, in all conversations.

    The first pages have what else is kept of the caller, too.
    """
    own, cursor, goes_on = await _own(tools, call, request.cursor)
    if goes_on:
        return {"messages": [], **own, "cursor": cursor}
    walk = _walk(tools, call, cursor)
    found: list[dict[str, Any]] = []
    async with _for_a_time() as has_time:
        while has_time() and len(found) < request.limit and (channel := await walk.next()) is not None:
            try:
                if await _is_elsewhere(tools, walk, channel):
                    walk.done()
                    continue
                messages, rest = await tools.queries.messages_by(channel, call.user, walk.place.offset, _LOOKED_AT)
            except RefusedCall:  # deleted meanwhile
                walk.done()
                continue
            before, wanted = len(found), [*found, *messages][: request.limit]
            found = wanted[: len(views.fitting(wanted))]
            if len(found) < before + len(messages):
                rest = found[-1]["offset"] if len(found) > before else walk.place.offset
            if rest is None:
                walk.done()
            else:
                walk.reached(rest)
            if len(found) < len(wanted):
                break
    return {"messages": found, **own, **_cursor(walk)}


async def _own(tools: Tools, call: Call, cursor: str) -> tuple[Result, str, bool]:
    """Return what is kept of the caller beside messages, if this page is to have it.

    Also where to go on, and whether with more of the same.
    """
    if not call.user or (cursor and not cursor.startswith(_PLACES)):
        return {}, cursor, False
    page = await tools.markers.page(call.user, call.namespace, cursor.removeprefix(_PLACES), _PLACES_AT_ONCE)
    own: dict[str, Any] = {"places": [place_of(channel, place) for channel, place in page.places]}
    if not cursor:
        own["devices"] = await devices_of(tools, call.user)
        own["preferences"] = {"receipts": (await tools.markers.user_preferences(call.user)).receipts}
    return own, f"{_PLACES}{page.after}" if page.after else "", page.after is not None


async def erase(tools: Tools, call: Call, request: r.MeErase) -> Result:
    """Delete what the caller wrote, and the devices; leave conversations where asked."""
    walk = _walk(tools, call, request.cursor)
    if not request.cursor:
        await tools.devices.forget(call.user)
    platform = dataclasses.replace(call, user=PLATFORM, info=None)
    purged, done = 0, False
    async with _for_a_time() as has_time:
        while has_time() and (channel := await walk.next()) is not None:
            live = await tools.traces.conversation(channel)
            if live.state.phase in (Phase.ACTIVE, Phase.CLOSED):
                try:
                    if request.leave:  # before the purge: nothing of the user can come behind it
                        await _leave(tools, platform, live, call.user)
                    has_purged, is_done = await _purge(tools, platform, walk, call.user, has_time)
                    purged += has_purged
                    if not is_done:
                        break
                except RefusedCall as error:
                    if error.refusal.code not in _GONE:
                        raise
            walk.done()
        if walk.is_done:
            await _forget_places(tools, call)
            done = True
    more = {} if done else {"cursor": walk.place.as_cursor()}
    return {"done": done, "conversations": purged, **more}


async def _forget_places(tools: Tools, call: Call) -> None:
    """Forget the caller's markers and preferences, in the namespace.

    What the caller wants everywhere stays: who is told nothing of the caller must not be told again elsewhere.
    """
    places: list[Of] = []
    after: str | None = ""
    while after is not None:
        page = await tools.markers.page(call.user, call.namespace, after, _PLACES_AT_ONCE)
        places += [Of(call.user, channel) for channel, _ in page.places]
        after = page.after
    for start in range(0, len(places), _PLACES_AT_ONCE):
        await tools.markers.forget(places[start : start + _PLACES_AT_ONCE])


def _walk(tools: Tools, call: Call, cursor: str) -> Walk:
    if not call.user:
        raise malformed("whose messages is said by `as`")
    try:
        return tools.traces.walk(call.user, call.namespace, Place.of(cursor))
    except ValueError as error:
        raise malformed(str(error)) from None


def _cursor(walk: Walk) -> Result:
    return {} if walk.is_done else {"cursor": walk.place.as_cursor()}


@contextlib.asynccontextmanager
async def _for_a_time() -> AsyncIterator[Callable[[], bool]]:
    """Context manager: work that ends after a while, wherever it is.

    It gives a function that says whether there is time to begin something.
    """
    clock = asyncio.get_running_loop().time
    began = clock()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_ENDS_S):
            yield lambda: clock() < began + _WORK_S


async def _is_elsewhere(tools: Tools, walk: Walk, channel: str) -> bool:
    """Whether nothing is to be exported here.

    It is deleted, or will be found in the directory or among the moved ones.
    """
    state = (await tools.traces.conversation(channel)).state
    return state.phase not in (Phase.ACTIVE, Phase.CLOSED) or await walk.comes_later(channel, state)


async def _leave(tools: Tools, platform: Call, live: Live, user: str) -> None:
    """End a membership, or an invitation.

    In an open conversation a role ends, but not that of a reader, who could write without it.
    """
    state = live.state
    member = state.members.get(user)
    if state.type is Type.DIRECT or (member is None and user not in state.invited):
        return
    if state.type is not Type.OPEN:
        done = await tools.write(platform, live.channel, {"kind": "member", "op": "remove", "user": user}, "")
    elif member is not None and member.role is not Role.READER:  # nobody is removed there
        oneself = dataclasses.replace(platform, user=user, info=ClientInfo(user=user))
        done = await tools.write(oneself, live.channel, {"kind": "member", "op": "leave"}, "")
    else:
        return
    await tools.settle(live.channel)
    await tools.notify(platform, user, "removed", live.channel, done)


async def _purge(
    tools: Tools, platform: Call, walk: Walk, user: str, has_time: Callable[[], bool]
) -> tuple[bool, bool]:
    """Erase the user from the rest of a conversation.

    Returns whether there were messages, and whether it is done.
    """
    has_purged = False
    while has_time():
        live = await tools.traces.conversation(walk.place.channel)
        looked = await tools.traces.strip(live, user, walk.place.offset)
        if looked.wrote:
            event = {"kind": "purge", "user": user, "upto": live.position}
            # The same again, if the former call ended before its purge could be read.
            key = f"erase:{hashlib.sha256(user.encode()).hexdigest()}:{live.position}"
            done = await tools.write(platform, live.channel, event, key, PLATFORM)
            has_purged = has_purged or done.why is None
        if looked.last is None:
            return has_purged, True
        walk.reached(looked.last)
    return has_purged, False
