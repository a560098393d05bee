"""Reads an answer of a hook from JSON, and checks every member.

**Rules.** An answer is a JSON object, or nothing at all (which changes nothing). A member that is unknown, or is not
for this event, makes the whole answer a bad one: a misspelt `refuse` must not let a message pass. Payloads are checked
as those of clients are, because other clients get to read them. A member that is `null` is as one that is left out:
backends with typed answers write all of them, and a message must not become `null` by that.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Any

import msgspec

from services.edge.domain.access.claims import Override, ServerSub
from services.edge.domain.hooks.model import NOTHING, Answer, Event, Failure, HookFailed, HookPublication, Refusal
from services.shared.checks import MAX_CHANNEL_BYTES, MAX_TIME_S, MAX_USER_BYTES, check_id
from services.shared.errors import ErrorCode, ThalamusError
from services.shared.json_text import InvalidJson, checked_json

_MAX_PUBLICATIONS = 100  # of one answer
_MAX_CHANNELS = 128  # server-side subscriptions of one answer
_MAX_MESSAGE_BYTES = 255  # of a refusal
_OWN_CODES = range(400, 2_000)  # of a backend; none of them has a meaning to SDKs
_CODES = frozenset(
    {
        ErrorCode.UNAUTHORIZED,
        ErrorCode.PERMISSION_DENIED,
        ErrorCode.LIMIT_EXCEEDED,
        ErrorCode.BAD_REQUEST,
        ErrorCode.NOT_AVAILABLE,
        ErrorCode.TOO_MANY_REQUESTS,
    }
)
_FOR: dict[Event, frozenset[str]] = {
    Event.CONNECT: frozenset({"refuse", "data", "user", "info", "expires_at", "channels"}),
    Event.REFRESH: frozenset({"refuse", "info", "expires_at"}),
    Event.SUBSCRIBE: frozenset({"refuse", "data", "info", "override"}),
    Event.PUBLISH: frozenset({"refuse", "data", "b64data", "skip", "tags"}),
    Event.RPC: frozenset({"refuse", "data", "publish"}),
}


class _Refusal(msgspec.Struct, forbid_unknown_fields=True):
    code: int = ErrorCode.PERMISSION_DENIED
    message: str = ""
    temporary: bool | None = None


class _Override(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    presence: bool | None = None
    join_leave: bool | None = None
    force_push_join_leave: bool | None = None
    force_recovery: bool | None = None
    force_positioning: bool | None = None


class _Channel(msgspec.Struct, forbid_unknown_fields=True):
    info: msgspec.Raw = msgspec.Raw()
    data: msgspec.Raw = msgspec.Raw()
    override: _Override | None = None


class _Publication(msgspec.Struct, forbid_unknown_fields=True):
    channel: str
    data: msgspec.Raw = msgspec.Raw()
    b64data: str = ""
    tags: dict[str, str] = {}
    idempotency_key: str = ""


class _Answer(msgspec.Struct, forbid_unknown_fields=True):
    refuse: _Refusal | None = None
    data: msgspec.Raw = msgspec.Raw()
    b64data: str | None = None
    skip: bool | None = None
    tags: dict[str, str] | None = None
    user: str | None = None
    info: msgspec.Raw = msgspec.Raw()
    expires_at: float | None = None
    channels: dict[str, _Channel] | None = None
    override: _Override | None = None
    publish: list[_Publication] | None = None


_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ANSWERS = msgspec.json.Decoder(_Answer)


def read_answer(event: Event, text: bytes) -> Answer:
    """Return the answer that a JSON text holds; no text is one that changes nothing.

    Raises:
        HookFailed: the text is no answer to such an event. The exception says what is wrong.
    """
    if not text:
        return NOTHING
    try:
        require_for(event, _MEMBERS.decode(text).keys())
        answer = _ANSWERS.decode(text)
        return checked(
            Answer(
                refuse=_refusal(answer.refuse),
                data=_unless_null(_json(answer.data)) if answer.b64data is None else _decoded(answer.b64data),
                skip=bool(answer.skip),
                tags=answer.tags or {},
                user=answer.user,
                info=_unless_null(_json(answer.info)),
                expires_at=answer.expires_at,
                channels={
                    name: ServerSub(
                        _unless_null(_json(one.info)) or b"",
                        _unless_null(_json(one.data)) or b"",
                        _override(one.override),
                    )
                    for name, one in (answer.channels or {}).items()
                },
                override=_override(answer.override),
                publish=tuple(map(_publication, answer.publish or ())),
            )
        )
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _bad(f"no JSON object that answers {event}: {error}") from None
    except InvalidJson as error:
        raise _bad(f"a payload is no JSON that clients can read: {error}") from None


def require_for(event: Event, members: Iterable[str]) -> None:
    """Raise `HookFailed` if a member is not for the event."""
    if strange := set(members) - _FOR[event]:
        raise _bad(f"`{min(strange)}` is not for {event}")


def checked(answer: Answer) -> Answer:
    """Return the answer, if its members are within their bounds.

    Payloads are not looked at.

    Raises:
        HookFailed: they are not.
    """
    if answer.refuse is not None:
        _check_refusal(answer.refuse)
    if answer.user:
        try:
            check_id("user", answer.user, MAX_USER_BYTES)
        except ThalamusError as error:
            raise _bad(str(error)) from None
    if answer.expires_at is not None and not 0 <= answer.expires_at <= MAX_TIME_S:
        raise _bad("`expires_at` is no time in Unix seconds")
    if len(answer.channels) > _MAX_CHANNELS:
        raise _bad(f"more than {_MAX_CHANNELS} channels")
    if len(answer.publish) > _MAX_PUBLICATIONS:
        raise _bad(f"more than {_MAX_PUBLICATIONS} publications")
    if any(not 0 < len(one.channel) <= MAX_CHANNEL_BYTES for one in answer.publish):
        raise _bad("a publication without a channel")
    return answer


def _check_refusal(refusal: Refusal) -> None:
    if refusal.code not in _CODES and refusal.code not in _OWN_CODES:
        raise _bad(f"no hook may refuse with code {refusal.code}")
    if not refusal.message or len(refusal.message.encode("utf-8", "surrogatepass")) > _MAX_MESSAGE_BYTES:
        raise _bad(f"the message of a refusal must have 1 to {_MAX_MESSAGE_BYTES} bytes")


def refusal(code: int, message: str, temporary: bool | None) -> Refusal:
    """Return a refusal; empty texts and None become what belongs to the code."""
    known = ErrorCode(code) if code in _CODES else None
    if known is not None:
        message, temporary = message or known.message, known.temporary if temporary is None else temporary
    return Refusal(code, message or "refused", bool(temporary))


def _refusal(found: _Refusal | None) -> Refusal | None:
    return None if found is None else refusal(found.code, found.message, found.temporary)


def _override(found: _Override | None) -> Override:
    return Override() if found is None else Override(**msgspec.structs.asdict(found))


def _publication(found: _Publication) -> HookPublication:
    data = _payload(found.data, found.b64data or None)
    return HookPublication(
        channel=found.channel, data=data or b"", tags=found.tags, idempotency_key=found.idempotency_key
    )


def _payload(raw: msgspec.Raw, encoded: str | None) -> bytes | None:
    """Return a payload; `encoded` is the same in base64, for any bytes."""
    return _json(raw) if encoded is None else _decoded(encoded)


def _decoded(encoded: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise _bad("`b64data` is not base64") from None


def _unless_null(text: bytes | None) -> bytes | None:
    return None if text == b"null" else text


def _json(raw: msgspec.Raw) -> bytes | None:
    """Return the text of a member; None if there is none."""
    text = bytes(raw)
    return json_payload(text) if text else None


def json_payload(text: bytes) -> bytes:
    """Return a payload as clients get it: on one line.

    Raises:
        InvalidJson: some clients could not read it.
    """
    return checked_json(text).replace(b"\n", b"")


def _bad(text: str) -> HookFailed:
    return HookFailed(Failure.BAD_ANSWER, text)


def encoded_answer(answer: Any) -> bytes:
    """Return what an extension has returned as JSON; None is no text.

    Raises:
        HookFailed: it is no mapping that can be written as JSON.
    """
    if answer is None:
        return b""
    try:
        return msgspec.json.encode(answer)
    except (TypeError, ValueError, RecursionError) as error:
        raise _bad(f"the extension returned what can't be written as JSON: {error}") from None
