"""What clients get of conversations, members and messages, as JSON-like values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from services.persistence.chat.domain.state import Content, Conversation, Deleted, Member, Message, Type
from services.persistence.chat.live import Live
from services.persistence.chat.markers.record import Place as ReadUpTo
from services.persistence.chat.pages import Page, Shown, Version
from services.persistence.chat.unread.counts import Unread

MAX_BYTES = 1 << 20  # of the messages of an answer, which a gRPC message must hold
Json = dict[str, Any]
_encode = msgspec.json.Encoder().encode


def as_of(live: Live, position: int) -> Json:
    """Return the position that an answer holds for."""
    return {"epoch": live.epoch, "offset": position}


def message(channel: str, shown: Shown, user: str) -> Json:
    """Return a message as `user` sees it, or what is left of a deleted one."""
    offset, found = shown.offset, shown.message
    if isinstance(found, Deleted):
        return {"offset": offset, "deleted": True, "by": found.by, "time": shown.time_ms}
    return {
        "channel": channel,
        "offset": offset,
        "id": f"{channel}/{offset}",
        "author": found.author,
        "time": shown.time_ms,
        **content(found.content),
        "reply_to": found.reply_to,
        "thread": found.thread,
        "rev": found.rev,
        "edited": found.rev != offset,
        "reactions": {name: {"count": len(users), "me": user in users} for name, users in found.reactions.items()},
        "replies": found.replies,
        "pinned": found.pinned,
    }


def is_by(shown: Shown, author: str) -> bool:
    """Whether it is a message of an author that is not deleted."""
    return isinstance(shown.message, Message) and shown.message.author == author


def own(channel: str, shown: Shown) -> Json:
    """Return a message without what others added to it."""
    offset, found = shown.offset, shown.message
    assert isinstance(found, Message)
    return {
        "channel": channel,
        "offset": offset,
        "id": f"{channel}/{offset}",
        "time": shown.time_ms,
        **content(found.content),
        "reply_to": found.reply_to,
        "thread": found.thread,
        "rev": found.rev,
        "edited": found.rev != offset,
    }


def conversation(live: Live, user: str, now_ms: int) -> Json:
    """Return a conversation, and the place of `user` in it.

    Somebody invited sees what it is, and not how much is in it.
    """
    state = live.state
    member = state.members.get(user)
    about: Json = {
        "channel": live.channel,
        "type": state.type,
        "name": state.name,
        "phase": state.phase,
        "me": _place(state, user, member, now_ms),
        "as_of": as_of(live, live.position),
    }
    if user in state.invited and member is None:
        return about
    return {
        **about,
        "settings": state.settings.as_json(),
        "owner": state.owner(),
        "members_n": len(state.members),
        "n": state.n,
    }


def unread(found: Unread) -> Json:
    """Return how much is unread, and what is not sure about it."""
    doubts = {"at_least": found.at_least, "pending": found.pending}
    return {"unread": found.unread, "mentions": found.mentions, **{name: True for name, it in doubts.items() if it}}


def marker(live: Live, place: ReadUpTo, found: Unread) -> Json:
    """Return how far a user has read a conversation, and what is unread."""
    generation, offset = place.marker
    return {
        "channel": live.channel,
        "marker": {"generation": generation, "offset": offset},
        "delivered": place.delivered,
        **unread(found),
        "as_of": as_of(live, found.as_of),
    }


def _place(state: Conversation, user: str, member: Member | None, now_ms: int) -> Json | None:
    """Return the role of a user, or the invitation; None without either."""
    until = state.silenced.get(user, 0)
    silenced = {"silenced_until": until} if until > now_ms else {}
    if member is not None:
        return {"role": member.role, "since": member.since, "from": member.history_from, **silenced}
    if user in state.invited:
        return {"invited": state.invited[user]}
    return {"role": "member", **silenced} if state.type is Type.OPEN and user else None


def listed(live: Live, user: str) -> Json | None:
    """Return an entry of a user's list; None: neither a member nor invited."""
    state = live.state
    member, invited = state.members.get(user), state.invited.get(user)
    if member is None and invited is None:
        return None
    entry = {"channel": live.channel, "type": state.type, "name": state.name, "phase": state.phase}
    if member is None:
        return {**entry, "invited": invited, "as_of": as_of(live, live.position)}
    others = [other for other in state.members if other != user] if state.type is Type.DIRECT else []
    return {
        **entry,
        **({"with": others[0] if others else user} if state.type is Type.DIRECT else {}),
        "role": member.role,
        "since": member.since,
        "n": state.n,
        "as_of": as_of(live, live.position),
    }


def person(user: str, member: Member) -> Json:
    """Return an entry of the list of members."""
    return {"user": user, "role": member.role, "since": member.since}


def version(one: Version) -> Json:
    """Return one version of a message."""
    said = {"erased": True} if one.content is None else content(one.content)
    return {"rev": one.offset, "time": one.time_ms, **said}


def content(one: Content) -> Json:
    """Return what a message says."""
    return {
        "text": one.text,
        "format": one.format,
        "attachments": one.attachments,
        "mentions": one.mentions,
        "mention_all": one.mention_all,
        "meta": one.meta,
    }


def edges(page: Page) -> Json:
    """Return whether there are more, and `before` or `after` for going on."""
    rest = {name: offset for name, offset in (("before", page.older), ("after", page.newer)) if offset is not None}
    return {"more": bool(rest), **rest}


def fitting(entries: Iterable[Json]) -> list[msgspec.Raw]:
    """Return the first entries, as JSON, that fit into an answer; at least one."""
    found: list[msgspec.Raw] = []
    left = MAX_BYTES
    for entry in entries:
        text = _encode(entry)
        left -= len(text)
        if left < 0 and found:
            break
        found.append(msgspec.Raw(text))
    return found
