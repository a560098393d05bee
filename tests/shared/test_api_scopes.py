"""Scopes of API keys."""

from __future__ import annotations

import pytest

from services.shared.api_scopes import ADMIN, IN_NAMESPACES, ApiOperation, Scopes, check_scopes, namespace_of


def test_a_scope_permits_its_operation_alone() -> None:
    for scope in ApiOperation:
        permitted = [operation for operation in ApiOperation if Scopes([scope]).permit(operation)]
        assert permitted == [scope]
        assert not Scopes([scope]).permit(None)  # what only admin may


def test_admin_is_everything() -> None:
    assert all(Scopes([ADMIN]).permit(operation, {"chat"}) for operation in (*ApiOperation, None))


def test_no_scopes_are_nothing() -> None:
    assert not any(Scopes([]).permit(operation, {"chat"}) for operation in (*ApiOperation, None))


def test_a_scope_in_namespaces_permits_nothing_elsewhere() -> None:
    scopes = Scopes(["publish:chat", "publish:-", "history"])
    for namespaces, outcome in (
        ({"chat"}, True),
        ({"-"}, True),
        ({"chat", "-"}, True),
        ({"chat", "live"}, False),
        ({"live"}, False),
        (None, False),  # not only for some
    ):
        assert scopes.permit("publish", namespaces) is outcome, namespaces
        assert scopes.permit("history", namespaces)
    assert Scopes(["publish:chat", "publish"]).permit("publish", {"live"})
    assert Scopes(["publish", "publish:chat"]).permit("publish", {"live"})


def test_what_is_not_known_permits_nothing() -> None:
    scopes = Scopes(["fly", "admin:chat", "", ":", "publish:"])
    assert not any(scopes.permit(operation, {"chat"}) for operation in (*ApiOperation, None))


@pytest.mark.parametrize(
    ("channel", "namespace"),
    [
        ("chat:a", "chat"),
        ("$chat:a", "chat"),
        ("chat:a:b", "chat"),
        ("room", "-"),
        ("$room", "-"),
        ("", "-"),
        ("chat:*", "chat"),
        ("*", None),
        ("ch*", None),
        ("c*t:a", None),
    ],
)
def test_the_namespace_of_a_channel_is_read_and_not_looked_up(channel: str, namespace: str | None) -> None:
    assert namespace_of(channel) == namespace


def test_scopes_that_may_be_given_are_sorted_and_each_there_once() -> None:
    assert check_scopes(["publish:chat", "history", "publish:-", "history"]) == ("history", "publish:-", "publish:chat")
    assert check_scopes([ADMIN, *ApiOperation]) == tuple(sorted((ADMIN, *ApiOperation)))
    assert check_scopes([f"{operation}:chat" for operation in IN_NAMESPACES])


@pytest.mark.parametrize(
    ("scope", "said"),
    [
        ("fly", "'fly' is no scope; known: admin, publish, "),
        ("", "is no scope"),
        ("Publish", "is no scope"),
        ("admin:chat", "admin is not for single namespaces"),
        ("users:chat", "users is not for single namespaces"),
        ("revoke:chat", "revoke is not for single namespaces"),
        ("publish:", "no namespace has such a name"),
        ("publish:a", "no namespace has such a name"),
        ("publish:a b", "no namespace has such a name"),
        ("publish:chat:lobby", "no namespace has such a name"),
    ],
)
def test_a_scope_that_nobody_can_mean_is_refused_by_name(scope: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_scopes(["publish", scope])


def test_a_key_may_have_a_hundred_scopes() -> None:
    assert len(check_scopes([f"publish:n{number}" for number in range(100)])) == 100
    with pytest.raises(ValueError, match="more than 100"):
        check_scopes([f"publish:n{number}" for number in range(101)])
