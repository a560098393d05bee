"""The one step that every operation of a client on a channel passes.

**Purpose.** Whether a client may subscribe, publish, read or manage depends on several sources: the rule of the
namespace, the name of the channel, the subscription, and grants. They are looked at here and nowhere else, so that a
new command can't forget one.

**Rules.**

1. The namespace has a rule for each operation, a list of permissions. One that is met is enough.
2. `grant` is met by a live subscription that a token or a backend made, or by a grant of the operation: in the claim
   `caps` of the connection token, or stored in auth. Stored ones may have to be read first, so `authorize` may wait;
   what needs none of them never waits.
3. `member` is met by a live subscription, which is that of a member. To subscribe, and to read without one, `authorize`
   asks persistence and returns what it says. Whether a publication is allowed is decided where it gets its number; here
   it only needs a user id.
4. To subscribe without a token, the channel's name must permit it too (`$` and `#`).
5. Insecure mode permits everything, but what needs `member`.
6. The answer is the same whether or not the channel exists.

**Example.** `private:board` has `publish = ["grant"]`. A client whose token has `caps` for it with `pub` publishes; a
client that was only subscribed by such a token with `sub` gets error 103.

**Trade-offs.** Rules are evaluated for each command; so nothing must be forgotten when a subscription, a token or a
grant changes. Where a rule asks for a grant, a channel whose name is new to the holder is compared with each of its
patterns: up to 1,000 stored ones, and 100 of a token.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

from services.edge.domain.access.channel_names import name_permits
from services.edge.domain.access.grants import Operation
from services.edge.domain.access.membership import ask
from services.edge.domain.access.stored_grants import TRIES
from services.edge.domain.chat.ports import Access
from services.shared.errors import ErrorCode, ThalamusError, Unavailable
from services.shared.namespaces import CommandToken, Namespace, Permission

if TYPE_CHECKING:
    from services.edge.domain.session.session import Session

_ANYONE, _AUTHENTICATED, _SUBSCRIBER, _GRANT, _MEMBER = (
    Permission.ANYONE,
    Permission.AUTHENTICATED,
    Permission.SUBSCRIBER,
    Permission.GRANT,
    Permission.MEMBER,
)
_RULES = {
    Operation.SUBSCRIBE: attrgetter("subscribe"),
    Operation.PUBLISH: attrgetter("publish"),
    Operation.HISTORY: attrgetter("history"),
    Operation.PRESENCE: attrgetter("presence_read"),
    Operation.ENTER: attrgetter("presence_enter"),
    Operation.MANAGE: attrgetter("manage"),
}


class GrantsUnknown(Exception):
    """The stored grants of the user must be read before it is known what it may do."""


class MembershipUnknown(Exception):
    """Persistence must be asked whether the client may read the conversation."""


async def authorize(
    session: Session, namespace: Namespace, channel: str, operation: Operation, command_token: str = ""
) -> Access | None:
    """Check that the client may do the operation in the channel.

    Return what it may read of a conversation; None: all, or all that a live subscription gives.

    Raises:
        ThalamusError: 103 if it may not; 109 if its token, or that of the command, has expired; 100 if that depends on
            stored grants, or on a conversation, that can't be read.
    """
    for _ in range(TRIES):
        try:
            authorize_at_once(session, namespace, channel, operation, command_token)
            return None
        except GrantsUnknown:
            await session.node.grants.load(session.user)
        except MembershipUnknown:
            return await ask(session, channel)
    raise Unavailable("grants change too often", retry_after_s=1.0)


def authorize_at_once(
    session: Session, namespace: Namespace, channel: str, operation: Operation, command_token: str = ""
) -> None:
    """Do what `authorize` does, without waiting.

    Raises:
        GrantsUnknown: it must wait: use `authorize`.
        MembershipUnknown: likewise; not for publishing.
    """
    if operation is not Operation.SUBSCRIBE:  # SDKs would repeat it for ever
        require_tokens(session, namespace, command_token)
    if not is_permitted(session, namespace, channel, operation):
        raise ThalamusError(code=ErrorCode.PERMISSION_DENIED)


def require_tokens(session: Session, namespace: Namespace | None, command_token: str) -> None:
    """Check the token of the connection, and that of the command if it must have one.

    Raises:
        ThalamusError: 109 if one of them has expired; 103 if that of the command is missing or wrong.
    """
    if session.deadlines.has_expired:
        raise ThalamusError(code=ErrorCode.TOKEN_EXPIRED)
    if (
        namespace is not None
        and namespace.command_token is CommandToken.REQUIRED
        and not session.node.settings.insecure
    ):
        session.node.command_tokens.require(command_token, session.user)


def is_permitted(session: Session, namespace: Namespace, channel: str, operation: Operation) -> bool:
    """Return whether the client may do the operation now.

    Raises:
        ThalamusError: 109, only a token that has expired would permit it.
        GrantsUnknown: only stored grants would, and they must be read first.
        MembershipUnknown: persistence must be asked, as the client has no live subscription.
    """
    subscription = session.subscriptions.get(channel)
    if subscription is None or not subscription.live or subscription.ends_at:
        return is_permitted_as(session, namespace, channel, operation, False, False)
    return is_permitted_as(session, namespace, channel, operation, True, subscription.granted)


def is_permitted_as(
    session: Session, namespace: Namespace, channel: str, operation: Operation, subscribed: bool, granted: bool
) -> bool:
    """Return whether the client might do the operation.

    `subscribed`: the client is. `granted`: the subscription was made by a token or a backend.

    Raises as `is_permitted` does.
    """
    if session.node.settings.insecure and not namespace.conversations:
        return True
    if operation is Operation.SUBSCRIBE and not name_permits(channel, session.user):
        return False
    rule = _RULES[operation](namespace)
    met = meets(rule, namespace, session.user, subscribed, granted)
    if met is not None:
        if not met and _MEMBER in rule and session.user:
            if operation is Operation.PUBLISH:
                return True
            raise MembershipUnknown
        return met
    of_token = bool(session.caps.until(channel, operation))
    if of_token and not session.deadlines.has_expired:
        return True
    stored = session.node.grants.known(session.user)
    if stored is None:
        raise GrantsUnknown
    if stored.until(channel, operation) > session.node.clock.wall():
        return True
    if of_token:
        raise ThalamusError(code=ErrorCode.TOKEN_EXPIRED)
    return False


def meets(rule: frozenset[Permission], namespace: Namespace, user: str, subscribed: bool, granted: bool) -> bool | None:
    """Return whether a user meets a rule.

    None: it does if it has a grant of the operation. The user is "" for an anonymous client.
    """
    outcome: bool | None = False
    for permission in rule:
        if permission is _SUBSCRIBER:
            if subscribed and (user or namespace.anonymous_subscriber):
                return True
        elif permission is _AUTHENTICATED:
            if user:
                return True
        elif permission is _ANYONE:
            return True
        elif permission is _GRANT:
            if granted:
                return True
            outcome = None
        elif permission is _MEMBER and subscribed:
            return True
    return outcome
