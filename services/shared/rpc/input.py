"""Handles gRPC requests that can't be parsed: INVALID_ARGUMENT and one log line.

grpc.aio itself would log a traceback for each.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from services.shared.process.log_limit import RateLimitedLog

UNREADABLE = object()  # stands for a request that could not be parsed
DETAIL = "the request can't be parsed"

_log = RateLimitedLog(logging.getLogger(__name__), logging.INFO)


def tolerant(deserialize: Callable[[bytes], Any], method: str) -> Callable[[bytes], Any]:
    """Return a parser like `deserialize` that returns `UNREADABLE` instead of raising."""

    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except Exception:
            _log("a request could not be parsed", method=method, bytes=len(data))
            return UNREADABLE

    return read


def checked(behaviour: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
    """Wrap a coroutine method with one request so that it refuses an unparsable one."""

    async def call(request: Any, context: Any) -> Any:
        if request is UNREADABLE:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, DETAIL)
        return await behaviour(request, context)

    return call
