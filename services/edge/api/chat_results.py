"""Results of the methods on conversations, for OpenAPI only.

Persistence writes them. The docstrings of the structs are their descriptions; each is one paragraph.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from services.shared.chat_methods import METHODS
from services.shared.chat_requests import Attachment, Right, Role

Platform = Literal["webpush", "fcm", "apns"]
Offset = Annotated[int, msgspec.Meta(ge=0)]


class _Result(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of all results."""


class AsOf(_Result):
    """The position of the log for which an answer holds."""

    epoch: str
    offset: Offset


class Written(_Result):
    """Where the event stands in the log, and whether it applies.
    `why`: why it changes nothing; absent: it applies. `offset` and `epoch` are absent if it has no place in the log.
    """

    channel: str
    applied: bool
    offset: Offset | UnsetType = UNSET
    epoch: str | UnsetType = UNSET
    why: str | UnsetType = UNSET


class Created(Written, kw_only=True):
    """The channel of the conversation, and where its creation stands in the log.
    `not_added`: users who could not be added, and why; absent: none.
    """

    not_added: dict[str, str] | UnsetType = UNSET


class Sent(Written, kw_only=True):
    """Where the message stands in the log. `id`: channel and offset."""

    id: str | UnsetType = UNSET


class Place(_Result):
    """The caller's place: the role, or the one that joining gives.
    `since`: offset of the event that made the caller a member. `from`: history is visible above this offset.
    `silenced_until`: Unix milliseconds.
    """

    role: Role | UnsetType = UNSET
    invited: Role | UnsetType = UNSET
    since: Offset | UnsetType = UNSET
    history_from: Offset | UnsetType = msgspec.field(default=UNSET, name="from")
    silenced_until: int | UnsetType = UNSET


class AllSettings(_Result):
    """All settings of a conversation; `rights` has those that differ from the default."""

    edit_window_s: int | None
    delete_window_s: int | None
    slow_mode_s: int
    unique_reactions: bool
    versions: str
    history: str
    join: str
    max_members: int
    rights: dict[Right, Role]


class ConversationResult(_Result):
    """A conversation. Who is only invited sees no more than what is always there.
    `members_n`: number of members; `n`: of messages that count, also deleted ones. `me` is null for a backend.
    `unread` and what follows are as in `markers.get`, and absent for a backend.
    """

    channel: str
    type: str
    name: str
    phase: str
    me: Place | None
    as_of: AsOf
    settings: AllSettings | UnsetType = UNSET
    owner: str | UnsetType | None = UNSET
    members_n: Offset | UnsetType = UNSET
    n: Offset | UnsetType = UNSET
    unread: Offset | UnsetType = UNSET
    mentions: Offset | UnsetType = UNSET
    at_least: bool | UnsetType = UNSET
    pending: bool | UnsetType = UNSET


class Marker(_Result):
    """Up to where a conversation is read; 0: not at all."""

    generation: Offset
    offset: Offset


class ReadUpTo(_Result):
    """How far the caller has read a conversation, and what is unread.
    `delivered`: the newest message that a device of the caller has. `unread`, `mentions`: messages of others above the
    marker, and those that mention the caller. `at_least`: there may be more; `pending`: some are being deleted, and are
    left out.
    """

    channel: str
    marker: Marker
    delivered: Offset
    unread: Offset
    mentions: Offset
    as_of: AsOf
    at_least: bool | UnsetType = UNSET
    pending: bool | UnsetType = UNSET


class Listed(_Result):
    """An own conversation.
    `with`: the other user of a direct one. `invited`: the role that joining gives.
    """

    channel: str
    type: str
    name: str
    phase: str
    as_of: AsOf
    other: str | UnsetType = msgspec.field(default=UNSET, name="with")
    role: Role | UnsetType = UNSET
    invited: Role | UnsetType = UNSET
    since: Offset | UnsetType = UNSET
    n: Offset | UnsetType = UNSET


