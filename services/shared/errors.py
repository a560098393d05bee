"""Codes of the wire protocol, and the exceptions that carry them.

**Purpose.** Code that finds a fault deep inside a service raises an exception which already says what the client may
be told. It does not need to know who the caller is or which protocol the caller speaks.

**Tree.**

    Exception
    ├── ThalamusError          an error reply with an ErrorCode; the connection stays open
    │   ├── Unavailable        a dependency did not answer; the outcome is unknown
    │   │   ├── NotSent        nothing reached Redis, so nothing was done (shared/redis)
    │   │   ├── CallRefused    DynamoDB refuses; repeating does not help (shared/dynamodb)
    │   │   ├── TableMissing   the DynamoDB table does not exist (shared/dynamodb)
    │   │   └── OtherStoreFound    Redis belongs to another store (persistence)
    │   ├── Busy               too much waits already; nothing was done, try again in a second
    │   ├── InvalidJson        not JSON, or not readable for every client (shared/json_text)
    │   ├── TooLarge           more than the store's log can hold at one place (persistence)
    │   └── Recheck            the membership has changed since the append was allowed (persistence)
    └── ConfigError            a wrong setting; ends the process with exit code 2 (shared/process/config)

**Rules.** An exception is translated once, where the response is written: `shared/rpc/interceptor.py` makes a gRPC
status of it, the session of an edge an error reply, `edge/api` an HTTP response. `Unavailable` means "maybe
done": repeat it only under the same idempotency key. `Busy` means "not done": a repeat is always safe.

**Example.** `Busy("too many publications wait")` is error 111 with `retry_after_ms` in a WebSocket reply, HTTP 503 with
`Retry-After` in the server API, and RESOURCE_EXHAUSTED over gRPC.

**Trade-offs.** The codes are those of the wire protocol, so they are shared by services that never see a client.
`Unavailable` carries code 100 even where certainly nothing was done (`NotSent`): what matters there is that a
dependency does not answer.

Decisions: docs/decisions/0006 (overload), docs/decisions/0017 (errors of the server API).
"""

from __future__ import annotations

import enum


class ErrorCode(enum.IntEnum):
    """Codes of `error` in replies. Source: wire protocol, 8.1.

    Those from 113 on are our own. A hook may choose codes that are not here (`services/edge/domain/hooks`).
    """

    INTERNAL = 100
    UNAUTHORIZED = 101
    UNKNOWN_CHANNEL = 102
    PERMISSION_DENIED = 103
    METHOD_NOT_FOUND = 104
    ALREADY_SUBSCRIBED = 105
    LIMIT_EXCEEDED = 106
    BAD_REQUEST = 107
    NOT_AVAILABLE = 108
    TOKEN_EXPIRED = 109
    EXPIRED = 110
    TOO_MANY_REQUESTS = 111
    UNRECOVERABLE_POSITION = 112
    HOOK_UNAVAILABLE = 113  # a hook did not answer
    HOOK_FAILED = 114  # a hook answered what can't be used
    NOT_FOUND = 404  # in conversations, as the two below: no such message
    CONFLICT = 409  # it was changed meanwhile, or is there already
    GONE = 410  # it was deleted

    @property
    def message(self) -> str:
        """Text that goes with the code; never empty."""
        return _ERROR_MESSAGES[self]

    @property
    def temporary(self) -> bool:
        """Whether a client may repeat the command unchanged."""
        return self in _TEMPORARY


_ERROR_MESSAGES = {
    ErrorCode.INTERNAL: "internal server error",
    ErrorCode.UNAUTHORIZED: "unauthorized",
    ErrorCode.UNKNOWN_CHANNEL: "unknown channel",
    ErrorCode.PERMISSION_DENIED: "permission denied",
    ErrorCode.METHOD_NOT_FOUND: "method not found",
    ErrorCode.ALREADY_SUBSCRIBED: "already subscribed",
    ErrorCode.LIMIT_EXCEEDED: "limit exceeded",
    ErrorCode.BAD_REQUEST: "bad request",
    ErrorCode.NOT_AVAILABLE: "not available",
    ErrorCode.TOKEN_EXPIRED: "token expired",
    ErrorCode.EXPIRED: "expired",
    ErrorCode.TOO_MANY_REQUESTS: "too many requests",
    ErrorCode.UNRECOVERABLE_POSITION: "unrecoverable position",
    ErrorCode.HOOK_UNAVAILABLE: "hook unavailable",
    ErrorCode.HOOK_FAILED: "hook failed",
    ErrorCode.NOT_FOUND: "not found",
    ErrorCode.CONFLICT: "conflict",
    ErrorCode.GONE: "gone",
}
_TEMPORARY = frozenset({ErrorCode.INTERNAL, ErrorCode.TOO_MANY_REQUESTS, ErrorCode.HOOK_UNAVAILABLE})


class UnsubscribeCode(enum.IntEnum):
    """Codes with which the server ends a subscription. Source: wire protocol, 8.3.

    Clients subscribe again after codes from 2500 on. 2100 and 2103 are our own, from the range that the protocol leaves
    free.
    """

    SERVER = 2000
    NO_LONGER_MEMBER = 2100
    PERMISSION_DENIED = 2103
    INSUFFICIENT_STATE = 2500
    EXPIRED = 2501
    STATE_INVALIDATED = 2502

    @property
    def reason(self) -> str:
        """Text of the unsubscribe push; never empty."""
        return _UNSUBSCRIBE_REASONS[self]


_UNSUBSCRIBE_REASONS = {
    UnsubscribeCode.SERVER: "server unsubscribe",
    UnsubscribeCode.NO_LONGER_MEMBER: "no longer a member",
    UnsubscribeCode.PERMISSION_DENIED: "permission denied",
    UnsubscribeCode.INSUFFICIENT_STATE: "insufficient state",
    UnsubscribeCode.EXPIRED: "subscription expired",
    UnsubscribeCode.STATE_INVALIDATED: "state invalidated",
}


class ThalamusError(Exception):
    """A refusal with a code of the wire protocol. The connection stays open."""

    code: ErrorCode = ErrorCode.INTERNAL

    def __init__(self, detail: str = "", code: ErrorCode | None = None, *, retry_after_s: float = 0.0) -> None:
        if code is not None:
            self.code = code
        self.retry_after_s = retry_after_s  # hint for the client when to try again, seconds; 0: none
        super().__init__(detail or self.code.message)


class Unavailable(ThalamusError):
    """A dependency did not answer. The outcome is unknown; repeat under the same key."""


# Exceptions that a lost connection raises in its user. uvloop raises RuntimeError on a closed transport.
CONNECTION_LOST = (OSError, TimeoutError, RuntimeError)


class Busy(ThalamusError):
    """Too much is waiting already. Nothing was done, nor will be.

    Who repeats work elsewhere after a lost connection must not pass on the `Busy` of the repeat: the first one may have
    been done.
    """

    code = ErrorCode.TOO_MANY_REQUESTS

    def __init__(self, detail: str = "", *, retry_after_s: float = 1.0) -> None:
        super().__init__(detail, retry_after_s=retry_after_s)
