"""Close codes of the Centrifugal protocol, and which one each reason has."""

from __future__ import annotations

import enum

from services.edge.domain.ends import End, EndReason


class CloseCode(enum.IntEnum):
    """Close codes of a connection. Source: wire protocol, 8.2.

    Clients reconnect after 3000 to 3499, and do not after 3500 to 3999.
    """

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


_OF_REASON = {
    EndReason.SHUTDOWN: CloseCode.SHUTDOWN,
    EndReason.SERVER_ERROR: CloseCode.SERVER_ERROR,
    EndReason.EXPIRED: CloseCode.EXPIRED,
    EndReason.SUBSCRIPTION_EXPIRED: CloseCode.SUBSCRIPTION_EXPIRED,
    EndReason.SLOW: CloseCode.SLOW,
    EndReason.INSUFFICIENT_STATE: CloseCode.INSUFFICIENT_STATE,
    EndReason.NO_PONG: CloseCode.NO_PONG,
    EndReason.TOO_MANY_REQUESTS: CloseCode.TOO_MANY_REQUESTS,
    EndReason.INVALID_TOKEN: CloseCode.INVALID_TOKEN,
    EndReason.BAD_REQUEST: CloseCode.BAD_REQUEST,
    EndReason.STALE: CloseCode.STALE,
    EndReason.DISCONNECTED: CloseCode.FORCE_DISCONNECT,
    EndReason.CONNECTION_LIMIT: CloseCode.CONNECTION_LIMIT,
    EndReason.CHANNEL_LIMIT: CloseCode.CHANNEL_LIMIT,
    EndReason.PERMISSION_DENIED: CloseCode.PERMISSION_DENIED,
    EndReason.NOT_AVAILABLE: CloseCode.NOT_AVAILABLE,
}
_KNOWN = {int(code): code for code in CloseCode}


def close_code(end: End) -> tuple[int, str]:
    """Return code and text of the close frame.

    A backend may have asked for any code from 3000 to 4999, and for any text. Without a text it is that of the code, or
    that of the reason if the protocol does not know the code.
    """
    of_reason = _OF_REASON[end.reason]
    code = end.code or of_reason
    return int(code), end.text or _KNOWN.get(code, of_reason).reason
