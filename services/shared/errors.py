"""Error and close codes that every part of Thalamus reads alike, and the exceptions that carry them."""

from __future__ import annotations

import enum


class ErrorCode(enum.IntEnum):
    """Codes of `error` in replies. Source: wire protocol, 8.1."""

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

    @property
    def message(self) -> str:
        """The text that goes with the code; never empty."""
        return _ERROR_MESSAGES[self]

    @property
    def temporary(self) -> bool:
        """Whether a client may simply try again."""
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
}
_TEMPORARY = frozenset({ErrorCode.INTERNAL, ErrorCode.TOO_MANY_REQUESTS})


class CloseCode(enum.IntEnum):
    """Why a connection ended; 3000-3499 clients reconnect, 3500-3999 they stop. Source: wire protocol, 8.2."""

    SHUTDOWN = 3001
    SERVER_ERROR = 3004
    EXPIRED = 3005
    SUBSCRIPTION_EXPIRED = 3006
    SLOW = 3008
    WRITE_ERROR = 3009
    INSUFFICIENT_STATE = 3010
    FORCE_RECONNECT = 3011
    NO_PONG = 3012
    TOO_MANY_REQUESTS = 3013
    STATE_INVALIDATED = 3014
    INVALID_TOKEN = 3500
    BAD_REQUEST = 3501
    STALE = 3502
    FORCE_DISCONNECT = 3503
    CONNECTION_LIMIT = 3504
    CHANNEL_LIMIT = 3505
    INAPPROPRIATE_PROTOCOL = 3506
    PERMISSION_DENIED = 3507
    NOT_AVAILABLE = 3508
    TOO_MANY_ERRORS = 3509

    @property
    def reason(self) -> str:
        """Text of the close frame: never empty, never JSON, at most 123 bytes."""
        return _CLOSE_REASONS[self]


_CLOSE_REASONS = {
    CloseCode.SHUTDOWN: "shutdown",
    CloseCode.SERVER_ERROR: "internal server error",
    CloseCode.EXPIRED: "connection expired",
    CloseCode.SUBSCRIPTION_EXPIRED: "subscription expired",
    CloseCode.SLOW: "slow",
    CloseCode.WRITE_ERROR: "write error",
    CloseCode.INSUFFICIENT_STATE: "insufficient state",
    CloseCode.FORCE_RECONNECT: "force reconnect",
    CloseCode.NO_PONG: "no pong",
    CloseCode.TOO_MANY_REQUESTS: "too many requests",
    CloseCode.STATE_INVALIDATED: "state invalidated",
    CloseCode.INVALID_TOKEN: "invalid token",
    CloseCode.BAD_REQUEST: "bad request",
    CloseCode.STALE: "stale",
    CloseCode.FORCE_DISCONNECT: "force disconnect",
    CloseCode.CONNECTION_LIMIT: "connection limit",
    CloseCode.CHANNEL_LIMIT: "channel limit",
    CloseCode.INAPPROPRIATE_PROTOCOL: "inappropriate protocol",
    CloseCode.PERMISSION_DENIED: "permission denied",
    CloseCode.NOT_AVAILABLE: "not available",
    CloseCode.TOO_MANY_ERRORS: "too many errors",
}


class UnsubscribeCode(enum.IntEnum):
    """Why the server ended a subscription; from 2500 on clients subscribe again. Source: wire protocol, 8.3."""

    SERVER = 2000
    INSUFFICIENT_STATE = 2500
    EXPIRED = 2501
    STATE_INVALIDATED = 2502

    @property
    def reason(self) -> str:
        """Text of the push; never empty."""
        return _UNSUBSCRIBE_REASONS[self]


_UNSUBSCRIBE_REASONS = {
    UnsubscribeCode.SERVER: "server unsubscribe",
    UnsubscribeCode.INSUFFICIENT_STATE: "insufficient state",
    UnsubscribeCode.EXPIRED: "subscription expired",
    UnsubscribeCode.STATE_INVALIDATED: "state invalidated",
}


class ThalamusError(Exception):
    """A refusal with a code of the wire protocol; translated once, at the border."""

    code: ErrorCode = ErrorCode.INTERNAL

    def __init__(self, detail: str = "", code: ErrorCode | None = None, *, retry_after_s: float = 0.0) -> None:
        if code is not None:
            self.code = code
        self.retry_after_s = retry_after_s  # a hint that goes with `too many requests`
        super().__init__(detail or self.code.message)


class Unavailable(ThalamusError):
    """A dependency did not answer: the outcome is unknown; repeat with the same key."""


# What a lost connection looks like to whoever was about to use it: uvloop raises RuntimeError on a closed transport.
CONNECTION_LOST = (OSError, TimeoutError, RuntimeError)


class Busy(ThalamusError):
    """Too much is waiting already; nothing was done."""


class Disconnect(Exception):
    """The connection must end with this code; raised where the rule is, carried out by the session."""

    def __init__(self, code: CloseCode, reason: str = "") -> None:
        self.code = code
        self.reason = reason or code.reason
        super().__init__(f"{int(code)} {self.reason}")
