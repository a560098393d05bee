"""What holds of the fold of every log: random logs, compared with a second fold.

A failure names its seed: `log_of(seed)` makes the log again.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from services.persistence.chat.domain import events, rules
from services.persistence.chat.domain.fold import Entry, apply, fold
from services.persistence.chat.domain.rights import Role
from services.persistence.chat.domain.rules import Why
from services.persistence.chat.domain.state import Conversation, Message, Type, view
from tests.chat.naive_fold import NaiveFold
from tests.chat.random_log import erased, outcomes, random_event, random_log
from tests.support.full import FULL, sized

LOGS = sized(2_000, 20_000)
LENGTH = 60
BLOCKS = 20
SEEDS = [range(LOGS * block // BLOCKS, LOGS * (block + 1) // BLOCKS) for block in range(BLOCKS)]
MEMBERS = [
    "of",
    "op",
    "user",
    "name",
    "text",
    "role",
    "until",
    "from",
    "by",
    "was",
    "counts",
    "thread",
    "settings",
    "type",
]
MEMBERS += ["users", "upto", "meta", "mentions", "rights", "erased", "next", "if_rev", "silent", "reason", "reply_to"]
seeds = pytest.mark.parametrize("block", SEEDS, ids=lambda block: f"seeds {block.start} to {block.stop - 1}")


@functools.lru_cache(maxsize=2_000)
def log_of(seed: int) -> tuple[Entry, ...]:
    """The random log of a seed."""
    return tuple(random_log(Random(seed), LENGTH))


def check_consistency(state: Conversation) -> None:
    """Owners, and that what the state keeps twice is the same."""
    owners = [user for user, member in state.members.items() if member.role is Role.OWNER]
    if state.type is Type.GROUP:
        assert len(owners) == (1 if state.members else 0)
    else:
        assert len(owners) <= (1 if state.type is Type.OPEN else 0)
    assert state.owner() == (owners[0] if owners else None)
    assert {role: set(users) for role, users in state.by_role.items()} == {
        role: {user for user, member in state.members.items() if member.role is role} for role in Role
    }
    assert not state.invited.keys() & state.members.keys()
    live = {offset: message for offset, message in state.messages.items() if isinstance(message, Message)}
    for offset, message in live.items():
        assert offset in state.written[message.author]
        assert all(message.reactions.values())
    for offset, kept in state.messages.items():
        assert kept.replies == sum(message.thread == offset for message in live.values())


class Comparison(RuleBasedStateMachine):
    """The fold and the naive fold, entry by entry."""

    def __init__(self) -> None:
        super().__init__()
        self.state, self.naive, self.n = Conversation(), NaiveFold(), 0
        self.offset, self.time_ms = 0, 1_000

    @rule(rng=st.randoms(use_true_random=False), passed_ms=st.sampled_from([0, 1, 1_000, 60_000]))
    def likely(self, rng: Random, passed_ms: int) -> None:
        """An event that makes sense, or nearly."""
        self.time_ms += passed_ms
        self.add(*random_event(rng, self.state, self.offset + 1, self.time_ms))

    @rule(
        author=st.sampled_from(["", "u1", "u2"]),
        kind=st.sampled_from([*sorted(events.KINDS), "x.poll", ""]),
        members=st.dictionaries(
            st.sampled_from(MEMBERS),
            st.none() | st.booleans() | st.integers(-1, 9) | st.sampled_from(["add", "role", "u1", "owner", "message"]),
            max_size=5,
        ),
    )  # fmt: skip
    def unlikely(self, author: str, kind: str, members: dict[str, object]) -> None:
        """An event with members that hardly fit."""
        self.add(author, json.dumps({"kind": kind, **members}).encode())

    def add(self, author: str, data: bytes) -> None:
        self.offset += 1
        before = view(self.state)
        why = apply(self.state, Entry(self.offset, author, self.time_ms, data))
        assert why == self.naive.apply(self.offset, author, self.time_ms, data)
        assert why is None or view(self.state) == before

    @invariant()
    def same(self) -> None:
        """Both have the same state."""
        check_consistency(self.state)
        assert view(self.state) == self.naive.view()


TestComparison = Comparison.TestCase
TestComparison.settings = settings(
    max_examples=sized(40, 2_000), stateful_step_count=sized(25, 200), derandomize=not FULL, deadline=None
)


def test_the_bound_of_reactions_is_that_of_the_naive_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MAX_REACTIONS", 1)
    monkeypatch.setattr(NaiveFold, "most_reactions", 1)
    found: Counter[Why | None] = Counter()
    for seed in range(200):
        state, naive = Conversation(), NaiveFold()
        for entry in log_of(seed):
            why = apply(state, entry)
            found[why] += 1
            assert why == naive.apply(entry.offset, entry.author, entry.time_ms, entry.data), (seed, entry)
    assert found[Why.TOO_MANY] > 10


@seeds
def test_random_logs_have_the_same_result_as_the_naive_fold(block: range) -> None:
    for seed in block:
        state, naive = Conversation(), NaiveFold()
        for entry in log_of(seed)[: LENGTH // 2]:
            why = apply(state, entry)
            assert why == naive.apply(entry.offset, entry.author, entry.time_ms, entry.data), (seed, entry)
        assert view(state) == naive.view(), seed


@seeds
def test_one_owner_n_counts_and_nothing_kept_twice_differs(block: range) -> None:
    for seed in block:
        state, counted = Conversation(), 0
        for entry in log_of(seed):
            event, is_deleted = events.read(entry.data), state.phase == "deleted"
            if apply(state, entry) is None and not is_deleted:
                counted += isinstance(event, events.Message) and not event.silent and event.thread is None
                counted += isinstance(event, events.Erased) and event.was == "message" and event.counts
            assert state.n == counted, (seed, entry)
            check_consistency(state)


@seeds
def test_erasing_changes_no_state_from_then_on(block: range) -> None:
    for seed in block:
        rng = Random(seed)
        log = log_of(seed)
        upto = rng.randint(LENGTH // 2, LENGTH)
        other = erased(rng, log, upto)
        one, two = fold(log[:upto]), fold(other[:upto])
        assert view(one) == view(two), seed
        for was, now in zip(log[upto:], other[upto:], strict=True):
            assert apply(one, was) == apply(two, now), (seed, was)
            assert view(one) == view(two), (seed, was)


@seeds
def test_erasing_step_by_step_is_erasing_at_once(block: range) -> None:
    for seed in block:
        rng = Random(seed)
        log = log_of(seed)
        halfway = erased(rng, log, LENGTH // 2)
        assert view(fold(erased(rng, halfway, LENGTH))) == view(fold(log)), seed


@seeds
def test_a_fold_that_goes_on_from_a_prefix_is_the_fold_of_the_whole(block: range) -> None:
    for seed in block:
        rng = Random(seed)
        log = log_of(seed)
        cut = rng.randint(0, LENGTH)
        prefix = fold(log[:cut])
        seen, kept = view(prefix), copy.deepcopy(prefix)
        whole = fold(log[cut:], prefix)
        assert view(whole) == view(fold(log)), seed
        assert view(kept) == seen, seed


@seeds
def test_a_fold_is_the_same_each_time_in_the_order_of_its_members_too(block: range) -> None:
    for seed in block:
        log = log_of(seed)
        assert json.dumps(view(fold(log))) == json.dumps(view(fold(log))), seed


def test_random_logs_meet_every_kind_and_every_reason() -> None:
    kinds, reasons = Counter[str](), Counter[Why | None]()
    for seed in range(300):
        log = log_of(seed)
        whys = outcomes(log)
        reasons.update(whys)
        for entry, why in zip(log, whys, strict=True):
            if why is None:
                event = events.read(entry.data)
                kinds[f"{type(event).__name__} {getattr(event, 'op', '')}".strip()] += 1
    rare = {Why.TOO_MANY}  # 101 different reactions are left to the vectors
    assert {why for why in Why if reasons[why] < 3} == rare, reasons
    assert sum(reasons.values()) * 0.3 < reasons[None], reasons
    assert min(kinds.values()) >= 3, kinds
    assert len(kinds) == 25, sorted(kinds)


def test_random_logs_have_something_to_erase() -> None:
    replaced = Counter[str]()
    for seed in range(100):
        log = log_of(seed)
        for was, now in zip(log, erased(Random(seed), log, LENGTH), strict=True):
            if was != now:
                replaced[json.loads(now.data)["kind"] + " of " + json.loads(was.data)["kind"]] += 1
    expected = {"erased of message", "erased of edit", "erased of reaction", "message of message", "edit of edit"}
    assert {kind for kind, count in replaced.items() if count >= 5} == expected, replaced


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
_NAMES = st.sampled_from(MEMBERS)


@settings(max_examples=sized(200, 20_000), derandomize=not FULL, deadline=None)
@given(
    log=st.lists(
        st.tuples(
            st.sampled_from(["", "u1", "u2"]),
            st.integers(),
            st.binary()
            | _JSON.map(lambda value: json.dumps(value).encode())
            | st.builds(
                lambda kind, rest: json.dumps({"kind": kind, **rest}).encode(),
                st.sampled_from(sorted(events.KINDS)),
                st.dictionaries(_NAMES, _JSON, max_size=6),
            ),
        ),
        max_size=20,
    )
)
def test_any_bytes_lead_to_a_state_or_to_a_reason(log: list[tuple[str, int, bytes]]) -> None:
    state = Conversation()
    for offset, (author, time_ms, data) in enumerate(log, start=1):
        assert apply(state, Entry(offset, author, time_ms, data)) in (None, *Why)
        with contextlib.suppress(events.Malformed):
            assert isinstance(events.parse(data), type(events.read(data)))
    json.dumps(view(state))
    check_consistency(state)
