"""Methods on markers: what a user has read and got, and wants; and who has read.

A marker is moved once Redis has it. The user's other devices are told on the personal channel, the other members by a
receipt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import UNSET

from services.persistence.chat import views
from services.persistence.chat.live import Live
from services.persistence.chat.markers.ports import Of
from services.persistence.chat.markers.record import (
    FOR_GOOD_MS,
    Place,
    Preferences,
    Record,
    UserPreferences,
    preferences_of,
    settings_of,
    user_preferences_of,
    user_settings_of,
)
from services.persistence.chat.methods.context import Call, Result, Tools
from services.persistence.chat.new_events import Refused
from services.persistence.chat.refused_call import RefusedCall, malformed
from services.shared import chat_requests as r
from services.shared.errors import ErrorCode


async def read(tools: Tools, call: Call, request: r.MarkersMove) -> Result:
    """Mark all up to an offset as read."""
    generation = _generation(request)
    return await _move(tools, call, request, lambda record: record.read(request.offset, generation))


async def unread(tools: Tools, call: Call, request: r.MarkersMove) -> Result:
    """Mark an offset and all above as unread."""
    generation = _generation(request)

    def change(record: Record) -> Record:
        if (record.generation if generation is None else generation) >= r.MAX_GENERATION:
            raise malformed("it was marked as unread too often")
        return record.unread(request.offset, generation)

    return await _move(tools, call, request, change)


async def delivered(tools: Tools, call: Call, request: r.MarkersDelivered) -> Result:
    """Note that a device has all up to an offset."""
    return await _move(
        tools, call, request, lambda record: record.merged(Record(delivered=request.offset, epoch=record.epoch))
    )


async def receipts(tools: Tools, call: Call, request: r.ReceiptsList) -> Result:
    """Return which other members have read, and got, a message."""
    live = await tools.queries.seen(request.channel, call.user)
    _check_place(live, request.offset, "")
    most = call.options.receipts_max_members
    if not tools.receipts.are_told(live, most):
        text = f"who has read is told in groups of at most {most} members"
        raise RefusedCall(Refused(ErrorCode.LIMIT_EXCEEDED, "too_many", text))
    members = live.state.members
    others = sorted(user for user in members if user != call.user and user > request.cursor)
    page = others[: request.limit]
    told = await tools.markers.preferences_of(page)
    places = await tools.markers.of_channel(request.channel, page)
    answer: dict[str, Any] = {"channel": request.channel, "offset": request.offset, "read": [], "delivered": []}
    for user in page:
        if told[user].receipts == "private" or (member := members.get(user)) is None:
            continue
        if member.history_from >= request.offset:  # it can't be seen, whatever the marker says
            continue
        place = places[user].within(live.epoch)
        if place.marker.offset >= request.offset:
            answer["read"].append({"user": user})
        if place.delivered >= request.offset:
            answer["delivered"].append({"user": user})
    more = {"cursor": page[-1]} if len(others) > len(page) else {}
    return {**answer, **more, "as_of": views.as_of(live, live.position)}


async def preferences(tools: Tools, call: Call, request: r.ConversationsPreferences) -> Result:
    """Set what the caller wants of a conversation; return all of it."""
    _check_user(call)
    live = await tools.queries.seen(request.channel, call.user)

    def change(record: Record) -> Record:
        before = preferences_of(record.settings)
        after = _changed(before, request)
        return record if after == before else record.set(settings_of(after), tools.now_ms())

    old, new = await tools.markers.change(call.user, request.channel, live.epoch, change)
    found = _preferences(preferences_of(new.settings))
    if new != old:
        await tools.markers.keep(Of(call.user, request.channel))
        call.notices.append((call.user, {"kind": "preferences", "channel": request.channel, **found}))
    return {"channel": request.channel, **found}


async def own_preferences(tools: Tools, call: Call, request: r.MePreferences) -> Result:
    """Return what the caller wants everywhere; set what is given."""
    _check_user(call)

    def change(record: Record) -> Record:
        before = user_preferences_of(record.settings)
        after = before if request.receipts is UNSET else UserPreferences(receipts=request.receipts)
        return record if after == before else record.set(user_settings_of(after), tools.now_ms())

    old, new = await tools.markers.change(call.user, "", "", change)
    if new != old:
        await tools.markers.keep(Of(call.user, ""))
    return {"receipts": user_preferences_of(new.settings).receipts}


async def _move(
    tools: Tools, call: Call, request: r.MarkersMove | r.MarkersDelivered, change: Callable[[Record], Record]
) -> Result:
    """Move the caller's marker, and tell of it."""
    _check_user(call)
    channel = request.channel
    live = await tools.queries.seen(channel, call.user)
    _check_place(live, request.offset, "" if request.epoch is UNSET else request.epoch)
    epoch, position = live.epoch, live.position
    old, new = await tools.markers.change(call.user, channel, epoch, change)
    marker = {"generation": new.generation, "offset": new.offset}
    if new.marker != old.marker:
        call.notices.append((call.user, {"kind": "marker", "channel": channel, **marker}))
    if new.delivered > old.delivered or (new.marker > old.marker and new.generation == old.generation):
        await tools.receipts.moved(live, call.user, call.options.receipts_max_members)
    return {
        "channel": channel,
        **marker,
        "delivered": new.delivered,
        "moved": new != old,
        "as_of": {"epoch": epoch, "offset": position},
    }


def _generation(request: r.MarkersMove) -> int | None:
    return None if request.generation is UNSET else request.generation


def _check_user(call: Call) -> None:
    if not call.user:
        raise malformed("whose marker is said by `as`")


def _check_place(live: Live, offset: int, epoch: str) -> None:
    """Refuse an offset that the log does not have.

    Raises:
        RefusedCall: 107.
    """
    if epoch and epoch != live.epoch:
        raise malformed("the log has another epoch: read it again")
    if offset > live.position:
        raise malformed(f"the log ends at {live.position}")


def _changed(before: Preferences, request: r.ConversationsPreferences) -> Preferences:
    after = before
    if request.muted is not UNSET:
        after = after._replace(muted_until_ms=FOR_GOOD_MS if request.muted else None)
    if request.muted_until is not UNSET:
        after = after._replace(muted_until_ms=request.muted_until)
    if request.archived is not UNSET:
        after = after._replace(archived=request.archived)
    if request.notify is not UNSET:
        after = after._replace(notify=request.notify)
    return after


def place_of(channel: str, place: Place) -> dict[str, Any]:
    """Return a place as its user sees it."""
    marker = {"generation": place.marker.generation, "offset": place.marker.offset}
    return {"channel": channel, **marker, "delivered": place.delivered, **_preferences(place.preferences)}


def _preferences(found: Preferences) -> dict[str, Any]:
    """Return preferences as clients see them."""
    until = found.muted_until_ms
    muted = {"muted": until is not None} if until in (None, FOR_GOOD_MS) else {"muted": True, "muted_until": until}
    return {**muted, "archived": found.archived, "notify": found.notify}
