"""Who may do what in a channel, and which names channels may have. Wire protocol, 5.2 and 10."""

from __future__ import annotations

import pytest

from services.edge.domain.access.permissions import (
    Actor,
    allows,
    find_namespace,
    is_private,
    listed_users,
    may_subscribe,
)
from services.shared.errors import ErrorCode, ThalamusError
from services.shared.namespaces import Namespace, Namespaces, Permission

CHAT = Namespace(name="chat")
ANONYMOUS_TOO = Namespace(name="chat", anonymous_subscriber=True)
MAX_BYTES = 20


def rule(*permissions: Permission) -> frozenset[Permission]:
    return frozenset(permissions)


# Rules of a namespace.


def test_anyone_includes_anonymous_clients() -> None:
    assert allows(rule(Permission.ANYONE), CHAT, Actor(""))
    assert allows(rule(Permission.ANYONE), CHAT, Actor("ann"))


def test_authenticated_needs_a_user_id() -> None:
    assert allows(rule(Permission.AUTHENTICATED), CHAT, Actor("ann"))
    assert not allows(rule(Permission.AUTHENTICATED), CHAT, Actor(""))
    assert not allows(rule(Permission.AUTHENTICATED), CHAT, Actor("", subscribed=True, granted=True))


def test_subscriber_needs_a_subscription() -> None:
    assert allows(rule(Permission.SUBSCRIBER), CHAT, Actor("ann", subscribed=True))
    assert not allows(rule(Permission.SUBSCRIBER), CHAT, Actor("ann"))
    assert not allows(rule(Permission.SUBSCRIBER), CHAT, Actor("ann", granted=True))


def test_an_anonymous_subscriber_counts_only_where_the_namespace_says_so() -> None:
    assert not allows(rule(Permission.SUBSCRIBER), CHAT, Actor("", subscribed=True))
    assert allows(rule(Permission.SUBSCRIBER), ANONYMOUS_TOO, Actor("", subscribed=True))
    assert not allows(rule(Permission.SUBSCRIBER), ANONYMOUS_TOO, Actor(""))


def test_grant_needs_a_token_or_the_server() -> None:
    assert allows(rule(Permission.GRANT), CHAT, Actor("", granted=True))
    assert not allows(rule(Permission.GRANT), CHAT, Actor("ann", subscribed=True))


def test_nobody_is_nobody() -> None:
    assert not allows(rule(Permission.NOBODY), ANONYMOUS_TOO, Actor("ann", subscribed=True, granted=True))
    assert not allows(rule(), ANONYMOUS_TOO, Actor("ann", subscribed=True, granted=True))


def test_one_permission_of_a_rule_is_enough() -> None:
    either = rule(Permission.SUBSCRIBER, Permission.GRANT)
    assert allows(either, CHAT, Actor("ann", subscribed=True))
    assert allows(either, CHAT, Actor("ann", granted=True))
    assert not allows(either, CHAT, Actor("ann"))
    assert allows(rule(Permission.AUTHENTICATED, Permission.SUBSCRIBER), ANONYMOUS_TOO, Actor("", subscribed=True))


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


OPEN = Namespace(name="chat", subscribe=rule(Permission.ANYONE))


def test_a_name_that_begins_with_a_dollar_needs_a_token() -> None:
    assert is_private("$chat:a")
    assert not is_private("chat:$a")
    assert not may_subscribe(OPEN, "$chat:a", "ann")
    assert may_subscribe(OPEN, "chat:$a", "ann")


def test_users_are_listed_behind_the_last_hash() -> None:
    assert listed_users("chat:a") is None
    assert listed_users("chat:a#ann,bob") == frozenset({"ann", "bob"})
    assert listed_users("chat:a#ann#bob") == frozenset({"bob"})
    assert listed_users("chat:a#") == frozenset({""})


def test_only_listed_users_may_subscribe() -> None:
    assert may_subscribe(OPEN, "chat:a#ann,bob", "ann")
    assert may_subscribe(OPEN, "chat:a#ann,bob", "bob")
    for user in ("carol", "an", "ann,bob", "a#ann"):
        assert not may_subscribe(OPEN, "chat:a#ann,bob", user), user


def test_no_list_of_users_has_anonymous_clients() -> None:
    for channel in ("chat:a#ann", "chat:a#", "chat:a#ann,"):
        assert not may_subscribe(OPEN, channel, ""), channel


def test_a_listed_user_is_compared_in_the_form_that_names_have() -> None:
    assert may_subscribe(OPEN, "chat:#a%20b", "a b")
    assert not may_subscribe(OPEN, "chat:#a%20b", "a%20b")
    assert may_subscribe(OPEN, "chat:#urn:1", "urn:1")  # the colon behind a namespace stays as it is
    assert not may_subscribe(OPEN, "#urn%3A1", "urn%3A1")
    assert may_subscribe(OPEN, "#urn%3A1", "urn:1")


def test_a_listed_user_needs_the_permission_of_the_namespace_too() -> None:
    granted_only = Namespace(name="chat", subscribe=rule(Permission.GRANT))
    assert not may_subscribe(granted_only, "chat:a#ann", "ann")
    assert not may_subscribe(granted_only, "chat:a", "ann")
    signed_in = Namespace(name="chat", subscribe=rule(Permission.AUTHENTICATED))
    assert may_subscribe(signed_in, "chat:a", "ann")
    assert not may_subscribe(signed_in, "chat:a", "")
