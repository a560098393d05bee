"""What is unread, counted by brute force over a log.

It is what the real counts are compared with, and shares no code with them. `Truth` has the events as they were written,
whatever was erased since, and goes through all of them for each position. It knows no more rules than the tests need:
`OWNER` is there all the time, and may edit and delete what others wrote; all others may post while they are members.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple

OWNER = "owner"


class Written(NamedTuple):
    """An event as it was written."""

    offset: int
    author: str
    event: dict[str, Any]


@dataclass
class Message:
    """A message at some position."""

    offset: int
    author: str
    silent: bool
    thread: int | None
    mentions: set[str]
    everybody: bool
    text: str
    is_edited: bool = False
    is_live: bool = True

    @property
    def counts(self) -> bool:
        return self.is_live and not self.silent and self.thread is None

    def mentions_user(self, user: str) -> bool:
        is_loud = self.is_live and (not self.silent or self.thread is not None)
        return is_loud and self.author != user and (self.everybody or user in self.mentions)


@dataclass
class State:
    """A conversation at some position."""

    messages: dict[int, Message] = field(default_factory=dict)
    since: dict[str, int] = field(default_factory=dict)  # member → offset of the event that let the user in
    visible: dict[str, int] = field(default_factory=dict)  # member → history is visible above it
    is_deleted: bool = False

    def unread(self, user: str, above: int) -> tuple[int, int]:
        """Unread messages and mentions above a marker."""
        if user not in self.since or self.is_deleted:
            return 0, 0
        above = max(above, self.since[user], self.visible[user])
        messages = [one for one in self.messages.values() if one.offset > above]
        counting = [one for one in messages if one.counts and one.author != user]
        return len(counting), sum(one.mentions_user(user) for one in messages)


class Truth:
    """A conversation, from its log."""

    def __init__(self, history: str = "all") -> None:
        self.history = history
        self.written: list[Written] = []
        self.removed = 0  # history was removed up to here

    @property
    def top(self) -> int:
        return self.written[-1].offset if self.written else 0

    def add(self, offset: int, author: str, data: bytes) -> None:
        assert offset == self.top + 1
        self.written.append(Written(offset, author, json.loads(data)))

    def at(self, position: int) -> State:
        """The state at a position: everything is gone through from the beginning."""
        state = State()
        for one in self.written[:position]:
            self._apply(state, *one)
        return state

    def _apply(self, state: State, offset: int, author: str, event: dict[str, Any]) -> None:
        kind, op = event["kind"], event.get("op")
        is_in = author in state.since
        if state.is_deleted:
            return
        if kind == "conversation":
            if op == "create":
                state.since[author], state.visible[author] = offset, 0
            state.is_deleted = op == "delete"
        elif kind == "member":
            user = event.get("user") or author
            if op in ("add", "join") and user not in state.since:
                joined = self.history == "joined"
                state.since[user], state.visible[user] = offset, offset if joined else 0
            elif op in ("leave", "remove"):
                state.since.pop(user, None)
                state.visible.pop(user, None)
        elif kind == "message":
            root = event.get("thread")
            if is_in and (root is None or (root in state.messages and state.messages[root].is_live)):
                mentions, everybody = set(event.get("mentions", ())), bool(event.get("mention_all"))
                silent = bool(event.get("silent"))
                state.messages[offset] = Message(offset, author, silent, root, mentions, everybody, event["text"])
        elif kind == "edit":
            found = state.messages.get(event["of"])
            if found is not None and found.is_live and is_in and author in (found.author, OWNER):
                found.mentions, found.everybody = set(event.get("mentions", ())), bool(event.get("mention_all"))
                found.text, found.is_edited = event["text"], True
        elif kind == "delete":
            found = state.messages.get(event["of"])
            if found is not None and is_in and author in (found.author, OWNER):
                found.is_live = False
        elif kind == "purge" and author in (event["user"], OWNER):
            for found in state.messages.values():
                if found.author == event["user"] and found.offset <= min(event["upto"], offset - 1):
                    found.is_live = False
