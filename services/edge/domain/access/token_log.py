"""Logs why tokens are rejected.

Only the server's log has the reason. The client is not told, because it would help to forge a token. Each reason is
logged at most once in ten seconds. A log line holds no part of the token: reasons are texts of this code, with names
and types of claims at most.
"""

from __future__ import annotations

import logging

from services.shared.process.log_limit import RateLimitedLog

logger = logging.getLogger(__name__)

_MOST = 100  # different reasons that are limited one by one; further ones are limited together by kind
_logs: dict[str, RateLimitedLog] = {}


def refused(kind: str, reason: str) -> None:
    """Log that a token was rejected. `kind` is `connection` or `subscription`."""
    key = f"{kind} {reason}"
    log = _logs.get(key)
    if log is None:
        if len(_logs) >= _MOST:
            key = kind
        log = _logs.setdefault(key, RateLimitedLog(logger, logging.INFO))
    log("a token was refused", kind=kind, reason=reason)
