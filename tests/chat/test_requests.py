"""Requests on conversations have the bounds of the events that they become."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from services.edge.api.chat_results import AllSettings
from services.persistence.chat.domain import events
from services.persistence.chat.domain.rights import Right, Role
from services.persistence.chat.domain.settings import NewSettingsChange
from services.shared import chat_requests as r
from services.shared.chat_methods import METHODS

_WORDS = ("title", "description", "default", "propertyNames")
_ADDRESS = {"channel", "to", "key", "namespace"}
_PAIRS = [
    ("messages.send", "message", set()),
    ("messages.edit", "edit", set()),
    ("messages.delete", "delete", set()),
    ("messages.purge", "purge", set()),
    ("reactions.add", "reaction", set()),
    ("reactions.remove", "reaction", set()),
    ("pins.add", "pin", set()),
    ("members.add", "member", set()),
    ("members.invite", "member", set()),
    ("members.remove", "member", set()),
    ("members.role", "member", set()),
    ("members.silence", "member", set()),
    ("members.ban", "member", set()),
    ("conversations.create", "conversation", {"id", "users"}),  # more users than an event names: each has one
    ("conversations.update", "conversation", set()),
]


def _kinds() -> dict[str, type[events.Event]]:
    kinds = [kind for base in events.Event.__subclasses__() for kind in (base, *base.__subclasses__())]
    deeper = [*kinds, *(sub for kind in kinds for sub in kind.__subclasses__())]
    return {
        str(kind.__struct_config__.tag): kind
        for kind in deeper
        if kind.__struct_config__.forbid_unknown_fields and kind.__struct_config__.tag
    }


def _properties(kind: type[msgspec.Struct]) -> dict[str, Any]:
    (schema,), components = msgspec.json.schema_components([kind])

    def resolved(part: Any) -> Any:
        if isinstance(part, list):
            return [resolved(each) for each in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return resolved(components[part["$ref"].rpartition("/")[2]])
        kept = {name: resolved(each) for name, each in part.items() if name not in _WORDS}
        if "enum" in kept:
            kept["enum"] = sorted(kept["enum"])
        if kept.get("type") == "object" and kept.keys() <= {"type", "additionalProperties"}:
            return {"type": "object"}  # any object
        options = [option for option in kept.get("anyOf", ()) if option != {"type": "null"}]
        return options[0] if len(options) == 1 and kept.keys() == {"anyOf"} else kept

    return {name: resolved(part) for name, part in resolved(schema)["properties"].items()}


@pytest.mark.parametrize(("method", "kind", "own"), _PAIRS)
def test_a_request_has_the_bounds_of_its_event(method: str, kind: str, own: set[str]) -> None:
    of_event = _properties(_kinds()[kind])
    members = {name: part for name, part in _properties(METHODS[method].request).items() if name not in _ADDRESS | own}
    if kind == "member":  # an event may name nobody: its author
        of_event["user"]["minLength"] = 1

    assert members
    assert members == {name: of_event[name] for name in members}


def test_what_a_message_may_have_can_be_sent() -> None:
    of_event = _properties(_kinds()["message"]).keys() - {"kind", "erased", "next"}
    assert of_event <= _properties(METHODS["messages.send"].request).keys()
    of_event = _properties(_kinds()["edit"]).keys() - {"kind", "erased", "next"}
    assert of_event <= _properties(METHODS["messages.edit"].request).keys()


def test_settings_are_those_of_conversations() -> None:
    assert _properties(r.Settings) == _properties(NewSettingsChange)
    assert msgspec.structs.asdict(NewSettingsChange()).keys() == AllSettings.__annotations__.keys()
    assert set(r.Role.__args__) == set(Role)  # type: ignore[attr-defined]
    assert set(r.Right.__args__) == set(Right)  # type: ignore[attr-defined]


def test_every_method_says_what_it_takes_and_does() -> None:
    assert len({method.call for method in METHODS.values()}) == len(METHODS)
    for name, method in METHODS.items():
        assert method.request.__struct_config__.forbid_unknown_fields, name
        assert method.summary.endswith("."), name
        keyless = name.startswith("devices.") or method.act in ("read", "own")
        assert method.writes is not keyless, name


@pytest.mark.parametrize(
    ("method", "params", "wrong"),
    [
        ("messages.send", b'{"text":"x"}', "either `channel` or `to`"),
        ("messages.send", b'{"channel":"conv:g.x","to":"u2","text":"x"}', "either `channel` or `to`"),
        ("messages.send", b'{"to":"u2","text":"x","colour":1}', "unknown field `colour`"),
        ("messages.send", b'{"to":"u2","meta":[]}', "Expected `object`"),
        ("messages.list", b'{"channel":"c","before":1,"around":2}', "one of `before`, `after` and `around`"),
        ("messages.list", b'{"channel":"c","limit":101}', "<= 100"),
        ("messages.list", b'{"channel":"c","limit":0}', ">= 1"),
        ("messages.between", b'{"from":"u1"}', "either `with`, or `from` and `to`"),
        ("messages.between", b'{"with":"u1","from":"u1","to":"u2"}', "either `with`, or `from` and `to`"),
        ("conversations.create", b'{"id":"lobby"}', "only an `open` conversation has an `id`"),
        ("conversations.create", b'{"type":"open","id":"-x"}', "regex"),
        ("conversations.preferences", b'{"channel":"c","muted":true,"muted_until":1}', "one of `muted` and"),
        ("markers.read", b'{"channel":"c","offset":-1}', ">= 1"),
        ("markers.read", b'{"channel":"c","offset":1,"generation":2147483648}', "<= 2147483647"),
        ("conversations.update", b'{"channel":"c"}', "neither `name` nor `settings`"),
    ],
)
def test_what_a_bound_alone_cannot_say_is_refused_in_words(method: str, params: bytes, wrong: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=wrong.replace("`", ".")):
        msgspec.json.decode(params, type=METHODS[method].request)


def test_a_request_is_passed_on_as_it_was_sent() -> None:
    sent = b'{"text":"x","format":"plain","meta":{"a":1.0e5},"channel":"conv:g.x"}'
    request = msgspec.json.decode(sent, type=r.MessagesSend)
    assert msgspec.json.encode(request) == b'{"text":"x","meta":{"a":1.0e5},"channel":"conv:g.x"}'
    assert msgspec.json.encode(request.given()) == msgspec.json.encode(request)
    assert msgspec.json.decode(b'{"with":"u2"}', type=r.MessagesBetween).given() == {"with": "u2"}
