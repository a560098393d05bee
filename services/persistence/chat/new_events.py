"""Events that somebody wants to append, and what is answered to them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple

from services.persistence.chat.domain import events
from services.persistence.chat.domain.rules import Why
from services.persistence.chat.live import Event
from services.shared.checks import MAX_KEY_BYTES
from services.shared.errors import ErrorCode


class Options(NamedTuple):
    """Options of the namespace that a conversation lies in.

    `queued`: what changes no rights and erases nothing may be acknowledged before it is stored.
    """

    history_size: int
    history_ttl_s: int
    feed: bool = False
    group_max_members: int = 10_000
    max_data_bytes: int = 65_536
    receipts_max_members: int = 0
    typing_max_members: int = 0
    queued: bool = False


class NewEvent(NamedTuple):
    """An event that somebody wants to append.

    `publication`: a serialized `thalamus.common.v1.Publication` with this author, data and id.
    `key`: idempotency key of `key_user`; "": the message's `cid`, or none.
    `by_publish`: published by a client, so it may only be a message, edit, delete, reaction, pin or the application's.
    """

    channel: str
    publication: bytes
    publication_id: bytes
    author: str  # user id; "": the platform, which has every right
    data: bytes
    options: Options
    key_user: str = ""
    key: str = ""
    by_publish: bool = False


class Appended(NamedTuple):
    """The event is in the log; `void` says why it changes nothing, None if it applies."""

    offset: int
    epoch: str
    repeated_key: bool = False
    void: Why | None = None


class Refused(NamedTuple):
    """The event is not in the log; with code 100 that is not known. See docs/chat.md."""

    code: int
    why: str
    text: str = ""
    retry_after_ms: int = 0


Result = Appended | Refused
OnResult = Callable[[int, Result], None]

_NOT_BY_PUBLISH = Refused(ErrorCode.PERMISSION_DENIED, Why.NOT_ALLOWED.value, "not by publishing")


def read_new(new: NewEvent) -> Event | Refused:
    """Return the event, or why it can be none."""
    if len(new.data) > new.options.max_data_bytes:
        return Refused(ErrorCode.LIMIT_EXCEEDED, "too_large", f"at most {new.options.max_data_bytes} bytes")
    try:
        event = events.parse(new.data)
    except events.Malformed as error:
        return Refused(ErrorCode.BAD_REQUEST, Why.MALFORMED.value, str(error))
    if isinstance(event, events.Message):
        return event
    if isinstance(event, events.Erased) or (new.by_publish and not isinstance(event, events.BY_PUBLISH)):
        return _NOT_BY_PUBLISH
    if isinstance(event, events.Lifecycle) and event.settings:
        most = event.settings.max_members
        if isinstance(most, int) and most > new.options.group_max_members:
            return Refused(
                ErrorCode.LIMIT_EXCEEDED, "too_large", f"`max_members` is at most {new.options.group_max_members}"
            )
    return event


def key_of(event: Event) -> str:
    """Idempotency key that a message names itself; "" if it names none."""
    if not isinstance(event, events.Message) or not event.cid:
        return ""
    key = f"cid:{event.cid}"
    if len(key.encode()) <= MAX_KEY_BYTES:
        return key
    return f"cid:{hashlib.sha256(event.cid.encode()).hexdigest()}"
