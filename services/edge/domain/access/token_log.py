"""Why tokens are refused, for our log alone: whoever shows one hears nothing that would help to make a better one.

One line in ten seconds of each reason, and nothing of a token in it: reasons are texts of this code, with names of
claims at most.
"""

from __future__ import annotations

import logging

from services.shared.process.log_limit import RateLimitedLog

logger = logging.getLogger(__name__)

_MOST = 100
_logs: dict[str, RateLimitedLog] = {}


def refused(kind: str, reason: str) -> None:
    """A token of this kind (`connection` or `subscription`) was refused."""
    key = f"{kind} {reason}"
    log = _logs.get(key)
    if log is None:
        if len(_logs) >= _MOST:
            key = kind
        log = _logs.setdefault(key, RateLimitedLog(logger, logging.INFO))
    log("a token was refused", kind=kind, reason=reason)
