"""Requests of the methods on conversations: what clients may send.

All bounds are here. Persistence decodes them; the edge makes OpenAPI of them. Which method takes which of them is in
`chat_methods.py`. The docstrings of the structs are their descriptions in OpenAPI; each is one paragraph. Members that
were not sent are not encoded either.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, get_args

import msgspec
from msgspec import UNSET, Meta, UnsetType

from services.shared.text_rules import TextRule

MAX_OFFSET = 2**53 - 1  # JavaScript has the same integers up to here
MAX_GENERATION = 2**31 - 1  # of a marker
MAX_KEY_BYTES = 128
MAX_USERS = 100  # that one `conversations.create` adds
MAX_MESSAGES = 100  # of a page
MAX_ENTRIES = 1_000  # of a page of members or conversations

LINK = TextRule("^https?://", "an address that begins with http:// or https://")
CONVERSATION_ID = TextRule(
    r"^[a-z0-9][a-z0-9._-]{0,63}$(?!\n)", "1 to 64 of a-z, 0-9, dot, underscore and hyphen, and begins with a-z or 0-9"
)

DEVICE_ID = TextRule(
    r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$(?!\n)",
    "1 to 64 of letters, digits, dot, underscore, colon and hyphen, and begins with a letter or digit",
)
TOKEN = TextRule(  # APNs has it in a path
    r"^[A-Za-z0-9][A-Za-z0-9:_=.-]*$(?!\n)", "letters, digits, colon, underscore, equals sign, dot and hyphen"
)

Offset = Annotated[int, Meta(ge=1, le=MAX_OFFSET)]
TimeMs = Annotated[int, Meta(ge=0, le=MAX_OFFSET)]
UserId = Annotated[str, Meta(min_length=1, max_length=255)]
Channel = Annotated[str, Meta(min_length=1, max_length=1_024)]
Namespace = Annotated[str, Meta(max_length=64)]
Key = Annotated[str, Meta(max_length=MAX_KEY_BYTES)]
Cursor = Annotated[str, Meta(max_length=2_048)]
LongCursor = Annotated[str, Meta(max_length=4_096)]
Name = Annotated[str, Meta(max_length=128)]
ReactionName = Annotated[str, Meta(min_length=1, max_length=64)]
Role = Literal["reader", "member", "moderator", "admin", "owner"]
Right = Literal["react", "post", "edit", "invite", "moderate", "silence", "remove", "pin", "manage", "own"]
JsonObject = dict[str, msgspec.Raw]
Messages = Annotated[int, Meta(ge=1, le=MAX_MESSAGES)]
Entries = Annotated[int, Meta(ge=1, le=MAX_ENTRIES)]
_Seconds = Annotated[int, Meta(ge=0, le=10 * 365 * 86_400)]
_Size = Annotated[int, Meta(ge=1, le=1_000_000)]
_RIGHTS = Meta(extra_json_schema={"propertyNames": {"enum": list(get_args(Right))}})


class Attachment(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is known of a file that lies elsewhere."""

    id: Annotated[str, Meta(min_length=1, max_length=128)]
    name: Annotated[str, Meta(max_length=255)] = ""
    type: Annotated[str, Meta(max_length=127)] = ""
    bytes: TimeMs = 0
    url: Annotated[str, Meta(max_length=2_048, pattern=LINK.pattern)] | UnsetType = UNSET
    width: _Size | UnsetType = UNSET
    height: _Size | UnsetType = UNSET