class ConversationPage(_Result):
    """Own conversations by channel.
    `cursor`: of the next page; absent: this is the last one.
    """

    conversations: list[Listed]
    cursor: str | UnsetType = UNSET


class InboxMarker(_Result):
    """Up to where a conversation is read; of two the greater one counts."""

    generation: Offset
    offset: Offset


class LastMessage(_Result):
    """The newest message that is not deleted, and in no thread.
    `text`: its first 140 characters. `attachments`: how many, if any. `time`: Unix milliseconds.
    """

    offset: Offset
    author: str
    time: Offset
    text: str
    attachments: Offset | UnsetType = UNSET
    edited: bool | UnsetType = UNSET


class InboxEntry(_Result):
    """An own conversation in the inbox; with `removed` it is none any more.
    `time`: of the last message, or change of members or of the conversation. `n`: messages that count, also deleted
    ones. `unread`, `mentions`: with `at_least` there may be more, with `pending` some are just being deleted.
    """

    channel: str
    type: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    phase: str | UnsetType = UNSET
    as_of: AsOf | UnsetType = UNSET
    other: str | UnsetType = msgspec.field(default=UNSET, name="with")
    invited: Role | UnsetType = UNSET
    role: Role | UnsetType = UNSET
    time: Offset | UnsetType = UNSET
    n: Offset | UnsetType = UNSET
    offset: Offset | UnsetType = UNSET
    marker: InboxMarker | UnsetType = UNSET
    unread: Offset | UnsetType = UNSET
    mentions: Offset | UnsetType = UNSET
    at_least: bool | UnsetType = UNSET
    pending: bool | UnsetType = UNSET
    muted: bool | UnsetType = UNSET
    archived: bool | UnsetType = UNSET
    last: LastMessage | UnsetType = UNSET
    removed: bool | UnsetType = UNSET


class InboxPage(_Result):
    """Own conversations by last activity.
    `since`: to ask later what changed since the first page. `all`: these are all, not only what changed. `cursor`: of
    the next page; absent: this is the last one. `truncated`: there are more than inboxes look at.
    """

    conversations: list[InboxEntry]
    since: str
    all: bool
    cursor: str | UnsetType = UNSET
    truncated: bool | UnsetType = UNSET


class OpenConversation(_Result):
    """An open conversation."""

    channel: str
    name: str


class Directory(_Result):
    """Open conversations by name.
    `cursor`: of the next page; absent: this is the last one.
    """

    conversations: list[OpenConversation]
    cursor: str | UnsetType = UNSET


class NameFound(_Result):
    """An own conversation that is found by its name.
    `with`: the other user of a direct one. `time`: of its last message, or change.
    """

    channel: str
    type: str
    name: str
    time: Offset
    as_of: AsOf
    other: str | UnsetType = msgspec.field(default=UNSET, name="with")


class NamesFound(_Result):
    """Own conversations by channel, and open ones by name.
    `cursor`: of the next page of the own ones; absent: this is the last one. `open`: on the first page, those whose
    names begin with the query. `truncated`: there are more own ones than are looked at.
    """

    conversations: list[NameFound]
    open: list[OpenConversation] | UnsetType = UNSET
    cursor: str | UnsetType = UNSET
    truncated: bool | UnsetType = UNSET


class ChatMember(_Result):
    """A member. `since`: offset of the event that made the user a member."""

    user: str
    role: Role
    since: Offset


class InvitedUser(_Result):
    """Somebody invited, and the role that joining gives."""

    user: str
    role: Role


class BannedUser(_Result):
    """Somebody banned. `until`: Unix milliseconds; null: for good."""

    user: str
    until: int | None


class ChatMembers(_Result):
    """Members by user.
    The first page has who is invited and, for who may ban, who is banned. `cursor`: of the next page; absent: this is
    the last one.
    """

    members: list[ChatMember]
    as_of: AsOf
    invited: list[InvitedUser] | UnsetType = UNSET
    banned: list[BannedUser] | UnsetType = UNSET
    cursor: str | UnsetType = UNSET


