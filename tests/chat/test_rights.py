"""Which role has which right, and how far settings may move that."""

from __future__ import annotations

import json

import pytest

from services.persistence.chat.domain.events import parse
from services.persistence.chat.domain.fold import Entry, fold
from services.persistence.chat.domain.rights import Right, Role, is_allowed
from services.persistence.chat.domain.rules import Why, decide
from services.persistence.chat.domain.state import Conversation

# An event for each right that needs this right and no other one, about message 7 of the author or 8 of somebody else.
NEEDS = {
    Right.REACT: {"kind": "reaction", "of": 8, "name": "a", "op": "add"},
    Right.POST: {"kind": "message", "text": "a"},
    Right.EDIT: {"kind": "edit", "of": 7, "text": "b"},
    Right.INVITE: {"kind": "member", "op": "add", "user": "u9", "role": "reader"},
    Right.MODERATE: {"kind": "delete", "of": 8},
    Right.SILENCE: {"kind": "member", "op": "silence", "user": "u5", "until": 99_000},
    Right.REMOVE: {"kind": "member", "op": "remove", "user": "u5"},
    Right.PIN: {"kind": "pin", "of": 8, "op": "add"},
    Right.MANAGE: {"kind": "member", "op": "unban", "user": "u8"},
    Right.OWN: {"kind": "conversation", "op": "close"},
}
HAS = {
    Role.READER: {Right.REACT},
    Role.MEMBER: {Right.REACT, Right.POST, Right.EDIT, Right.INVITE},
    Role.MODERATOR: set(Right) - {Right.MANAGE, Right.OWN},
    Role.ADMIN: set(Right) - {Right.OWN},
    Role.OWNER: set(Right),
}


def group(role: Role, rights: dict[str, str]) -> Conversation:
    """A group in which `me` has the role and wrote message 7, and u5 is a reader."""
    steps = [
        ("u0", {"kind": "conversation", "op": "create", "settings": {"rights": rights}}),
        ("", {"kind": "member", "op": "add", "user": "u5", "role": "reader"}),
        ("", {"kind": "member", "op": "add", "user": "me"}),
        ("", {"kind": "member", "op": "role", "user": "me", "role": "admin"}),
        ("", {"kind": "member", "op": "ban", "user": "u8"}),
        ("", {"kind": "member", "op": "add", "user": "u6"}),
        ("me", {"kind": "message", "text": "a"}),
        ("u0", {"kind": "message", "text": "a"}),
        ("", {"kind": "member", "op": "role", "user": "me", "role": role.value}),
    ]
    state = fold(Entry(at, author, at, json.dumps(event).encode()) for at, (author, event) in enumerate(steps, start=1))
    assert state.members["me"].role is role
    return state


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("right", Right)
def test_each_role_has_its_rights_and_no_others(role: Role, right: Right) -> None:
    why = decide(group(role, {}), parse(json.dumps(NEEDS[right]).encode()), "me", 20_000)
    assert why == (None if right in HAS[role] else Why.NOT_ALLOWED)


@pytest.mark.parametrize("right", Right)
@pytest.mark.parametrize("needed", Role)
def test_settings_move_a_right_by_one_role(right: Right, needed: Role) -> None:
    ranks = [role for role in Role if right in HAS[role]]
    distance = abs(needed.rank - ranks[0].rank)
    may = distance <= 1 and not (right is Right.OWN and distance) and not (right is Right.MANAGE and needed.rank < 4)
    assert is_allowed(right, needed) == may
    if may:
        event = parse(json.dumps(NEEDS[right]).encode())
        for role in Role:
            if right is Right.EDIT and role.rank >= 3:
                continue  # who moderates edits without this right
            expected = None if role.rank >= needed.rank else Why.NOT_ALLOWED
            state = group(role, {right.value: needed.value})
            if right in (Right.SILENCE, Right.REMOVE) and role.rank <= Role.READER.rank:
                expected = Why.NOT_ALLOWED
            assert decide(state, event, "me", 20_000) == expected, role
