"""What a conversation in memory notes for readers: pins, and its newest change."""

from __future__ import annotations

import json
from typing import Any

from services.persistence.chat.documents import changes_of, live_of
from services.persistence.chat.domain import events
from services.persistence.chat.domain.fold import Entry
from services.persistence.chat.live import Live
from services.persistence.chat.ports import Loaded


def folded(*told: tuple[str, dict[str, Any]]) -> Live:
    """A group of u1 and u2, and these events of users."""
    live = Live("conv:g.a", "e")
    begin = [
        ("u1", {"kind": "conversation", "op": "create"}),
        ("u1", {"kind": "member", "op": "add", "user": "u2"}),
        ("u2", {"kind": "message", "text": "3"}),
        ("u1", {"kind": "message", "text": "4"}),
    ]
    for offset, (author, event) in enumerate([*begin, *told], 1):
        data = json.dumps(event).encode()
        live.fold(events.read(data), Entry(offset, author, 1_000, data), 0)
    return live


def pin(of: int, op: str = "add") -> tuple[str, dict[str, Any]]:
    return "u1", {"kind": "pin", "of": of, "op": op}


def test_pins_come_and_go_in_their_order() -> None:
    assert list(folded(pin(4), pin(3)).pins) == [4, 3]
    assert list(folded(pin(4), pin(3), pin(4, "remove")).pins) == [3]
    assert list(folded(pin(4), pin(3), pin(4, "remove"), pin(4)).pins) == [3, 4]
    assert list(folded(pin(4), pin(3), ("u1", {"kind": "delete", "of": 4})).pins) == [3]
    assert list(folded(pin(4), ("u1", {"kind": "conversation", "op": "delete"})).pins) == []


def test_a_void_pin_is_none() -> None:
    assert list(folded(("u2", {"kind": "pin", "of": 4, "op": "add"})).pins) == []


def test_the_read_model_has_the_pins() -> None:
    live = folded(pin(4), pin(3))
    changes = changes_of(live, live.unwritten.take(live.state.messages))
    people = {user: document for user, document in changes.people.items() if document is not None}
    assert list(live_of("conv:g.a", Loaded(6, changes.head, people)).pins) == [4, 3]


def test_one_more_message_is_no_change_of_the_others() -> None:
    assert folded().changed_at == 2
    assert folded(("u1", {"kind": "message", "text": "5", "silent": True})).changed_at == 2
    assert folded(("u1", {"kind": "reaction", "of": 3, "name": "x", "op": "remove"})).changed_at == 2  # void
    assert folded(("u1", {"kind": "message", "text": "5", "thread": 3})).changed_at == 5  # one reply more of 3
    for event in (
        {"kind": "edit", "of": 4, "text": "5"},
        {"kind": "delete", "of": 3},
        {"kind": "purge", "user": "u2", "upto": 9},
    ):
        assert folded(("u1", event)).changed_at == 5


def test_what_was_erased_because_of_an_earlier_event_was_void() -> None:
    delete = ("u1", {"kind": "delete", "of": 3})
    assert folded(delete, ("", {"kind": "erased", "was": "edit", "by": 5})).void == {6: "deleted"}
    assert folded(("", {"kind": "erased", "was": "edit", "by": 6}), delete).void == {}


def test_an_edit_before_the_delete_is_not_void_though_the_message_is_erased_already() -> None:
    edit = ("u1", {"kind": "edit", "of": 5, "text": "x"})
    assert folded(("", {"kind": "erased", "was": "message", "by": 7, "counts": True}), edit).void == {}
    assert folded(("", {"kind": "erased", "was": "message", "by": 5, "counts": True}), edit).void == {6: "deleted"}