class Reacted(_Result):
    """How many reacted so, and whether the caller did."""

    count: Offset
    me: bool


class Text(_Result):
    """What a message says."""

    text: str | UnsetType = UNSET
    format: str | UnsetType = UNSET
    attachments: list[Attachment] | UnsetType = UNSET
    mentions: list[str] | UnsetType = UNSET
    mention_all: bool | UnsetType = UNSET
    meta: dict[str, Any] | UnsetType = UNSET


class MessageResult(Text, kw_only=True):
    """A message.
    Of a deleted one there are `offset`, `time`, `deleted` and `by`, the offset of the event that deleted it. `time`:
    Unix milliseconds. `rev`: offset of the event that has the content. `replies`: messages in its thread.
    """

    offset: Offset
    time: Offset
    channel: str | UnsetType = UNSET
    id: str | UnsetType = UNSET
    author: str | UnsetType = UNSET
    reply_to: Offset | UnsetType | None = UNSET
    thread: Offset | UnsetType | None = UNSET
    rev: Offset | UnsetType = UNSET
    edited: bool | UnsetType = UNSET
    reactions: dict[str, Reacted] | UnsetType = UNSET
    replies: Offset | UnsetType = UNSET
    pinned: bool | UnsetType = UNSET
    deleted: bool | UnsetType = UNSET
    by: Offset | UnsetType = UNSET


class OneMessage(MessageResult, kw_only=True):
    """A message, and the position for which that holds."""

    as_of: AsOf


class MessagesFound(_Result):
    """Messages that are found, each as of the position of its conversation.
    `cursor`: of the next page; absent: this is the last one. `incomplete`: not all messages could be looked at: they
    are just being indexed, or the user has more conversations than are looked at.
    """

    messages: list[OneMessage]
    cursor: str | UnsetType = UNSET
    incomplete: bool | UnsetType = UNSET


class MessagePage(_Result):
    """Messages, the newest last.
    `more`: there are more; `before` and `after`: with which to ask for them.
    """

    messages: list[MessageResult]
    as_of: AsOf
    more: bool
    before: Offset | UnsetType = UNSET
    after: Offset | UnsetType = UNSET


class MessageVersion(Text, kw_only=True):
    """What a message said from the event at offset `rev` on; `erased`: that is gone."""

    rev: Offset
    time: Offset
    erased: bool | UnsetType = UNSET


class MessageVersions(_Result):
    """Versions of a message, the oldest first; the last 100."""

    channel: str
    offset: Offset
    versions: list[MessageVersion]
    as_of: AsOf


class Reactions(_Result):
    """Users by reaction, in the order in which they reacted."""

    channel: str
    offset: Offset
    reactions: dict[str, list[str]]
    as_of: AsOf


class Pinned(_Result):
    """Pinned messages, in the order in which they were pinned; the last 100."""

    messages: list[MessageResult]
    as_of: AsOf


class MarkerResult(_Result):
    """The marker: all up to `offset` is read.
    `generation`: rises when something is marked as unread. `delivered`: up to where a device has it. `moved`: whether
    this call changed anything.
    """

    channel: str
    generation: Offset
    offset: Offset
    delivered: Offset
    moved: bool
    as_of: AsOf


class Reader(_Result):
    """A member who has read or got a message."""

    user: str


class ReceiptPage(_Result):
    """Other members, by user, who have read a message, and to whom it was delivered.
    `cursor`: of the next page; absent: this is the last one. A page may be empty.
    """

    channel: str
    offset: Offset
    read: list[Reader]
    delivered: list[Reader]
    as_of: AsOf
    cursor: str | UnsetType = UNSET