class Settings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Settings of a conversation; those left out stay as they are."""

    edit_window_s: _Seconds | UnsetType | None = UNSET
    delete_window_s: _Seconds | UnsetType | None = UNSET
    slow_mode_s: _Seconds | UnsetType = UNSET
    unique_reactions: bool | UnsetType = UNSET
    versions: Literal["keep", "erase"] | UnsetType = UNSET
    history: Literal["all", "joined"] | UnsetType = UNSET
    join: Literal["invited", "anyone"] | UnsetType = UNSET
    max_members: Annotated[int, Meta(ge=1, le=10_000)] | UnsetType = UNSET
    rights: Annotated[dict[Right, Role], _RIGHTS] | UnsetType = UNSET


def _has(*members: str) -> dict[str, Any]:
    return {"required": list(members)}


class ChatRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of all requests.

    `json_schema`: rules of several members, which the types can't say.
    """

    json_schema: ClassVar[dict[str, Any]] = {}

    def given(self) -> dict[str, Any]:
        """Return what was sent and differs from defaults, by the names in JSON."""
        members: dict[str, Any] = msgspec.to_builtins(self, builtin_types=(msgspec.Raw,))
        return members


class OfChannel(ChatRequest, kw_only=True):
    """A request that names a conversation and nothing else."""

    channel: Channel


class Write(ChatRequest, kw_only=True):
    """Base of requests that change something.
    `key`: idempotency key; a repeat with the same one within 300 seconds changes nothing and has the first one's reply.
    """

    key: Key = ""


class ChangeChannel(Write, kw_only=True):
    """A conversation that is changed.
    `key`: idempotency key; a repeat with the same one within 300 seconds changes nothing and has the first one's reply.
    """

    channel: Channel


class ConversationsCreate(Write, kw_only=True):
    """The conversation to create.
    `users`: to add at once, 100 at most; of a `direct` one the other user, or for a backend both. `id`: the readable
    name in the channel of an `open` one. `namespace`: where it is to lie, if there are several for conversations.
    """

    type: Literal["direct", "group", "open"] = "group"
    name: Name = ""
    users: Annotated[list[UserId], Meta(max_length=MAX_USERS)] = []
    settings: Settings | UnsetType = UNSET
    id: Annotated[str, Meta(pattern=CONVERSATION_ID.pattern)] | UnsetType = UNSET
    namespace: Namespace = ""
    json_schema: ClassVar[dict[str, Any]] = {
        "anyOf": [{"not": _has("id")}, {**_has("type"), "properties": {"type": {"const": "open"}}}]
    }

    def __post_init__(self) -> None:
        if self.id is not UNSET and self.type != "open":
            raise ValueError("only an `open` conversation has an `id`")


class ConversationsUpdate(ChangeChannel, kw_only=True):
    """The conversation, and its new name and settings; what is left out stays."""

    name: Name | UnsetType = UNSET
    settings: Settings | UnsetType = UNSET
    json_schema: ClassVar[dict[str, Any]] = {"anyOf": [_has("name"), _has("settings")]}

    def __post_init__(self) -> None:
        if self.name is UNSET and self.settings is UNSET:
            raise ValueError("neither `name` nor `settings`")


class ConversationsList(ChatRequest, kw_only=True):
    """A page of the own conversations.
    `limit`: of a page, 1,000 at most. `cursor`: that of the page before. `namespace`: only those that lie there.
    """

    limit: Entries = 100
    cursor: Cursor = ""
    namespace: Namespace = ""


class InboxList(ChatRequest, kw_only=True):
    """A page of the own inbox.
    `limit`: of a page, 100 at most. `cursor`: that of the page before. `since`: that of an earlier answer: only what
    changed. `namespace`: only those that lie there.
    """

    limit: Annotated[int, Meta(ge=1, le=100)] = 100
    cursor: LongCursor = ""
    since: LongCursor = ""
    namespace: Namespace = ""
    json_schema: ClassVar[dict[str, Any]] = {"not": _has("cursor", "since")}


class ConversationsDirectory(ChatRequest, kw_only=True):
    """A page of the open conversations.
    `prefix`: with which their names begin. `limit`: of a page, 1,000 at most. `cursor`: that of the page before.
    """

    prefix: Name = ""
    limit: Entries = 100
    cursor: Cursor = ""
    namespace: Namespace = ""


