"""Rules of namespaces: who meets them."""

from __future__ import annotations

import pytest

from services.edge.domain.access.authorize import meets
from services.shared.namespaces import Namespace, Permission

CHAT = Namespace(name="chat")
ANONYMOUS_TOO = Namespace(name="chat", anonymous_subscriber=True)
ANYONE, AUTHENTICATED, SUBSCRIBER, GRANT, MEMBER, NOBODY = Permission
TABLE = [
    # rule, namespace, user, subscribed, granted: outcome
    ((ANYONE,), CHAT, "", False, False, True),
    ((ANYONE,), CHAT, "ann", False, False, True),
    ((AUTHENTICATED,), CHAT, "ann", False, False, True),
    ((AUTHENTICATED,), CHAT, "", False, False, False),
    ((AUTHENTICATED,), CHAT, "", True, True, False),
    ((SUBSCRIBER,), CHAT, "ann", True, False, True),
    ((SUBSCRIBER,), CHAT, "ann", False, False, False),
    ((SUBSCRIBER,), CHAT, "ann", False, True, False),
    ((SUBSCRIBER,), CHAT, "", True, False, False),
    ((SUBSCRIBER,), ANONYMOUS_TOO, "", True, False, True),
    ((SUBSCRIBER,), ANONYMOUS_TOO, "", False, False, False),
    ((GRANT,), CHAT, "", True, True, True),
    ((GRANT,), CHAT, "ann", True, False, None),
    ((GRANT,), CHAT, "ann", False, False, None),
    ((MEMBER,), CHAT, "ann", True, False, True),
    ((MEMBER,), CHAT, "ann", False, True, False),
    ((NOBODY,), ANONYMOUS_TOO, "ann", True, True, False),
    ((), ANONYMOUS_TOO, "ann", True, True, False),
    ((SUBSCRIBER, GRANT), CHAT, "ann", True, False, True),
    ((SUBSCRIBER, GRANT), CHAT, "ann", False, True, True),
    ((SUBSCRIBER, GRANT), CHAT, "ann", False, False, None),
    ((AUTHENTICATED, GRANT), CHAT, "ann", False, False, True),
    ((AUTHENTICATED, SUBSCRIBER), ANONYMOUS_TOO, "", True, False, True),
]


@pytest.mark.parametrize(("rule", "namespace", "user", "subscribed", "granted", "outcome"), TABLE)
def test_one_permission_that_is_met_is_enough(
    rule: tuple[Permission, ...],
    namespace: Namespace,
    user: str,
    subscribed: bool,
    granted: bool,
    outcome: bool | None,
) -> None:
    assert meets(frozenset(rule), namespace, user, subscribed, granted) is outcome