class PreferencesResult(_Result):
    """What the caller wants of a conversation.
    `muted_until`: Unix milliseconds; absent: `muted` for good, or not at all.
    """

    channel: str
    muted: bool
    archived: bool
    notify: str
    muted_until: int | UnsetType = UNSET


class OwnPreferences(_Result):
    """What the caller wants everywhere."""

    receipts: str


class OwnPlace(_Result):
    """Up to where the caller has read a conversation, and what the caller wants of it."""

    channel: str
    generation: Offset
    offset: Offset
    delivered: Offset
    muted: bool
    archived: bool
    notify: str
    muted_until: int | UnsetType = UNSET


class OwnMessage(Text, kw_only=True):
    """An own message.
    `time`: Unix milliseconds. `rev`: offset of the event that has the content.
    """

    channel: str
    offset: Offset
    id: str
    time: Offset
    reply_to: Offset | None
    thread: Offset | None
    rev: Offset
    edited: bool


class TypingResult(_Result):
    """Whether the others are told.
    `why`: why not: `too_soon` (they were told less than 3 s ago), `too_many_members`, or `unchanged`.
    """

    channel: str
    told: bool
    why: str | UnsetType = UNSET


class DeviceResult(_Result):
    """A device that gets notifications.
    `address`: the host of an endpoint, or the end of a token. `set`: when it was set last, Unix milliseconds.
    """

    id: str
    platform: Platform
    address: str
    set: Offset


class DeviceList(_Result):
    """The devices, the oldest setting first."""

    devices: list[DeviceResult]


class DeviceChanged(_Result):
    """Whether it changed something. `why`: why not."""

    id: str
    applied: bool
    why: str | UnsetType = UNSET


class Exported(_Result):
    """Own messages by conversation, the oldest first.
    `places`, of the first pages, `devices` and `preferences`, of the first one: what is kept of the caller beside
    messages. `cursor`: of the next page, also if this one is empty; absent: this is the last one.
    """

    messages: list[OwnMessage]
    devices: list[DeviceResult] | UnsetType = UNSET
    places: list[OwnPlace] | UnsetType = UNSET
    preferences: OwnPreferences | UnsetType = UNSET
    cursor: str | UnsetType = UNSET


class EraseResult(_Result):
    """How far it has come.
    `conversations`: in how many this call deleted something. `cursor`: with which to call again until it is `done`.
    """

    done: bool
    conversations: Offset
    cursor: str | UnsetType = UNSET


_OF_READS: dict[str, type[msgspec.Struct]] = {
    "conversations.get": ConversationResult,
    "conversations.list": ConversationPage,
    "inbox.list": InboxPage,
    "conversations.directory": Directory,
    "conversations.search": NamesFound,
    "messages.search": MessagesFound,
    "members.list": ChatMembers,
    "messages.get": OneMessage,
    "messages.list": MessagePage,
    "messages.between": MessagePage,
    "messages.thread": MessagePage,
    "messages.versions": MessageVersions,
    "reactions.list": Reactions,
    "pins.list": Pinned,
    "markers.get": ReadUpTo,
    "typing.start": TypingResult,
    "typing.stop": TypingResult,
    "devices.set": DeviceChanged,
    "devices.remove": DeviceChanged,
    "devices.list": DeviceList,
    "markers.read": MarkerResult,
    "markers.unread": MarkerResult,
    "markers.delivered": MarkerResult,
    "receipts.list": ReceiptPage,
    "conversations.preferences": PreferencesResult,
    "me.preferences": OwnPreferences,
    "me.export": Exported,
}
_OF_WRITES: dict[str, type[msgspec.Struct]] = {
    "conversations.create": Created,
    "messages.send": Sent,
    "me.erase": EraseResult,
}
RESULTS_BY_METHOD: dict[str, type[msgspec.Struct]] = {
    name: _OF_WRITES.get(name, Written) if method.writes else _OF_READS[name] for name, method in METHODS.items()
}