class ConversationsSearch(ChatRequest, kw_only=True):
    """What to find conversations by.
    `query`: the beginnings of words of the name, or of the other user's id in a direct conversation. `member`: only own
    ones in which this user is, too. `limit`: of a page, 100 at most. `cursor`: that of the page before.
    """

    query: Annotated[str, Meta(max_length=128)] = ""
    member: Annotated[str, Meta(max_length=255)] = ""
    limit: Messages = 20
    cursor: Cursor = ""
    namespace: Namespace = ""


class MessagesSearch(ChatRequest, kw_only=True):
    """What to find messages by.
    `query`: words, `"phrases"`, beginnings (`ship*`) and what is not to be there (`-draft`); also `from:u2`,
    `in:conv:g.x`, `before:2026-02-01`, `after:2026-01-01`, `has:attachment` and `mentions:me`. `channel`: only in this
    conversation. `namespace`: only in those that lie there. `sort`: the newest first, or the best of the newest 1,000.
    `limit`: of a page, 50 at most. `cursor`: that of the page before.
    """

    query: Annotated[str, Meta(min_length=1, max_length=512)]
    channel: Channel | UnsetType = UNSET
    namespace: Namespace = ""
    sort: Literal["newest", "best"] = "newest"
    limit: Annotated[int, Meta(ge=1, le=50)] = 20
    cursor: Cursor = ""


class MembersList(OfChannel, kw_only=True):
    """A page of the members.
    `limit`: of a page, 1,000 at most. `cursor`: that of the page before.
    """

    limit: Entries = 100
    cursor: Cursor = ""


class OfMember(ChangeChannel, kw_only=True):
    """A conversation and a user."""

    user: UserId


class MembersAdd(OfMember, kw_only=True):
    """The user to add to a group.
    `role`: `member` if it is left out. `from`: history is visible above this offset; left out: as the setting `history`
    says.
    """

    role: Role | UnsetType = UNSET
    history_from: Annotated[int, Meta(ge=0, le=MAX_OFFSET)] | UnsetType = msgspec.field(default=UNSET, name="from")


class MembersInvite(OfMember, kw_only=True):
    """The user to invite to a group.
    `role`: that joining gives; `member` if it is left out.
    """

    role: Role | UnsetType = UNSET


class MembersRole(OfMember, kw_only=True):
    """The member, and the new role; `owner` transfers the conversation."""

    role: Role


class MembersUntil(OfMember, kw_only=True):
    """A user. `until`: Unix milliseconds."""

    until: TimeMs | UnsetType = UNSET


class _Content(Write, kw_only=True):
    """What a message says."""

    text: str = ""
    format: Literal["plain", "markdown", "app"] = "plain"
    attachments: Annotated[list[Attachment], Meta(max_length=10)] = []
    mentions: Annotated[list[UserId], Meta(max_length=50)] = []
    mention_all: bool = False
    meta: JsonObject | UnsetType = UNSET


class MessagesSend(_Content, kw_only=True):
    """A message, and the conversation that it is for: `channel`; or `to`, a user.
    The direct conversation with `to` is created if there is none. `reply_to`, `thread`: offsets of messages. `silent`:
    it does not count as unread. `cid`: any text by which the sender knows the message again; without `key` it is the
    idempotency key.
    """

    channel: Channel | UnsetType = UNSET
    to: UserId | UnsetType = UNSET
    reply_to: Offset | UnsetType = UNSET
    thread: Offset | UnsetType = UNSET
    silent: bool = False
    cid: Annotated[str, Meta(max_length=64)] = ""
    namespace: Namespace = ""
    json_schema: ClassVar[dict[str, Any]] = {"oneOf": [_has("channel"), _has("to")]}

    def __post_init__(self) -> None:
        if (self.channel is UNSET) == (self.to is UNSET):
            raise ValueError("either `channel` or `to`")


