"""Requests of gRPC that can't be read: INVALID_ARGUMENT and a quiet line, where grpc.aio has a traceback for each."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from services.shared.process.log_limit import RateLimitedLog

UNREADABLE = object()  # in place of a request
DETAIL = "the request can't be parsed"

_log = RateLimitedLog(logging.getLogger(__name__), logging.INFO)


def tolerant(deserialize: Callable[[bytes], Any], method: str) -> Callable[[bytes], Any]:
    """What parses as this does, and gives `UNREADABLE` where that fails."""

    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except Exception:
            _log("a request could not be parsed", method=method, bytes=len(data))
            return UNREADABLE

    return read


def checked(behaviour: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
    """A method that takes one request and is a coroutine, refusing what could not be parsed."""

    async def call(request: Any, context: Any) -> Any:
        if request is UNREADABLE:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, DETAIL)
        return await behaviour(request, context)

    return call
