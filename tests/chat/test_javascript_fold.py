"""The fold in JavaScript comes to the same as the one in Python (C01).

A failure names its seed: `random_log(Random(seed), LENGTH)` makes the log again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest

from services.persistence.chat.domain import events
from services.persistence.chat.domain.fold import Entry, apply
from services.persistence.chat.domain.state import Conversation, view
from tests.chat.random_log import erased, random_log
from tests.chat.vector_files import Vector, differences, files
from tests.support.full import sized
from tests.support.javascript_fold import Folded, JavaScriptFold

VECTORS = [pytest.param(vector, id=f"{name}: {vector.it}") for name, file in files().items() for vector in file.vectors]
LOGS = sized(1_000, 20_000)
LENGTH = 60
BLOCKS = 5
SEEDS = [range(LOGS * block // BLOCKS, LOGS * (block + 1) // BLOCKS) for block in range(BLOCKS)]
KINDS = [*sorted(events.KINDS), "x.poll", ""]
MEMBERS = ["of", "op", "user", "name", "text", "role", "until", "from", "by", "was", "counts", "thread", "settings"]
MEMBERS += ["type", "users", "upto", "meta", "mentions", "attachments", "erased", "next", "if_rev", "silent", "reason"]
MEMBERS += ["reply_to", "mention_all", "format", "cid"]
seeds = pytest.mark.parametrize("block", SEEDS, ids=lambda block: f"seeds {block.start} to {block.stop - 1}")


@pytest.fixture(scope="module")
def javascript() -> Iterator[JavaScriptFold]:
    with JavaScriptFold() as running:
        yield running


def in_python(log: list[Entry]) -> Folded:
    state = Conversation()
    voids = [apply(state, entry) for entry in log]
    return Folded([None if why is None else why.value for why in voids], json.loads(json.dumps(view(state))))


@pytest.mark.parametrize("vector", VECTORS)
def test_the_fold_in_javascript_of_a_vector_is_as_it_says(javascript: JavaScriptFold, vector: Vector) -> None:
    entries = list(vector.entries())
    found = javascript.fold([entry for _, entry in entries])
    assert found.voids == [step.void for step, _ in entries]
    assert differences(vector.then, found.view) == []


@seeds
def test_random_logs_lead_to_the_same_state_in_both(javascript: JavaScriptFold, block: range) -> None:
    for seed in block:
        log = random_log(Random(seed), LENGTH)
        assert javascript.fold(log) == in_python(log), seed


@seeds
def test_logs_of_which_much_was_erased_lead_to_the_same_state_in_both(javascript: JavaScriptFold, block: range) -> None:
    for seed in block:
        log = erased(Random(seed), random_log(Random(seed), LENGTH), LENGTH)
        assert javascript.fold(log) == in_python(log), seed


@seeds
def test_events_with_members_that_hardly_fit_are_void_for_both_or_for_none(
    javascript: JavaScriptFold, block: range
) -> None:
    for seed in block:
        rng = Random(seed)
        log = random_log(rng, LENGTH)
        for at in range(0, LENGTH, 2):
            log[at] = replace(log[at], data=_unlikely(rng))
        assert javascript.fold(log) == in_python(log), seed


def _unlikely(rng: Random) -> bytes:
    """An event of any kind, with any of the members that events have."""
    values: list[object] = [
        None,
        True,
        False,
        -1,
        0,
        1,
        3,
        9,
        2**53,
        1.5,
        "",
        "u1",
        "add",
        "owner",
        "message",
        [],
        ["u1"],
        [7],
        {},
    ]
    members = {name: rng.choice(values) for name in rng.sample(MEMBERS, rng.randint(0, 6))}
    return json.dumps({"kind": rng.choice(KINDS), **members}).encode()


def test_data_that_an_sdk_parsed_leads_to_the_same_state(javascript: JavaScriptFold) -> None:
    for seed in range(LOGS // 10):
        log = [entry for entry in random_log(Random(seed), LENGTH) if events.read(entry.data) is not None]
        assert javascript.fold(log, parsed=True) == in_python(log), seed


@pytest.mark.parametrize(
    "data",
    [
        b'{"kind":"message","text":"\\ud800"}',
        b'{"kind":"message","text":"\\udc00\\ud800"}',
        b'{"kind":"message","text":"\\\\ud800"}',
        b'{"kind":"message","text":"\\ud83d\\ude00"}',
        b'{"kind":"message","text":"\\ud83d\xf0\x9f\x98\x80"}',
        b'{"kind":"message","text":"1.0","meta":{"a":1.5,"b":"2.0","c":1e5,"d":-0}}',
        b'{"kind":"message","meta":{"a":1e400}}',
        b'{"kind":"x.a","a":1e400}',
        b'{"kind":"message","thread":1.0}',
        b'{"kind":"message","thread":1e0}',
        b'{"kind":"member","op":"add","user":"u","from":1.0}',
        b'{"kind":"message","text":"a\tb"}',
        b'{"kind":"message","text":"\xff"}',
        b"\xef\xbb\xbf" + b'{"kind":"message"}',
        b' {"kind":"message"}\n',
        b'{"\\u006bind":"message"}',
        b'{"kind":"message","meta":{"__proto__":{"a":1}}}',
        b'{"kind":"message","__proto__":{"text":7}}',
        b'{"kind":"message","needed":7}',
        b'{"kind":"__proto__"}',
        b'{"kind":"constructor"}',
        b'{"kind":"x.a","a":NaN}',
        b'{"kind":"message","meta":{"a":' + b"[" * 30 + b"]" * 30 + b"}}",
        b'{"kind":"message","meta":{"a":' + b"[" * 31 + b"]" * 31 + b"}}",
        b'{"kind":"message","meta":{"a":"' + b"[" * 40 + b'\\""}}',
        b'{"kind":"message","text":"' + b"a" * 200_000 + b'"}',
        b"[" * 5_000,
    ],
    ids=lambda data: str(data[:70]),
)
def test_both_read_the_same_of_unusual_json(javascript: JavaScriptFold, data: bytes) -> None:
    log = [Entry(1, "__proto__", 1, b'{"kind":"conversation","op":"create"}'), Entry(2, "__proto__", 2, data)]
    assert javascript.fold(log) == in_python(log)
