"""A second fold, as simple as possible, to compare the real one with.

It keeps the list of all events that applied, and answers every question by reading that list from the beginning: who is
a member now, what does this message say. So it has no state that could get out of step, and is slow. It is written from
the rules (docs/chat.md), shares no code with the package, and reads JSON with Python's own decoder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

ROLES = ["reader", "member", "moderator", "admin", "owner"]
RIGHTS = {
    "react": "reader", "post": "member", "edit": "member", "invite": "member", "moderate": "moderator",
    "silence": "moderator", "remove": "moderator", "pin": "moderator", "manage": "admin", "own": "owner",
}  # fmt: skip
SETTINGS: dict[str, Any] = {
    "edit_window_s": None, "delete_window_s": None, "slow_mode_s": 0, "unique_reactions": False,
    "versions": "keep", "history": "all", "join": "invited", "max_members": 1_000, "rights": {},
}  # fmt: skip
CONTENT = {"text": "", "format": "plain", "attachments": [], "mentions": [], "mention_all": False, "meta": {}}
MOST = 2**53 - 1


@dataclass(frozen=True)
class Fact:
    """An event that applied."""

    offset: int
    author: str
    time_ms: int
    event: dict[str, Any]

    @property
    def what(self) -> tuple[str, str]:
        return self.event["kind"], self.event.get("op", "")


class NaiveFold:
    """The facts of one conversation so far."""

    most_reactions = 5_000

    def __init__(self) -> None:
        self.facts: list[Fact] = []

    def apply(self, offset: int, author: str, time_ms: int, data: bytes) -> str | None:
        """Add an event to the facts, or say why it is void."""
        event = event_of(data)
        if event is None:
            return "malformed"
        why = self.why(offset, author, time_ms, event)
        if why is None:
            self.facts.append(Fact(offset, author, time_ms, event))
        return why

    # What is the case.

    def phase(self) -> str:
        phase = "none"
        for fact in self.facts:
            if fact.event["kind"] == "conversation":
                phase = {"create": "active", "close": "closed", "reopen": "active", "delete": "deleted"}.get(
                    fact.event["op"], phase
                )
        return phase

    def alive(self) -> list[Fact]:
        """The facts, or nothing once the conversation is deleted."""
        return [] if self.phase() == "deleted" else self.facts

    def type(self) -> str | None:
        for fact in self.facts:
            if fact.what == ("conversation", "create"):
                return str(fact.event.get("type", "group"))
        return None

    def name(self) -> str:
        names = [fact.event["name"] for fact in self.described() if "name" in fact.event]
        return str(names[-1]) if names else ""

    def described(self) -> list[Fact]:
        """The facts that may have a name or settings."""
        return [fact for fact in self.alive() if fact.what in (("conversation", "create"), ("conversation", "update"))]

    def settings(self, *, more: dict[str, Any] | None = None, upto: int = MOST) -> dict[str, Any]:
        changes = [fact.event.get("settings", {}) for fact in self.described() if fact.offset <= upto]
        result = {**SETTINGS, "rights": {}}
        for change in [*changes, more or {}]:
            for key in SETTINGS.keys() & change.keys() - {"rights"}:
                result[key] = change[key]
            result["rights"] = {**result["rights"], **change.get("rights", {})}
        result["rights"] = {right: role for right, role in result["rights"].items() if role != RIGHTS[right]}
        return result

    def members(self) -> dict[str, dict[str, Any]]:
        """Replay who came, went and changed role."""
        found: dict[str, dict[str, Any]] = {}
        invited: dict[str, str] = {}
        kind = self.type()
        for fact in self.alive():
            event, (sort, op) = fact.event, fact.what
            user = event.get("user") or fact.author
            if (sort, op) == ("conversation", "create"):
                if kind == "direct":
                    found = {u: _member("member", fact.offset, 0) for u in event["users"]}
                elif fact.author:
                    found[fact.author] = _member("owner", fact.offset, 0)
            if sort != "member":
                continue
            if op == "invite":
                invited[user] = event.get("role") or "member"
            if op in ("add", "join"):
                role = (event.get("role") if op == "add" else invited.get(user)) or "member"
                if kind == "group" and not found:
                    role = "owner"
                wanted = event.get("from", 0) if op == "add" else 0
                joined = self.settings(upto=fact.offset)["history"] == "joined"
                found[user] = _member(role, fact.offset, fact.offset if joined else max(0, min(wanted, fact.offset)))
            if op in ("add", "join", "decline", "leave", "remove", "ban"):
                invited.pop(user, None)
            if op in ("leave", "remove", "ban") and user in found:
                was_owner = found.pop(user)["role"] == "owner"
                heirs = [u for u, m in found.items() if kind == "group" or m["role"] in ("admin", "moderator")]
                if was_owner and heirs:
                    heir = min(heirs, key=lambda u: (-ROLES.index(found[u]["role"]), found[u]["role_since"]))
                    found[heir] = {**found[heir], "role": "owner", "role_since": fact.offset}
            if op == "role":
                if event["role"] == "owner":
                    for other in found.values():
                        if other["role"] == "owner":
                            other.update(role="admin", role_since=fact.offset)
                if kind == "open" and event["role"] == "member":
                    del found[user]
                elif user in found:
                    found[user].update(role=event["role"], role_since=fact.offset)
                else:
                    found[user] = _member(event["role"], fact.offset, 0)
        return found

    def invited(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for fact in self.alive():
            if fact.what == ("member", "invite"):
                found[fact.event["user"]] = fact.event.get("role") or "member"
            elif fact.what in [("member", op) for op in ("add", "join", "decline", "leave", "remove", "ban")]:
                found.pop(fact.event.get("user") or fact.author, None)
        return found

    def banned(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for fact in self.alive():
            if fact.event["kind"] == "member":
                if fact.event["op"] == "ban":
                    found[fact.event["user"]] = fact.event.get("until")
                elif fact.event["op"] in ("unban", "add", "join"):
                    found.pop(fact.event.get("user") or fact.author, None)
        return found

    def is_banned(self, user: str, now: int) -> bool:
        bans = self.banned()
        return user in bans and (bans[user] is None or bans[user] > now)

    def silenced(self) -> dict[str, int]:
        found = {}
        for fact in self.alive():
            if fact.what == ("member", "silence"):
                found[fact.event["user"]] = fact.event.get("until") or 0
        return {user: until for user, until in found.items() if until}

    def rank(self, user: str, now: int) -> int:
        """Place of a user's role from 1 to 5; 0 for none, 6 for the platform."""
        if user == "":
            return 6
        members = self.members()
        if user in members:
            return ROLES.index(members[user]["role"]) + 1
        return 2 if self.type() == "open" and not self.is_banned(user, now) else 0

    def may(self, user: str, now: int, right: str) -> bool:
        needed = self.settings()["rights"].get(right, RIGHTS[right])
        return self.rank(user, now) > ROLES.index(needed)

    def deleted_by(self, offset: int) -> int | None:
        """Offset of the event that deleted a message; None while it is live."""
        (message,) = [fact for fact in self.facts if fact.offset == offset]
        if message.event["kind"] == "erased":
            return int(message.event["by"])
        for fact in self.facts:
            if fact.offset > offset and (
                (fact.event["kind"] == "delete" and fact.event["of"] == offset)
                or (
                    fact.event["kind"] == "purge"
                    and fact.event["user"] == message.author
                    and fact.event["upto"] >= offset
                )
            ):
                return fact.offset
        return None

    def message(self, offset: int) -> Fact | None:
        for fact in self.alive():
            was = fact.event.get("was") if fact.event["kind"] == "erased" else fact.event["kind"]
            if fact.offset == offset and was == "message":
                return fact
        return None

    def revision(self, message: Fact) -> Fact:
        edits = [f for f in self.facts if f.event["kind"] == "edit" and f.event["of"] == message.offset]
        return edits[-1] if edits else message

    def reactions(self, offset: int) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for fact in self.facts:
            if fact.event["kind"] == "reaction" and fact.event["of"] == offset:
                name, user = fact.event["name"], fact.author
                if fact.event["op"] == "remove":
                    found[name].remove(user)
                else:
                    if self.settings(upto=fact.offset)["unique_reactions"]:
                        for users in found.values():
                            if user in users:
                                users.remove(user)
                        found = {key: users for key, users in found.items() if users}
                    found.setdefault(name, []).append(user)
                found = {key: users for key, users in found.items() if users}
        return found

    def is_pinned(self, offset: int) -> bool:
        ops = [f.event["op"] for f in self.facts if f.event["kind"] == "pin" and f.event["of"] == offset]
        return bool(ops) and ops[-1] == "add"

    def view(self) -> dict[str, Any]:
        """The state in the form of `state.view`."""
        members = self.members()
        messages = {}
        for fact in self.alive():
            message = self.message(fact.offset)
            if message is not None:
                messages[str(fact.offset)] = self._message_view(message)
        return {
            "phase": self.phase(),
            "type": self.type(),
            "name": self.name(),
            "settings": self.settings(),
            "owner": next((user for user, m in members.items() if m["role"] == "owner"), None),
            "members": members,
            "invited": self.invited(),
            "banned": {user: "for good" if until is None else until for user, until in self.banned().items()},
            "silenced": self.silenced(),
            "messages": messages,
            "n": sum(_counts(fact.event) for fact in self.facts if not self._is_behind_the_end(fact)),
        }

    def _is_behind_the_end(self, fact: Fact) -> bool:
        return any(f.what == ("conversation", "delete") and f.offset < fact.offset for f in self.facts)

    def _message_view(self, message: Fact) -> dict[str, Any]:
        offset, by = message.offset, self.deleted_by(message.offset)
        in_thread = [f for f in self.facts if f.event["kind"] == "message" and f.event.get("thread") == offset]
        replies = len([f for f in in_thread if self.deleted_by(f.offset) is None])
        if by is not None:
            return {"state": "deleted", "by": by, "counts": _counts(message.event), "replies": replies}
        newest = self.revision(message)
        return {
            "state": "live",
            "author": message.author,
            "time_ms": message.time_ms,
            **{key: newest.event.get(key, default) for key, default in CONTENT.items()},
            "rev": newest.offset,
            "counts": _counts(message.event),
            "reply_to": message.event.get("reply_to"),
            "thread": message.event.get("thread"),
            "reactions": self.reactions(offset),
            "replies": replies,
            "pinned": self.is_pinned(offset),
        }

    # Whether an event applies.

    def why(self, offset: int, author: str, now: int, event: dict[str, Any]) -> str | None:
        """Say why an event is void, or None."""
        kind, op = event["kind"], event.get("op", "")
        if kind not in SHAPES:
            return None
        if kind == "erased":
            return "not_allowed" if author else None
        phase = self.phase()
        if phase == "deleted":
            return "conversation_deleted"
        if phase == "none" and (kind, op) != ("conversation", "create"):
            return "no_conversation"
        if phase == "closed" and kind in ("message", "edit", "reaction", "pin"):
            return "closed"
        if kind == "member":
            return self._why_not_member(author, now, event)
        if kind == "conversation":
            return self._why_not_conversation(author, now, event)
        moderates = self.may(author, now, "moderate")
        if kind == "purge":
            return None if moderates or event["user"] == author else "not_allowed"
        allowed = {
            "message": self.may(author, now, "post"),
            "edit": moderates or self.may(author, now, "edit"),
            "delete": moderates or self.may(author, now, "edit"),
            "reaction": self.may(author, now, "react"),
            "pin": self.may(author, now, "pin"),
        }
        if not allowed[kind]:
            return "not_allowed"
        is_silenced = self.silenced().get(author, 0) > now
        if kind == "message":
            if is_silenced:
                return "silenced"
            if event.get("thread") is None:
                return None
            root = self.message(event["thread"])
            if root is None:
                return "no_message"
            gone = self.deleted_by(root.offset)
            return "deleted" if gone is not None and gone < offset else None
        target = self.message(event["of"])
        if target is None:
            return "no_message"
        gone = self.deleted_by(target.offset)
        if gone is not None:
            return None if kind == "delete" and gone == offset else "deleted"
        if kind == "reaction":
            reactions = self.reactions(target.offset)
            if (author in reactions.get(event["name"], [])) == (op == "add"):
                return "unchanged"
            full = event["name"] not in reactions and len(reactions) >= 100
            full = full or sum(len(users) for users in reactions.values()) >= self.most_reactions
            return "too_many" if op == "add" and full else None
        if kind == "pin":
            return "unchanged" if self.is_pinned(target.offset) == (op == "add") else None
        if not moderates and target.author != author:
            return "not_allowed"
        if kind == "edit" and not moderates and is_silenced:
            return "silenced"
        window = self.settings()[f"{kind}_window_s"]
        if window is not None and now > target.time_ms + window * 1_000 and not (kind == "delete" and moderates):
            return "too_late"
        wanted = event.get("if_rev")
        if kind == "edit" and wanted is not None and wanted != self.revision(target).offset:
            return "other_rev"
        return None

    def _why_not_member(self, author: str, now: int, event: dict[str, Any]) -> str | None:
        op, user, kind = event["op"], event.get("user", ""), self.type()
        if kind == "direct" or (kind == "open" and op in ("add", "join", "remove", "invite", "decline")):
            return "wrong_type"
        members, invited = self.members(), self.invited()
        is_full = len(members) >= self.settings()["max_members"]
        if op in ("join", "leave", "decline"):
            if not author or user not in ("", author):
                return "not_allowed"
            if op == "decline":
                return None if author in invited else "not_invited"
            if op == "leave":
                if author not in members:
                    return "not_a_member"
                return "not_allowed" if kind == "open" and members[author]["role"] == "reader" else None
            if author in members:
                return "unchanged"
            if self.is_banned(author, now):
                return "banned"
            if author not in invited and self.settings()["join"] == "invited":
                return "not_invited"
            return "full" if is_full else None
        role = event.get("role")
        if not user or (op == "role" and role is None):
            return "malformed"
        mine, theirs = self.rank(author, now), self.rank(user, now)

        def may(right: str) -> bool:
            return self.may(author, now, right)

        if op in ("add", "invite"):
            role = role or "member"
            extra = {"admin": "own", "owner": "own", "moderator": "manage"}.get(role, "invite")
            if not (may("invite") and may(extra)) or ROLES.index(role) + 1 > mine or role == "owner":
                return "not_allowed"
            if user in members or (op == "invite" and user in invited):
                return "unchanged"
            if self.is_banned(user, now):
                return "banned"
            if op == "invite":
                return "full" if len(invited) >= self.settings()["max_members"] else None
            return "full" if is_full else None
        if op == "remove":
            if not may("remove") or (user in members and mine <= theirs):
                return "not_allowed"
            return None if user in members or user in invited else "not_a_member"
        if op == "ban":
            if not may("manage") or mine <= theirs:
                return "not_allowed"
            bans = self.banned()
            return "unchanged" if user not in members and bans.get(user, "no") == event.get("until") else None
        if op == "unban":
            return "not_allowed" if not may("manage") else None if user in self.banned() else "unchanged"
        if op == "silence":
            if not may("silence") or mine <= theirs:
                return "not_allowed"
            if theirs == 0:
                return "not_a_member"
            return "unchanged" if self.silenced().get(user, 0) == (event.get("until") or 0) else None
        current = ROLES[theirs - 1] if 1 <= theirs <= 5 else None
        if not may("own" if {role, current} & {"owner", "admin"} else "manage"):
            return "not_allowed"
        if current is None:
            return "not_a_member"
        if role == current:
            return "unchanged"
        return "not_allowed" if current == "owner" else None

    def _why_not_conversation(self, author: str, now: int, event: dict[str, Any]) -> str | None:
        op, settings = event["op"], event.get("settings", {})
        if op == "create" and self.phase() != "none":
            return "exists"
        if op != "create" and not self.may(author, now, "manage" if op == "update" else "own"):
            return "not_allowed"
        if op in ("create", "update") and not all(_is_near(*pair) for pair in settings.get("rights", {}).items()):
            return "malformed"
        if op == "create" and event.get("type") == "direct":
            users = event.get("users", [])
            if len(users) not in (1, 2) or len(set(users)) != len(users) or "" in users:
                return "malformed"
            return None if author in ("", *users) else "not_allowed"
        if op == "update":
            is_same = self.settings(more=settings) == self.settings() and event.get("name", self.name()) == self.name()
            return "unchanged" if is_same else None
        if op in ("close", "reopen"):
            return "unchanged" if (self.phase() == "closed") == (op == "close") else None
        return None


