"""Random logs of conversations, most of whose events make sense.

The next event depends on the state before it, so that many apply; some are nonsense. `erased` gives what the platform
may make of a log once messages were deleted or edited.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

from services.persistence.chat.domain.fold import Entry, apply
from services.persistence.chat.domain.rights import Right, Role
from services.persistence.chat.domain.rules import Why
from services.persistence.chat.domain.state import Conversation, Deleted, Phase

USERS = [f"u{number}" for number in range(7)]
_ROLES = [role.value for role in Role]
_STEPS_MS = [0, 0, 1, 500, 1_000, 1_000, 5_000, 60_000]
_KINDS = {
    "message": 24, "edit": 10, "delete": 7, "purge": 2, "reaction": 10, "pin": 6, "member": 30, "conversation": 6,
    "custom": 1, "erased": 1, "nonsense": 3,
}  # fmt: skip
_MEMBER_OPS = {
    "add": 6, "join": 4, "leave": 3, "remove": 3, "ban": 2, "unban": 2, "role": 7, "invite": 3, "decline": 1,
    "silence": 3,
}  # fmt: skip
_LIFECYCLE_OPS = {"create": 1, "update": 10, "close": 2, "reopen": 3, "delete": 0.2}
_NONSENSE = [
    b"",
    b"\xff",
    b"null",
    b"[]",
    b"7",
    b"{}",
    b'{"kind":null}',
    b'{"kind":"message"',
    b'{"kind":"edit"}',
    b'{"kind":"message","text":7}',
    b'{"kind":"message","mentions":[null]}',
    b'{"kind":"pin","of":1,"op":"toggle"}',
    b'{"kind":"message","text":"a","text":"b"}',
    b'{"kind":"message","later":{"a":[1]}}',
    b'{"kind":"typing","until":1}',
    b'{"kind":"member","op":"add","user":""}',
    b'{"kind":"member","op":"role","user":"u1"}',
    b'{"kind":"delete","of":1.5}',
    b'{"kind":"delete","of":0}',
    b'{"kind":"delete","of":9007199254740992}',
    b'{"kind":"member","op":"join","until":-1}',
    b'{"kind":"message","meta":' + b'{"a":' * 40 + b"1" + b"}" * 41,
    b'{"kind":"message","meta":{"a":"' + b"[" * 40 + b'"}}',
    b'{"kind":"purge","user":"","upto":9007199254740991}',
    b'{"kind":"conversation","op":"update","settings":null}',
    b'{"kind":"conversation","op":"create","type":"direct","users":["u1","u2","u3"]}',
    b'{"kind":"message","thread":null}',
    b'{"kind":"conversation","op":"update","settings":{"rights":{"own":"reader"}}}',
    b'{"kind":"message","text":"\\ud83d\\ude00"}',
    b'{"kind":"conversation","op":"update","settings":{"max_members":-1}}',
    b'{"kind":"member","op":"add","user":"u6","from":-5}',
]


def random_log(rng: Random, length: int) -> list[Entry]:
    """Return a log of this many entries."""
    state, log, time_ms = Conversation(), [], 1_000
    for offset in range(1, length + 1):
        time_ms += rng.choice(_STEPS_MS)
        author, data = random_event(rng, state, offset, time_ms)
        log.append(Entry(offset, author, time_ms, data))
        apply(state, log[-1])
    return log


def random_event(rng: Random, state: Conversation, offset: int, time_ms: int) -> tuple[str, bytes]:
    """Return author and data of a next event."""
    if state.phase is Phase.NONE and rng.random() < 0.8:
        kind, op = "conversation", "create"
    else:
        kind, op = _weighted(rng, _KINDS), ""
    members = list(state.members) or USERS
    staff = [user for user, member in state.members.items() if member.role.rank > Role.MEMBER.rank] or members
    by_staff = 8 if kind in ("member", "conversation", "pin") else 1
    author = rng.choices([rng.choice(members), rng.choice(staff), rng.choice(USERS), ""], [6, by_staff, 1, 1])[0]
    if kind == "nonsense":
        return author, rng.choice(_NONSENSE)
    make = {
        "message": _message, "edit": _edit, "delete": _delete, "purge": _purge, "reaction": _reaction, "pin": _pin,
        "member": _member, "conversation": _conversation, "custom": _custom, "erased": _erased,
    }[kind]  # fmt: skip
    event = make(rng, state, offset, time_ms)
    if op:
        event["op"] = op
    if kind in ("edit", "delete", "reaction", "purge") and rng.random() < 0.5:  # by the author, rather than by anybody
        message = state.messages.get(event.get("of", 0))
        author = getattr(message, "author", author)
    if event.get("op") in ("join", "decline") and state.invited and rng.random() < 0.7:
        author, event["user"] = rng.choice(list(state.invited)), ...
    return author, json.dumps({key: value for key, value in event.items() if value is not ...}).encode()


def _weighted(rng: Random, weights: dict[str, Any]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def _maybe(rng: Random, chance: float, value: Any) -> Any:
    """The value, or the mark of a member that is left out."""
    return value if rng.random() < chance else ...


def _target(rng: Random, state: Conversation, offset: int) -> int:
    """Offset of a message, mostly one of the last; sometimes of anything."""
    messages = list(state.messages)
    if not messages or rng.random() < 0.1:
        return rng.randint(1, offset + 2)
    return rng.choice(messages[-4:] if rng.random() < 0.7 else messages)


def _content(rng: Random) -> dict[str, Any]:
    return {
        "text": rng.choice(["a", "b", "", "😀"]),
        "mentions": _maybe(rng, 0.2, rng.sample(USERS, 2)),
        "format": _maybe(rng, 0.2, "markdown"),
        "meta": _maybe(rng, 0.1, {"a": [1, {}]}),
        "attachments": _maybe(rng, 0.1, [{"id": "f"}]),
        "mention_all": _maybe(rng, 0.1, True),
    }


def _message(rng: Random, state: Conversation, offset: int, _time_ms: int) -> dict[str, Any]:
    return {
        "kind": "message",
        **_content(rng),
        "silent": _maybe(rng, 0.2, True),
        "thread": _maybe(rng, 0.3, _target(rng, state, offset)),
        "reply_to": _maybe(rng, 0.2, _target(rng, state, offset)),
    }


def _edit(rng: Random, state: Conversation, offset: int, _time_ms: int) -> dict[str, Any]:
    target = _target(rng, state, offset)
    rev = getattr(state.messages.get(target), "rev", 1)
    return {
        "kind": "edit",
        "of": target,
        **_content(rng),
        "if_rev": _maybe(rng, 0.4, rng.choice([rev, target, offset])),
    }


def _delete(rng: Random, state: Conversation, offset: int, _time_ms: int) -> dict[str, Any]:
    return {"kind": "delete", "of": _target(rng, state, offset)}


def _purge(rng: Random, _state: Conversation, offset: int, _time_ms: int) -> dict[str, Any]:
    return {"kind": "purge", "user": rng.choice(USERS), "upto": rng.randint(1, offset + 2)}


def _reaction(rng: Random, state: Conversation, offset: int, _time_ms: int) -> dict[str, Any]:
    return {
        "kind": "reaction",
        "of": _target(rng, state, offset),
        "name": rng.choice("xy"),
        "op": _weighted(rng, {"add": 2, "remove": 1}),
    }


def _pin(rng: Random, state: Conversation, offset: int, _time_ms: int) -> dict[str, Any]:
    return {"kind": "pin", "of": _target(rng, state, offset), "op": rng.choice(["add", "remove"])}


def _member(rng: Random, state: Conversation, offset: int, time_ms: int) -> dict[str, Any]:
    op = "add" if len(state.members) < 4 and rng.random() < 0.5 else _weighted(rng, _MEMBER_OPS)
    if op == "unban" and state.banned:
        return {"kind": "member", "op": op, "user": rng.choice(list(state.banned))}
    known = [*state.members, *state.invited, *state.banned, *state.silenced, *USERS]
    by_oneself = op in ("join", "leave", "decline")
    return {
        "kind": "member",
        "op": op,
        "user": _maybe(rng, 0.1 if by_oneself else 0.98, rng.choice(known)),
        "role": rng.choice(_ROLES) if op == "role" else _maybe(rng, 0.3, rng.choice(_ROLES)),
        "until": _maybe(rng, 0.8, rng.choice([None, 0, time_ms, time_ms + 1_000, *[time_ms + 100_000] * 3])),
        "from": _maybe(rng, 0.2, rng.randint(0, offset + 2)),
    }


def _settings(rng: Random) -> dict[str, Any]:
    made = {
        "edit_window_s": _maybe(rng, 0.3, rng.choice([None, None, 0, 1, 10])),
        "delete_window_s": _maybe(rng, 0.3, rng.choice([None, None, 0, 1, 10])),
        "unique_reactions": _maybe(rng, 0.2, rng.choice([True, False])),
        "versions": _maybe(rng, 0.2, rng.choice(["keep", "erase"])),
        "history": _maybe(rng, 0.2, rng.choice(["all", "joined"])),
        "join": _maybe(rng, 0.3, rng.choice(["invited", "anyone"])),
        "max_members": _maybe(rng, 0.2, rng.choice([3, 5, 1_000])),
        "rights": _maybe(rng, 0.2, {rng.choice(list(Right)).value: rng.choice(_ROLES)}),
    }
    return {key: value for key, value in made.items() if value is not ...}


def _conversation(rng: Random, state: Conversation, _offset: int, _time_ms: int) -> dict[str, Any]:
    creates = state.phase is Phase.NONE
    kind = _weighted(rng, {"group": 6, "open": 2, "direct": 1})
    return {
        "kind": "conversation",
        "op": _weighted(rng, _LIFECYCLE_OPS),
        "name": _maybe(rng, 0.3, rng.choice(["Lunch", "Dinner"])),
        "settings": _maybe(rng, 0.3 if creates else 0.8, _settings(rng)),
        "type": _maybe(rng, 0.9, kind),
        "users": _maybe(rng, 0.95, rng.sample(USERS, rng.choice([1, 2, 2]))) if kind == "direct" else ...,
    }


def _custom(_rng: Random, _state: Conversation, offset: int, _time_ms: int) -> dict[str, Any]:
    return {"kind": "x.poll", "of": offset, "text": 7}


def _erased(rng: Random, _state: Conversation, offset: int, _time_ms: int) -> dict[str, Any]:
    was = rng.choice(["message", "edit"])
    return {"kind": "erased", "was": was, "by": offset + rng.randint(0, 5), "counts": _maybe(rng, 0.5, True)}


def erased(rng: Random, log: Sequence[Entry], upto: int) -> list[Entry]:
    """Return the log as the platform may have it at a position.

    Some of what is gone by then was replaced.
    What is gone: messages deleted up to there, with their edits and reactions; and of edited messages all versions but
    the newest.
    """
    state = Conversation()
    deleted: dict[int, int] = {}  # message → the event that deleted it
    counts: dict[int, bool] = {}
    versions: dict[int, list[int]] = {}  # message → offsets of its contents
    about: dict[int, list[tuple[int, str]]] = {}  # message → edits and reactions of it
    for entry in log[:upto]:
        before = {offset: message.counts for offset, message in state.messages.items()}
        why = apply(state, entry)
        event = _object(entry.data)
        for offset, message in state.messages.items():
            if isinstance(message, Deleted) and message.by == entry.offset:
                deleted.setdefault(offset, entry.offset)
                counts[offset] = message.counts
        if before and state.phase is Phase.DELETED and why is None:
            for offset in before:
                deleted.setdefault(offset, entry.offset)
                counts.setdefault(offset, before[offset])
        if why is None and event.get("kind") == "edit":
            versions.setdefault(event["of"], [event["of"]]).append(entry.offset)
        if event.get("kind") in ("edit", "reaction") and isinstance(event.get("of"), int):
            about.setdefault(event["of"], []).append((entry.offset, event["kind"]))
    replaced = list(log)

    def put(offset: int, event: dict[str, Any], author: str) -> None:
        if rng.random() < 0.8 and _object(log[offset - 1].data).get("kind") != "erased":
            replaced[offset - 1] = replace(log[offset - 1], author=author, data=json.dumps(event).encode())

    for chain in versions.values():
        for version, following in itertools.pairwise(chain):
            old = _object(log[version - 1].data)
            kept: dict[str, Any] = {
                key: old[key] for key in ("kind", "of", "if_rev", "reply_to", "thread", "silent") if key in old
            }
            put(version, {**kept, "erased": True, "next": following}, log[version - 1].author)
    for offset, by in deleted.items():
        put(offset, {"kind": "erased", "was": "message", "by": by, "counts": counts[offset]}, "")
        for place, was in about.get(offset, ()):
            if place < by:
                put(place, {"kind": "erased", "was": was, "by": by}, "")
    return replaced


def _object(data: bytes) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def outcomes(log: Sequence[Entry]) -> list[Why | None]:
    """Return why each entry is void, or None."""
    state = Conversation()
    return [apply(state, entry) for entry in log]
