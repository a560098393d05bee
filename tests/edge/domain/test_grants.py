"""Patterns of channels, grants, and the claim `caps`."""

from __future__ import annotations

import fnmatch
import random
import time
from typing import Any

import msgspec
import pytest

from services.edge.domain.access.caps import Cap, read_caps
from services.edge.domain.access.channel_patterns import ChannelPattern
from services.edge.domain.access.grants import NEVER, NO_GRANTS, Grant, Grants, Operation

SEED = 7


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("chat:a", ["chat:a"], ["chat:ab", "chat:", "Chat:a"]),
        ("chat:*", ["chat:", "chat:a", "chat:a:b"], ["chat", "xchat:a"]),
        ("*", ["", "a"], []),
        ("*:a", ["chat:a", ":a"], ["chat:b", "chat:a "]),
        ("a*a", ["aa", "aba"], ["a", "ab"]),
        ("a*b*c", ["abc", "axxbyyc", "abbc"], ["ac", "acb", "abcd"]),
        ("ab*ba", ["abba", "abxba"], ["aba"]),
        ("[a]?*", ["[a]?", "[a]?x"], ["a1"]),
    ],
)
def test_a_star_stands_for_any_text_and_all_else_for_itself(
    pattern: str, matching: list[str], others: list[str]
) -> None:
    assert [name for name in matching if not ChannelPattern(pattern).matches(name)] == []
    assert [name for name in others if ChannelPattern(pattern).matches(name)] == []


def test_patterns_match_what_fnmatch_does() -> None:
    rng = random.Random(SEED)
    for _ in range(20_000):
        pattern = "".join(rng.choices("ab*", k=rng.randrange(8)))
        name = "".join(rng.choices("ab", k=rng.randrange(10)))
        assert ChannelPattern(pattern).matches(name) == fnmatch.fnmatchcase(name, pattern), (SEED, pattern, name)


def test_no_pattern_is_slow() -> None:
    pattern = ChannelPattern("*a" * 120 + "*b")
    started = time.process_time()
    for _ in range(100):
        assert not pattern.matches("a" * 255)
    assert time.process_time() - started < 1.0  # backtracking would take years


def test_the_longest_grant_counts() -> None:
    grants = Grants(
        [
            Grant("chat:a", Operation.PUBLISH, 10.0),
            Grant("chat:a", Operation.PUBLISH, 5.0),
            Grant("chat:*", Operation.PUBLISH, 20.0, is_pattern=True),
            Grant("chat:*", Operation.HISTORY, 30.0, is_pattern=True),
            Grant("*", Operation.HISTORY, is_pattern=True),
        ]
    )
    for _ in range(2):  # the second time from what is remembered
        assert grants.until("chat:a", Operation.PUBLISH) == 20.0
        assert grants.until("chat:b", Operation.PUBLISH) == 20.0
        assert grants.until("live:b", Operation.PUBLISH) == 0.0
        assert grants.until("chat:a", Operation.HISTORY) == NEVER
        assert grants.until("chat:a", Operation.SUBSCRIBE) == 0.0
    assert grants
    assert not NO_GRANTS


def test_outcomes_that_are_remembered_are_right_however_many_there_are() -> None:
    grants = Grants([Grant("chat:1*", Operation.PUBLISH, is_pattern=True)])
    for number in [*range(2_000), *range(2_000)]:
        assert bool(grants.until(f"chat:{number}", Operation.PUBLISH)) == str(number).startswith("1")


def caps(*entries: dict[str, Any]) -> Grants:
    return read_caps(msgspec.convert(list(entries), list[Cap]))


def test_short_and_full_names_of_operations_mean_the_same() -> None:
    for short, operation in zip(("sub", "pub", "hst", "prs", "ent", "mng"), Operation, strict=True):
        for name in (short, operation.value):
            grants = caps({"channels": ["chat:a"], "allow": [name]})
            assert [one for one in Operation if grants.until("chat:a", one)] == [operation]


def test_a_star_is_a_wildcard_only_where_the_token_says_so() -> None:
    assert caps({"channels": ["chat:*"], "match": "wildcard", "allow": ["sub"]}).until("chat:a", Operation.SUBSCRIBE)
    for match in ("", "exact", "regex", "WILDCARD"):
        grants = caps({"channels": ["chat:*", ".*"], "match": match, "allow": ["sub"]})
        assert not grants.until("chat:a", Operation.SUBSCRIBE), match


def test_what_is_not_known_grants_nothing_and_spoils_nothing() -> None:
    grants = caps(
        {"channels": ["a"], "allow": ["fly", "pub"]},
        {"channels": ["b"], "match": "soundex", "allow": ["pub"]},
        {"channels": ["c"], "allow": ["sub"], "colour": "red"},
        {},
    )
    assert grants.until("a", Operation.PUBLISH)
    assert grants.until("c", Operation.SUBSCRIBE)
    assert not grants.until("b", Operation.PUBLISH)


@pytest.mark.parametrize(
    "entry",
    [
        {"channels": ["x" * 256], "allow": ["sub"]},
        {"channels": [str(number) for number in range(1_001)], "allow": ["sub"]},
        {"channels": [f"{number}*" for number in range(101)], "match": "wildcard", "allow": ["sub"]},
    ],
)
def test_too_many_or_too_long_are_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"too long|more than"):
        caps(entry)
