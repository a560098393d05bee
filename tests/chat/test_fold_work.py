"""The work of the fold grows with the log, not with its square.

Work is counted in executed bytecode instructions, so it is the same on every machine.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import pytest

from services.persistence.chat.domain.fold import Entry, apply, fold
from services.persistence.chat.domain.state import Conversation, view
from tests.chat.random_log import random_log

ROOT = Path(__file__).parents[2]
Event = tuple[str, dict[str, Any]]
CREATE: Event = ("u0", {"kind": "conversation", "op": "create", "settings": {"max_members": 10_000, "join": "anyone"}})


def _message(author: str, **members: Any) -> Event:
    return author, {"kind": "message", "text": "a", **members}


def _member(author: str, op: str, user: str, **members: Any) -> Event:
    return author, {"kind": "member", "op": op, "user": user, **members}


def posts(size: int) -> list[Event]:
    """Messages of one author."""
    return [CREATE, *[_message("u0")] * size]


def edits_of_one(size: int) -> list[Event]:
    """One message that is edited again and again."""
    return [CREATE, _message("u0"), *[("u0", {"kind": "edit", "of": 2, "text": "b"})] * size]


def purges_bit_by_bit(size: int) -> list[Event]:
    """Many messages, then a purge of each one."""
    half = size // 2
    purges = [("u0", {"kind": "purge", "user": "u0", "upto": offset + 2}) for offset in range(half)]
    return [CREATE, *[_message("u0")] * half, *purges]


def purges_of_nothing(size: int) -> list[Event]:
    """Many messages of one author, and purges of another who wrote nothing."""
    half = size // 2
    return [CREATE, *[_message("u0")] * half, *[("", {"kind": "purge", "user": "u1", "upto": size})] * half]


def deletes_then_purges(size: int) -> list[Event]:
    """Messages that are deleted one by one, with a purge behind each delete."""
    third = size // 3
    events: list[Event] = [CREATE, *[_message("u0")] * third]
    for offset in range(third + 1, 1, -1):
        events += [("u0", {"kind": "delete", "of": offset}), ("u0", {"kind": "purge", "user": "u0", "upto": 1})]
    return events


def owners_who_leave(size: int) -> list[Event]:
    """Members join, then the owner leaves, and the next one, and so on."""
    half = size // 2
    users = [f"u{number}" for number in range(half)]
    return [CREATE, *[_member(user, "join", user) for user in users[1:]], *[_member(u, "leave", u) for u in users]]


def admins_who_come_and_go(size: int) -> list[Event]:
    """Many members, of whom one after the other becomes owner."""
    half = size // 2
    users = [f"u{number}" for number in range(half)]
    transfers = [_member(was, "role", new, role="owner") for was, new in itertools.pairwise(users)]
    return [CREATE, *[_member(user, "join", user) for user in users[1:]], *transfers]


def reactions_to_one(size: int) -> list[Event]:
    """A message with 30 different reactions of many users, who then have others."""
    half = size // 2
    unique = ("u0", {"kind": "conversation", "op": "update", "settings": {"unique_reactions": True}})
    events: list[Event] = [("u0", {"kind": "conversation", "op": "create", "type": "open"}), _message("u0"), unique]
    for turn in range(2):
        events += [
            (f"u{user}", {"kind": "reaction", "of": 2, "name": f"r{(user + turn) % 30}", "op": "add"})
            for user in range(half)
        ]
    return events


def a_long_thread(size: int) -> list[Event]:
    """A thread whose messages go one by one."""
    half = size // 2
    deletes = [("u0", {"kind": "delete", "of": offset + 3}) for offset in range(half)]
    return [CREATE, _message("u0"), *[_message("u0", thread=2)] * half, *deletes]


def strangers(size: int) -> list[Event]:
    """Void events alone."""
    return [CREATE, *[_message("u9"), _member("u9", "add", "u9")] * (size // 2)]


def bans(size: int) -> list[Event]:
    """An open conversation with many bans."""
    opened: Event = ("u0", {"kind": "conversation", "op": "create", "type": "open"})
    return [opened, *[_member("u0", "ban", f"v{number}") for number in range(size)]]


def instructions(events: list[Event]) -> int:
    """Number of bytecode instructions that the fold of these events executes."""
    log = [
        Entry(offset, author, offset * 1_000, json.dumps(event).encode())
        for offset, (author, event) in enumerate(events, start=1)
    ]
    count = 0

    def trace(frame: FrameType, what: str, _argument: object) -> Callable[..., Any]:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += what == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        fold(log)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize(
    "make",
    [
        posts,
        edits_of_one,
        purges_bit_by_bit,
        purges_of_nothing,
        deletes_then_purges,
        owners_who_leave,
        admins_who_come_and_go,
        reactions_to_one,
        a_long_thread,
        strangers,
        bans,
    ],
)
def test_ten_times_the_events_are_ten_times_the_work(make: Callable[[int], list[Event]]) -> None:
    few, many = instructions(make(1_000)), instructions(make(10_000))
    assert many < few * 11, f"{many / few:.1f} times the work"


def test_the_logs_of_these_tests_do_what_they_say() -> None:
    def state(events: list[Event]) -> Conversation:
        conversation = Conversation()
        whys = [apply(conversation, Entry(at, *_encoded(*event))) for at, event in enumerate(events, start=1)]
        void.append(sum(why is not None for why in whys))
        return conversation

    void: list[int] = []
    assert all(message["state"] == "deleted" for message in view(state(purges_bit_by_bit(100)))["messages"].values())
    assert state(owners_who_leave(100)).members == {}
    assert state(admins_who_come_and_go(100)).owner() == "u49"
    reactions = view(state(reactions_to_one(400)))["messages"]["2"]["reactions"]
    assert len(reactions) == 30
    assert sum(map(len, reactions.values())) == 200
    assert view(state(a_long_thread(100)))["messages"]["2"]["replies"] == 0
    assert len(state(bans(100)).banned) == 100
    assert void == [0] * 6


def _encoded(author: str, event: dict[str, Any]) -> tuple[str, int, bytes]:
    return author, 1_000, json.dumps(event).encode()


def test_the_state_is_the_same_in_processes_with_other_hashes() -> None:
    program = (
        "import hashlib, json\nfrom random import Random\n"
        "from services.persistence.chat.domain.fold import fold\n"
        "from services.persistence.chat.domain.state import view\n"
        "from tests.chat.random_log import random_log\n"
        "views = [view(fold(random_log(Random(seed), 60))) for seed in range(50)]\n"
        "print(hashlib.sha256(json.dumps(views).encode()).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    here = json.dumps([view(fold(random_log(Random(seed), 60))) for seed in range(50)])
    assert len(here) > 10_000
    assert found == {hashlib.sha256(here.encode()).hexdigest() + "\n"}
