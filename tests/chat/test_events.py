"""What may be published, and in which words the rest is refused (C07)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.persistence.chat.domain import events
from services.persistence.chat.domain.events import MAX_DEPTH, Malformed, parse, read

UNKNOWN_KIND = "`kind` is unknown; those of applications are `x.` and 1 to 62 of A-Z a-z 0-9 _ . -"


def refusal(event: dict[str, Any] | bytes) -> str:
    """The words with which an event is refused."""
    data = event if isinstance(event, bytes) else json.dumps(event).encode()
    with pytest.raises(Malformed) as refused:
        parse(data)
    return str(refused.value)


def message(**members: Any) -> dict[str, Any]:
    return {"kind": "message", "text": "a", **members}


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (b"", "not JSON in UTF-8"),
        (b'{"kind":"message","text":"\xff"}', "not JSON in UTF-8"),
        (b'{"kind":"message","text":"\\ud800"}', "not JSON in UTF-8"),
        (b'{"kind":"x.a","b":01}', "not JSON in UTF-8"),
        (b'{"kind":"x.a","b":"\xff"}', "not JSON in UTF-8"),
        (b'{"kind":"x.a","b":{"c":"\\ud800"}}', "not JSON in UTF-8"),
        (b'{"kind":"member","op":"add","user":"a","from":' + b"1" * 5_000 + b"}",
         "`from` has a number that is too large"),
        (b'{"kind":"message","text":"a","meta":{"a":1e999}}', "`meta[...]` has a number that is too large"),
        (b"[]", "the event must be an object, not an array"),
        (b"7", "the event must be an object, not an integer"),
        ({}, "`kind` is missing"),
        ({"kind": 7}, "`kind` must be a string, not an integer"),
        ({"kind": "typing"}, UNKNOWN_KIND),
        ({"kind": "x."}, UNKNOWN_KIND),
        ({"kind": "x." + "a" * 63}, UNKNOWN_KIND),
        (b'{"kind":"message","text":"a","kind":"message"}', "a member is named twice"),
        (b'{"kind":"x.a","kind":"x.a"}', "a member is named twice"),
        (b'{"kind":"x.a","kind":"x.b"}', "a member is named twice"),
        (b'{"k\\u0069nd":"message","text":"a","kind":"message"}', "a member is named twice"),
        (message(colour="red"), "there is no member `colour`"),
        (message(attachments=[{"id": "a", "path": "/"}]), "in `attachments[0]` there is no member `path`"),
        (message(text=7), "`text` must be a string, not an integer"),
        (message(text=""), "`text`, `attachments` and `meta` are all empty"),
        (message(format="html"), "`format` is none of the values that it may be"),
        (message(mentions=["a"] * 51), "`mentions` has more than 50 entries"),
        (message(mentions=["a", ""]), "`mentions[1]` is empty"),
        (message(mentions=["a" * 256]), "`mentions[0]` is longer than 255 characters"),
        (message(attachments=[{"id": "a"}] * 11), "`attachments` has more than 10 entries"),
        (message(attachments=[{"id": "a", "url": "javascript:x"}]),
         "`attachments[0].url` has not the form that it must have"),
        (message(attachments=[{"name": "a"}]), "in `attachments[0]` `id` is missing"),
        (message(cid="a" * 65), "`cid` is longer than 64 characters"),
        (message(meta={"a": "b" * 4_096}), "`meta` is longer than 4096 bytes"),
        (message(meta=[]), "`meta` must be an object, not an array"),
        (message(thread=0), "`thread` is less than 1"),
        (message(thread="7"), "`thread` must be an integer or null, not a string"),
        (message(erased=True), "`erased` and `next` are written by the platform alone"),
        (message(next=7), "`erased` and `next` are written by the platform alone"),
        ({"kind": "edit", "text": "a"}, "`of` is missing"),
        ({"kind": "edit", "of": 2**53, "text": "a"}, "`of` is more than 9007199254740991"),
        ({"kind": "edit", "of": 1.5, "text": "a"}, "`of` must be an integer, not a number with a fraction or exponent"),
        ({"kind": "edit", "of": 7}, "`text`, `attachments` and `meta` are all empty"),
        ({"kind": "delete", "of": 7, "reason": "spam"}, "`reason` is none of the values that it may be"),
        ({"kind": "reaction", "of": 7, "op": "add", "name": ""}, "`name` is empty"),
        ({"kind": "reaction", "of": 7, "op": "add", "name": "a" * 65}, "`name` is longer than 64 characters"),
        ({"kind": "pin", "of": 7, "op": "toggle"}, "`op` is none of the values that it may be"),
        ({"kind": "purge", "user": "", "upto": 7}, "`user` is empty"),
        ({"kind": "member", "op": "add"}, "`user` is missing, which `add` needs"),
        ({"kind": "member", "op": "role", "user": "a"}, "`role` is missing"),
        ({"kind": "member", "op": "ban", "user": "a", "role": "member"}, "`ban` has no `role`"),
        ({"kind": "member", "op": "add", "user": "a", "until": 7}, "`add` has no `until`"),
        ({"kind": "member", "op": "join", "from": 7}, "`join` has no `from`"),
        ({"kind": "member", "op": "add", "user": "a", "from": -1}, "`from` is less than 0"),
        ({"kind": "conversation", "op": "close", "users": ["a"]}, "`close` has no `users`"),
        ({"kind": "conversation", "op": "close", "name": "a"}, "`close` has neither `name` nor `settings`"),
        ({"kind": "conversation", "op": "create", "type": "direct"}, "a direct conversation names one or two `users`"),
        ({"kind": "conversation", "op": "create", "users": ["a"]}, "only a direct conversation names its `users`"),
        ({"kind": "conversation", "op": "create", "name": "a" * 129}, "`name` is longer than 128 characters"),
        ({"kind": "conversation", "op": "update", "settings": {"x": 1}}, "in `settings` there is no member `x`"),
        ({"kind": "conversation", "op": "update", "settings": {"max_members": 0}},
         "`settings.max_members` is less than 1"),
        ({"kind": "conversation", "op": "update", "settings": {"rights": {"own": "admin"}}},
         "`rights` may move by one role, `manage` not below admin, `own` not at all"),
    ],
)  # fmt: skip
def test_what_is_no_event_is_refused_in_words(event: dict[str, Any] | bytes, words: str) -> None:
    assert refusal(event) == words


@pytest.mark.parametrize(
    "event",
    [
        message(),
        message(text="{[" * 100),
        message(text='"kind"', meta={"kind": 1, "a": {"kind": 2}}),
        message(
            text="é", mentions=["a" * 255] * 50, attachments=[{"id": "a", "url": "https://a/b"}] * 10, cid="a" * 64
        ),
        message(meta={"a": "b" * 4_080}),
        message(text="", meta={"a": 1}),
        message(text="", attachments=[{"id": "a", "width": 640, "height": 480, "bytes": 0, "type": "image/png"}]),
        message(reply_to=None, thread=None),
        {"kind": "edit", "of": 2**53 - 1, "text": "a", "if_rev": 1},
        {"kind": "delete", "of": 1, "reason": "expired"},
        {"kind": "reaction", "of": 1, "op": "remove", "name": "👍" * 64},
        {"kind": "member", "op": "leave"},
        {"kind": "member", "op": "silence", "user": "a", "until": None},
        {"kind": "conversation", "op": "create", "type": "direct", "users": ["a", "b"]},
        {"kind": "conversation", "op": "update", "settings": {"edit_window_s": None, "rights": {"post": "reader"}}},
        {"kind": "x." + "a" * 62, "anything": [{"at": "all"}]},
    ],
)
def test_what_is_within_the_bounds_is_accepted_and_read_alike(event: dict[str, Any]) -> None:
    for data in (json.dumps(event).encode(), json.dumps(event, ensure_ascii=False, indent=1).encode()):
        known = read(data)
        assert known is not None
        assert isinstance(parse(data), type(known))


def nested(depth: int) -> bytes:
    """A message whose `meta` makes it this deep."""
    inner = depth - 1
    return b'{"kind":"message","text":"a","meta":' + b'{"a":' * inner + b"1" + b"}" * (inner + 1)


def test_nesting_is_bounded_whatever_the_stack() -> None:
    assert parse(nested(MAX_DEPTH)) is not None
    for depth in (MAX_DEPTH + 1, 100, 5_000, 100_000):
        assert refusal(nested(depth)) == "nested more than 32 deep"
        assert read(nested(depth)) is None

    def deep_down(levels: int) -> object:
        return deep_down(levels - 1) if levels else (read(nested(MAX_DEPTH)), read(nested(MAX_DEPTH + 1)))

    assert deep_down(700) == (read(nested(MAX_DEPTH)), None)


def test_brackets_in_strings_are_no_nesting() -> None:
    text = '\\"' + "[{" * 50 + "\\\\"
    assert read(json.dumps(message(text=text)).encode()) is not None
    assert read(b'{"kind":"message","text":"' + b"[" * 50) is None


def test_ten_megabytes_of_mentions_are_refused() -> None:
    assert refusal(message(mentions=["user"] * 1_250_000)) == "`mentions` has more than 50 entries"


def test_kinds_are_those_that_are_read_as_known() -> None:
    kinds = {cls.__struct_config__.tag for cls in events.Known.__args__}
    assert kinds == events.KINDS


def test_what_clients_publish_is_content_and_not_membership() -> None:
    assert {cls.__name__ for cls in events.BY_PUBLISH} == {"Message", "Edit", "Delete", "Reaction", "Pin", "Custom"}
    for event in (
        {"kind": "member", "op": "leave"},
        {"kind": "conversation", "op": "close"},
        {"kind": "purge", "user": "a", "upto": 1},
        {"kind": "erased", "was": "message", "by": 1},
    ):
        assert not isinstance(parse(json.dumps(event).encode()), events.BY_PUBLISH)
