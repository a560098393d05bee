"""Events of a conversation: what the `data` of a publication may be.

Purpose. One JSON object is one event, and its member `kind` says which. There are two ways to read it:

* `parse` is for what somebody wants to publish. It is strict: unknown members, unknown kinds and values out of bounds
  are refused, in words.
* `read` is for what the log holds. It checks types, no bounds, and ignores unknown members. So an event that was
  accepted keeps its meaning when a bound is changed, and what a later version adds hides no message from this one.

Rules for both. Offsets are integers from 1 to 2**53 - 1, so that JavaScript has the same. A member that is named twice
counts as the last one, as in `JSON.parse`; `parse` refuses a second `kind`. Nothing is nested deeper than 32: what a
decoder can take depends on the depth of its caller's stack, and a fold must not.

Trade-offs. Each kind with bounds is two structs. The second one costs nothing where events are decoded: 1 µs is the
decoder's, and a check in Python would cost as much again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from services.persistence.chat.domain.rights import Role
from services.persistence.chat.domain.settings import NewSettingsChange, Settings, SettingsChange
from services.persistence.chat.domain.wording import in_words

MAX_OFFSET = 2**53 - 1
MAX_META_BYTES = 4_096  # of `meta` as compact JSON
MAX_DEPTH = 32  # nested arrays and objects, the event itself included

Offset = Annotated[int, Meta(ge=1, le=MAX_OFFSET)]
TimeMs = Annotated[int, Meta(ge=0, le=MAX_OFFSET)]
UserId = Annotated[str, Meta(min_length=1, max_length=255)]
Change = Literal["add", "remove"]
Format = Literal["plain", "markdown", "app"]
MemberOp = Literal["add", "join", "leave", "remove", "ban", "unban", "role", "invite", "decline", "silence"]
ConversationOp = Literal["create", "update", "close", "reopen", "delete"]


class Malformed(ValueError):
    """The data is no event, or breaks a bound; the text says what to change."""


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """What all kinds have in common: nothing but `kind`."""


class _Written(Event, frozen=True, kw_only=True):
    """Content of a message: what an edit replaces as a whole."""

    text: str = ""
    format: str = "plain"
    attachments: Sequence[Any] = ()
    mentions: Sequence[str] = ()
    mention_all: bool = False
    meta: dict[str, Any] = {}
    erased: bool = False  # the platform moved this version's content away
    next: Offset | None = None  # then: the offset of the edit that has the content


class Message(_Written, frozen=True, kw_only=True, tag="message"):
    """A new message."""

    reply_to: Offset | None = None
    thread: Offset | None = None
    silent: bool = False
    cid: str = ""

    @property
    def counts(self) -> bool:
        """Whether it counts as unread: neither silent nor in a thread."""
        return not self.silent and self.thread is None


class Edit(_Written, frozen=True, kw_only=True, tag="edit"):
    """New content of a message."""

    of: Offset
    if_rev: Offset | None = None


class Delete(Event, frozen=True, kw_only=True, tag="delete"):
    """A message goes, with its content, reactions and mentions."""

    of: Offset
    reason: str = "author"


class Purge(Event, frozen=True, kw_only=True, tag="purge"):
    """All messages of a user go, up to an offset."""

    user: str
    upto: Offset


class Reaction(Event, frozen=True, kw_only=True, tag="reaction"):
    """A user's reaction to a message comes or goes."""

    of: Offset
    name: str
    op: Change


class Pin(Event, frozen=True, kw_only=True, tag="pin"):
    """A message is pinned or no longer pinned."""

    of: Offset
    op: Change


class Membership(Event, frozen=True, kw_only=True, tag="member"):
    """Who is a member, in which role, invited, banned or silenced."""

    op: MemberOp
    user: str = ""  # empty for `join`, `leave` and `decline`: the author
    role: Role | None = None  # of `add`, `invite` and `role`
    history_from: int = msgspec.field(default=0, name="from")  # of `add`
    until: TimeMs | None = None  # of `ban` and `silence`, Unix ms


class Lifecycle(Event, frozen=True, kw_only=True, tag="conversation"):
    """A conversation is created, renamed, closed, reopened or deleted."""

    op: ConversationOp
    type: Literal["direct", "group", "open"] = "group"
    name: str | UnsetType = UNSET
    settings: SettingsChange | UnsetType = UNSET
    users: Sequence[str] = ()  # of a direct conversation: both, or the one