def _member(role: str, offset: int, visible_from: int) -> dict[str, Any]:
    return {"role": role, "since": offset, "role_since": offset, "from": visible_from}


def _counts(event: dict[str, Any]) -> bool:
    if event["kind"] == "erased":
        return event["was"] == "message" and bool(event.get("counts"))
    return event["kind"] == "message" and not event.get("silent") and event.get("thread") is None


def _is_near(right: str, role: str) -> bool:
    if right == "own" or (right == "manage" and role in ("reader", "member", "moderator")):
        return role == RIGHTS[right]
    return abs(ROLES.index(role) - ROLES.index(RIGHTS[right])) <= 1


# What is an event at all.


def _is_offset(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MOST


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _or_null(check: Any) -> Any:
    return lambda value: value is None or check(value)


def _one_of(*allowed: str) -> Any:
    return lambda value: isinstance(value, str) and value in allowed


def _list_of(check: Any) -> Any:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _is_settings(value: Any) -> bool:
    number = lambda v: type(v) is int  # noqa: E731
    return isinstance(value, dict) and _has_shape(
        value,
        {
            "edit_window_s": _or_null(number), "delete_window_s": _or_null(number), "slow_mode_s": number,
            "unique_reactions": _is_flag, "versions": _one_of("keep", "erase"),
            "history": _one_of("all", "joined"), "join": _one_of("invited", "anyone"),
            "max_members": number,
            "rights": lambda v: isinstance(v, dict) and all(k in RIGHTS and r in ROLES for k, r in v.items()),
        },
    )  # fmt: skip


def _has_shape(value: dict[str, Any], shape: dict[str, Any]) -> bool:
    """Check members; those with a star are needed, those without a check ignored."""
    needed = [name[:-1] for name in shape if name.endswith("*")]
    checks = {name.rstrip("*"): check for name, check in shape.items()}
    return all(name in value for name in needed) and all(checks[name](value[name]) for name in value if name in checks)


_WRITTEN = {
    "text": _is_text, "format": _is_text, "attachments": _list_of(lambda _: True), "mentions": _list_of(_is_text),
    "mention_all": _is_flag, "meta": lambda v: isinstance(v, dict), "erased": _is_flag, "next": _or_null(_is_offset),
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "message": {
        **_WRITTEN, "reply_to": _or_null(_is_offset), "thread": _or_null(_is_offset), "silent": _is_flag,
        "cid": _is_text,
    },
    "edit": {**_WRITTEN, "of*": _is_offset, "if_rev": _or_null(_is_offset)},
    "delete": {"of*": _is_offset, "reason": _is_text},
    "purge": {"user*": _is_text, "upto*": _is_offset},
    "reaction": {"of*": _is_offset, "name*": _is_text, "op*": _one_of("add", "remove")},
    "pin": {"of*": _is_offset, "op*": _one_of("add", "remove")},
    "member": {
        "op*": _one_of("add", "join", "leave", "remove", "ban", "unban", "role", "invite", "decline", "silence"),
        "user": _is_text, "role": _or_null(_one_of(*ROLES)), "from": lambda v: type(v) is int,
        "until": _or_null(lambda v: type(v) is int and 0 <= v <= MOST),
    },
    "conversation": {
        "op*": _one_of("create", "update", "close", "reopen", "delete"), "type": _one_of("direct", "group", "open"),
        "name": _is_text, "settings": _is_settings, "users": _list_of(_is_text),
    },
    "erased": {"was*": _is_text, "by*": _is_offset, "counts": _is_flag},
}  # fmt: skip


def event_of(data: bytes) -> dict[str, Any] | None:
    """Return the event in `data`, or None."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        event = json.loads(data.decode(), parse_constant=refuse)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or not isinstance(event.get("kind"), str) or _depth(event) > 32:
        return None
    shape = SHAPES.get(event["kind"])
    return event if shape is None or _has_shape(event, shape) else None


def _depth(value: Any) -> int:
    """Nesting of arrays and objects, level by level."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [item for parent in level for item in (parent.values() if isinstance(parent, dict) else parent)]
    return depth