class MessagesEdit(_Content, kw_only=True):
    """The message at offset `of`, and its whole new content.
    What is left out is empty then. `if_rev`: only if the message has this `rev`.
    """

    channel: Channel
    of: Offset
    if_rev: Offset | UnsetType = UNSET


class OfMessage(ChangeChannel, kw_only=True):
    """A conversation, and the offset of one of its messages."""

    of: Offset


class MessagesDelete(OfMessage, kw_only=True):
    """The message to delete."""

    reason: Literal["author", "moderator", "expired"] | UnsetType = UNSET


class MessagesPurge(OfMember, kw_only=True):
    """The user whose messages are deleted.
    `upto`: up to this offset; left out: all there are.
    """

    upto: Offset | UnsetType = UNSET


class MessageOnly(OfChannel, kw_only=True):
    """A conversation, and the offset of a message."""

    offset: Offset


class _Page(ChatRequest, kw_only=True):
    """Base of requests for a page of messages."""

    limit: Messages = 25
    before: Offset | UnsetType = UNSET
    after: Annotated[int, Meta(ge=0, le=MAX_OFFSET)] | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.before is not UNSET and self.after is not UNSET:
            raise ValueError("one of `before` and `after` at most")


class MessagesList(_Page, kw_only=True):
    """A page of messages; without `before`, `after` and `around` the newest.
    `limit`: 1 to 100. `before`, `after`, `around`: an offset; with `around` the message there is in the middle.
    """

    channel: Channel
    around: Offset | UnsetType = UNSET
    json_schema: ClassVar[dict[str, Any]] = {
        "not": {"anyOf": [_has("before", "after"), _has("before", "around"), _has("after", "around")]}
    }

    def __post_init__(self) -> None:
        if sum(at is not UNSET for at in (self.before, self.after, self.around)) > 1:
            raise ValueError("one of `before`, `after` and `around` at most")


class MessagesThread(_Page, kw_only=True):
    """A page of the messages in a thread; without `before` and `after` the first ones.
    `thread`: the offset of its root. `limit`: 1 to 100. `before`, `after`: an offset.
    """

    channel: Channel
    thread: Offset
    json_schema: ClassVar[dict[str, Any]] = {"not": _has("before", "after")}


class MessagesBetween(_Page, kw_only=True):
    """A page of the messages of two users' direct conversation.
    `with`: the other user; for a backend `from` and `to`. The other members are those of `messages.list`.
    """

    other: UserId | UnsetType = msgspec.field(default=UNSET, name="with")
    sender: UserId | UnsetType = msgspec.field(default=UNSET, name="from")
    to: UserId | UnsetType = UNSET
    namespace: Namespace = ""
    json_schema: ClassVar[dict[str, Any]] = {
        "not": _has("before", "after"),
        "oneOf": [
            {**_has("with"), "not": {"anyOf": [_has("from"), _has("to")]}},
            {**_has("from", "to"), "not": _has("with")},
        ],
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.sender is UNSET) != (self.to is UNSET) or (self.other is UNSET) == (self.to is UNSET):
            raise ValueError("either `with`, or `from` and `to`")


class ReactionsChange(OfMessage, kw_only=True):
    """A message, and the reaction that comes or goes, such as 👍; 1 to 64 characters."""

    name: ReactionName


class ReactionsList(MessageOnly, kw_only=True):
    """The message whose reactions are listed. `name`: only this reaction."""

    name: ReactionName | UnsetType = UNSET