class Erased(Event, frozen=True, kw_only=True, tag="erased"):
    """What the platform writes in place of an event whose content is gone."""

    was: str
    by: Offset
    counts: bool = False  # whether the message counted
    thread: Offset | None = None  # of a message: the root of its thread, which has one reply less from `by` on
    why: str = ""  # of what was void: why it was


class Custom(msgspec.Struct, frozen=True):
    """An event of the application, `x.…`, or of a later version: never interpreted."""

    kind: str


# On their way in: the same kinds with bounds, and without unknown members.


class Attachment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Metadata of a file that lies elsewhere."""

    id: Annotated[str, Meta(min_length=1, max_length=128)]
    name: Annotated[str, Meta(max_length=255)] = ""
    type: Annotated[str, Meta(max_length=127)] = ""
    bytes: TimeMs = 0
    url: Annotated[str, Meta(max_length=2_048, pattern="^https?://")] | UnsetType = UNSET
    width: Annotated[int, Meta(ge=1, le=1_000_000)] | UnsetType = UNSET
    height: Annotated[int, Meta(ge=1, le=1_000_000)] | UnsetType = UNSET


_Attachments = Annotated[list[Attachment], Meta(max_length=10)]
_Mentions = Annotated[list[UserId], Meta(max_length=50)]


class _NewMessage(Message, frozen=True, kw_only=True, tag="message", forbid_unknown_fields=True):
    format: Format = "plain"
    attachments: _Attachments = []
    mentions: _Mentions = []
    cid: Annotated[str, Meta(max_length=64)] = ""


class _NewEdit(Edit, frozen=True, kw_only=True, tag="edit", forbid_unknown_fields=True):
    format: Format = "plain"
    attachments: _Attachments = []
    mentions: _Mentions = []


class _NewDelete(Delete, frozen=True, kw_only=True, tag="delete", forbid_unknown_fields=True):
    reason: Literal["author", "moderator", "expired"] = "author"


class _NewPurge(Purge, frozen=True, kw_only=True, tag="purge", forbid_unknown_fields=True):
    user: UserId


class _NewReaction(Reaction, frozen=True, kw_only=True, tag="reaction", forbid_unknown_fields=True):
    name: Annotated[str, Meta(min_length=1, max_length=64)]


class _NewPin(Pin, frozen=True, kw_only=True, tag="pin", forbid_unknown_fields=True):
    pass


class _NewMembership(Membership, frozen=True, kw_only=True, tag="member", forbid_unknown_fields=True):
    user: Annotated[str, Meta(max_length=255)] = ""
    history_from: Annotated[int, Meta(ge=0, le=MAX_OFFSET)] = msgspec.field(default=0, name="from")


class _NewLifecycle(Lifecycle, frozen=True, kw_only=True, tag="conversation", forbid_unknown_fields=True):
    name: Annotated[str, Meta(max_length=128)] | UnsetType = UNSET
    settings: NewSettingsChange | UnsetType = UNSET
    users: Annotated[list[UserId], Meta(max_length=2)] = []


class _NewErased(Erased, frozen=True, kw_only=True, tag="erased", forbid_unknown_fields=True):
    pass


class _Kind(msgspec.Struct, frozen=True):
    kind: str


Known = Message | Edit | Delete | Purge | Reaction | Pin | Membership | Lifecycle | Erased
_New = (
    _NewMessage
    | _NewEdit
    | _NewDelete
    | _NewPurge
    | _NewReaction
    | _NewPin
    | _NewMembership
    | _NewLifecycle
    | _NewErased
)
KINDS = frozenset({"message", "edit", "delete", "purge", "reaction", "pin", "member", "conversation", "erased"})
BY_PUBLISH = (Message, Edit, Delete, Reaction, Pin, Custom)  # the rest comes by commands alone

_read_known = msgspec.json.Decoder(Known)
_parse_known = msgspec.json.Decoder(_New)
_read_kind = msgspec.json.Decoder(_Kind)
_FAILURES = (msgspec.MsgspecError, ValueError, RecursionError)  # no UTF-8, integers of thousands of digits
_CUSTOM = re.compile(r"x\.[A-Za-z0-9_.-]{1,62}")
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_BRACKET = re.compile(rb"[][{}]")


def read(data: bytes) -> Known | Custom | None:
    """Return the event that the log holds; None if it is none."""
    try:
        if not data.isascii():
            data.decode()
        if is_too_deep(data):
            return None
        try:
            event: Known = _read_known.decode(data)
            return event
        except msgspec.ValidationError:
            kind = _read_kind.decode(data).kind
            return None if kind in KINDS else Custom(kind)
    except _FAILURES:
        return None


def parse(data: bytes) -> Known | Custom:
    """Return the event that somebody wants to publish.

    Raises:
        Malformed: it is no event, names something unknown, or breaks a bound.
    """
    try:
        if is_too_deep(data):
            raise Malformed(f"nested more than {MAX_DEPTH} deep")
        event: Known | Custom
        try:
            event = _parse_known.decode(data)
        except msgspec.ValidationError:
            event = Custom(_read_kind.decode(data).kind)
            if event.kind in KINDS:
                raise
            _check_custom(event.kind, data)
    except Malformed:
        raise
    except msgspec.ValidationError as error:
        raise Malformed(in_words(str(error))) from None
    except _FAILURES:
        raise Malformed("not JSON in UTF-8") from None
    if data.count(b'"kind"') != 1 or b"\\u" in data:  # or it might be spelled with escapes
        _check_repeated(data)
    problem = _problem(event)
    if problem:
        raise Malformed(problem)
    return event


def is_too_deep(data: bytes) -> bool:
    """Tell whether data is nested deeper than 32, in one pass without recursion."""
    if data.count(b"{") + data.count(b"[") <= MAX_DEPTH:
        return False
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", data)):
        depth += 1 if bracket in b"{[" else -1
        if depth > MAX_DEPTH:
            return True
    return False


def _check_custom(kind: str, data: bytes) -> None:
    """Refuse an unknown kind that is not the application's, and data that is not JSON."""
    if not _CUSTOM.fullmatch(kind):
        raise Malformed("`kind` is unknown; those of applications are `x.` and 1 to 62 of A-Z a-z 0-9 _ . -")
    msgspec.json.decode(data)


