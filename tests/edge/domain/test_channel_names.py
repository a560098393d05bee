"""Which names channels may have, and whom a name is for.

Wire protocol, 5.2 and 10.
"""

from __future__ import annotations

import pytest

from services.edge.domain.access.channel_names import (
    find_namespace,
    is_private,
    listed_users,
    name_permits,
)
from services.shared.errors import ErrorCode, ThalamusError
from services.shared.namespaces import Namespace, Namespaces

CHAT = Namespace(name="chat")
MAX_BYTES = 20


# Names of channels.


def refusal(namespaces: Namespaces, channel: str, max_bytes: int = MAX_BYTES) -> ErrorCode:
    with pytest.raises(ThalamusError) as caught:
        find_namespace(namespaces, channel, max_bytes)
    return caught.value.code


NAMESPACES = Namespaces(Namespace(name=""), {"chat": CHAT})


def test_the_part_before_the_colon_is_the_namespace_and_a_dollar_does_not_count() -> None:
    assert find_namespace(NAMESPACES, "chat:a", MAX_BYTES).name == "chat"
    assert find_namespace(NAMESPACES, "$chat:a", MAX_BYTES).name == "chat"
    assert find_namespace(NAMESPACES, "chat:a:b", MAX_BYTES).name == "chat"
    assert find_namespace(NAMESPACES, "chat", MAX_BYTES).name == ""
    assert find_namespace(NAMESPACES, "$a", MAX_BYTES).name == ""


def test_a_namespace_that_is_not_configured_is_refused_with_102() -> None:
    assert refusal(NAMESPACES, "other:a") == ErrorCode.UNKNOWN_CHANNEL
    assert refusal(NAMESPACES, ":a") == ErrorCode.UNKNOWN_CHANNEL
    assert refusal(Namespaces(None, {"chat": CHAT}), "a") == ErrorCode.UNKNOWN_CHANNEL


def test_a_name_may_be_as_long_as_the_limit_counted_in_bytes_of_utf8() -> None:
    assert find_namespace(NAMESPACES, "a" * MAX_BYTES, MAX_BYTES).name == ""
    assert refusal(NAMESPACES, "a" * (MAX_BYTES + 1)) == ErrorCode.BAD_REQUEST
    # Two bytes each. The namespace is unknown, so 107 can only come from the length.
    assert refusal(NAMESPACES, "x:" + "é" * 9) == ErrorCode.UNKNOWN_CHANNEL
    assert refusal(NAMESPACES, "x:" + "é" * 10) == ErrorCode.BAD_REQUEST


def test_half_a_surrogate_pair_in_a_name_is_refused_and_breaks_nothing() -> None:
    assert refusal(NAMESPACES, "chat:\ud800") == ErrorCode.BAD_REQUEST
    assert refusal(NAMESPACES, "\ud800" * MAX_BYTES) == ErrorCode.BAD_REQUEST


@pytest.mark.parametrize("channel", ["", "a b", "a*", "a/b", "a&b", "a{b}", "é", "a\n", "chat:a b", "chat:\x7f"])
def test_characters_that_no_name_may_have_are_refused_with_107(channel: str) -> None:
    assert refusal(NAMESPACES, channel) == ErrorCode.BAD_REQUEST


def test_length_is_checked_before_the_namespace_and_the_namespace_before_the_characters() -> None:
    assert refusal(NAMESPACES, "other:" + "a " * MAX_BYTES) == ErrorCode.BAD_REQUEST
    assert refusal(NAMESPACES, "other:a b") == ErrorCode.UNKNOWN_CHANNEL


LETTERS = Namespaces(
    Namespace(name="", channel_regex=r"[a-z$]+"), {"chat": Namespace(name="chat", channel_regex="[a-z]+")}
)


def test_the_pattern_of_a_namespace_must_match_everything_behind_its_name() -> None:
    assert find_namespace(LETTERS, "chat:abc", MAX_BYTES).name == "chat"
    assert find_namespace(LETTERS, "$chat:abc", MAX_BYTES).name == "chat"
    for channel in ("chat:abc1", "chat:1abc", "chat:", "chat:a:b", "chat:$a"):
        assert refusal(LETTERS, channel) == ErrorCode.BAD_REQUEST, channel


def test_the_pattern_for_channels_without_a_namespace_must_match_the_whole_name() -> None:
    assert find_namespace(LETTERS, "abc", MAX_BYTES).name == ""
    assert find_namespace(LETTERS, "$abc", MAX_BYTES).name == ""
    assert refusal(LETTERS, "abc1") == ErrorCode.BAD_REQUEST


# Subscribing without a token.


def test_a_name_that_begins_with_a_dollar_needs_a_token() -> None:
    assert is_private("$chat:a")
    assert not is_private("chat:$a")
    assert not name_permits("$chat:a", "ann")
    assert name_permits("chat:$a", "ann")


def test_users_are_listed_behind_the_last_hash() -> None:
    assert listed_users("chat:a") is None
    assert listed_users("chat:a#ann,bob") == frozenset({"ann", "bob"})
    assert listed_users("chat:a#ann#bob") == frozenset({"bob"})
    assert listed_users("chat:a#") == frozenset({""})


def test_only_listed_users_may_subscribe() -> None:
    assert name_permits("chat:a#ann,bob", "ann")
    assert name_permits("chat:a#ann,bob", "bob")
    for user in ("carol", "an", "ann,bob", "a#ann"):
        assert not name_permits("chat:a#ann,bob", user), user


def test_no_list_of_users_has_anonymous_clients() -> None:
    for channel in ("chat:a#ann", "chat:a#", "chat:a#ann,"):
        assert not name_permits(channel, ""), channel


def test_a_listed_user_is_compared_in_the_form_that_names_have() -> None:
    assert name_permits("chat:#a%20b", "a b")
    assert not name_permits("chat:#a%20b", "a%20b")
    assert name_permits("chat:#urn:1", "urn:1")  # the colon behind a namespace stays as it is
    assert not name_permits("#urn%3A1", "urn%3A1")
    assert name_permits("#urn%3A1", "urn:1")