class PushKeys(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Keys of a browser for Web Push, in base64url, as its subscription has them."""

    p256dh: Annotated[str, Meta(max_length=128)]
    auth: Annotated[str, Meta(max_length=64)]


class OfDevice(ChatRequest, kw_only=True):
    """A device. `id`: any name that the application gives it."""

    id: Annotated[str, Meta(pattern=DEVICE_ID.pattern)]


class DevicesSet(OfDevice, kw_only=True):
    """A device that is to get notifications, and how it is reached.
    `token`: of `fcm` and `apns`. `endpoint` and `keys`: of `webpush`, as the subscription of the browser has them.
    """

    platform: Literal["webpush", "fcm", "apns"]
    token: Annotated[str, Meta(min_length=1, max_length=2_048, pattern=TOKEN.pattern)] | UnsetType = UNSET
    endpoint: Annotated[str, Meta(min_length=1, max_length=2_048)] | UnsetType = UNSET
    keys: PushKeys | UnsetType = UNSET
    json_schema: ClassVar[dict[str, Any]] = {
        "oneOf": [
            {
                **_has("endpoint", "keys"),
                "properties": {"platform": {"const": "webpush"}},
                "not": _has("token"),
            },
            {
                **_has("token"),
                "properties": {"platform": {"enum": ["fcm", "apns"]}},
                "not": {"anyOf": [_has("endpoint"), _has("keys")]},
            },
        ]
    }

    def __post_init__(self) -> None:
        is_web = self.platform == "webpush"
        if (self.token is UNSET) != is_web or (self.endpoint is UNSET) == is_web or (self.keys is UNSET) == is_web:
            raise ValueError("`webpush` needs `endpoint` and `keys`, the others `token`")


class DevicesList(ChatRequest, kw_only=True):
    """The own devices."""


class MarkersDelivered(OfChannel, kw_only=True):
    """A conversation, and an offset of its log.
    `epoch`: of the log; in another one nothing is moved.
    """

    offset: Offset
    epoch: Annotated[str, Meta(max_length=64)] | UnsetType = UNSET


class MarkersMove(MarkersDelivered, kw_only=True):
    """A conversation, and an offset of its log.
    `generation`: that of the marker which the device knows; left out: the newest. `epoch`: of the log; in another one
    nothing is moved.
    """

    generation: Annotated[int, Meta(ge=0, le=MAX_GENERATION)] | UnsetType = UNSET


class ReceiptsList(MessageOnly, kw_only=True):
    """The message of which to say who has read it.
    `limit`: members that are looked at, 100 at most. `cursor`: that of the page before.
    """

    limit: Messages = MAX_MESSAGES
    cursor: Cursor = ""


class ConversationsPreferences(OfChannel, kw_only=True):
    """A conversation, and what the caller wants of it; what is left out stays.
    `muted_until`: Unix milliseconds; null: not muted. `muted`: for good, or not any more. `archived`: it does not count
    among the unread. `notify`: of which messages to send a push.
    """

    muted: bool | UnsetType = UNSET
    muted_until: TimeMs | UnsetType | None = UNSET
    archived: bool | UnsetType = UNSET
    notify: Literal["all", "mentions", "none"] | UnsetType = UNSET
    json_schema: ClassVar[dict[str, Any]] = {"not": _has("muted", "muted_until")}

    def __post_init__(self) -> None:
        if self.muted is not UNSET and self.muted_until is not UNSET:
            raise ValueError("one of `muted` and `muted_until` at most")


class MePreferences(ChatRequest, kw_only=True):
    """What the caller wants everywhere; what is left out stays.
    `receipts`: who is told what the caller has read: `members` of small conversations, or nobody (`private`).
    """

    receipts: Literal["members", "private"] | UnsetType = UNSET


class MeExport(ChatRequest, kw_only=True):
    """A page of the own messages.
    `limit`: of a page, 100 at most. `cursor`: that of the page before. `namespace`: where the conversations lie, if
    there are several for conversations.
    """

    limit: Messages = MAX_MESSAGES
    cursor: Cursor = ""
    namespace: Namespace = ""


class MeErase(Write, kw_only=True):
    """What is done beside deleting.
    `leave`: groups are left, invitations fall, and roles in open conversations end. `cursor`: that of the answer
    before. `namespace`: where the conversations lie, if there are several for conversations.
    """

    leave: bool = True
    cursor: Cursor = ""
    namespace: Namespace = ""