def _check_repeated(data: bytes) -> None:
    """Refuse a member that is named twice in one object."""

    def unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            raise Malformed("a member is named twice")
        return members

    json.loads(data, object_pairs_hook=unrepeated)


def _problem(event: Known | Custom) -> str | None:
    """Return what a struct can't say: rules of several members."""
    match event:
        case Message() | Edit():
            if event.erased or event.next is not None:
                return "`erased` and `next` are written by the platform alone"
            if not (event.text or event.attachments or event.meta):
                return "`text`, `attachments` and `meta` are all empty"
            if event.meta and len(msgspec.json.encode(event.meta)) > MAX_META_BYTES:
                return f"`meta` is longer than {MAX_META_BYTES} bytes"
        case Membership():
            return _membership_problem(event)
        case Lifecycle():
            return _lifecycle_problem(event)
    return None


def _membership_problem(event: Membership) -> str | None:
    op = event.op
    if not event.user and op not in ("join", "leave", "decline"):
        return f"`user` is missing, which `{op}` needs"
    if op == "role" and event.role is None:
        return "`role` is missing"
    if event.role is not None and op not in ("add", "invite", "role"):
        return f"`{op}` has no `role`"
    if event.until is not None and op not in ("ban", "silence"):
        return f"`{op}` has no `until`"
    if event.history_from and op != "add":
        return f"`{op}` has no `from`"
    return None


def _lifecycle_problem(event: Lifecycle) -> str | None:
    creates = event.op == "create"
    if not creates and event.users:
        return f"`{event.op}` has no `users`"
    if event.op not in ("create", "update") and (event.name is not UNSET or event.settings is not UNSET):
        return f"`{event.op}` has neither `name` nor `settings`"
    if creates and event.type == "direct" and not 1 <= len(set(event.users)) == len(event.users):
        return "a direct conversation names one or two `users`"
    if creates and event.type != "direct" and event.users:
        return "only a direct conversation names its `users`"
    if event.settings is not UNSET and Settings().changed(event.settings) is None:
        return "`rights` may move by one role, `manage` not below admin, `own` not at all"
    return None
