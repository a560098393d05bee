"""Refusals of auth, as the HTTP API answers them."""

from __future__ import annotations

import logging

import grpc

from services.edge.domain.ports import AccountRefused, EndedSession
from services.shared.errors import Busy, ErrorCode, Unavailable
from services.shared.rpc.interceptor import FOR_USERS, NO_SERVICE

logger = logging.getLogger(__name__)

ACCESS_TTL_S = 86_400  # of tokens of an auth that does not say, seconds
_HTTP = {
    grpc.StatusCode.INVALID_ARGUMENT: (400, ErrorCode.BAD_REQUEST),
    grpc.StatusCode.ABORTED: (409, ErrorCode.BAD_REQUEST),
    grpc.StatusCode.ALREADY_EXISTS: (409, ErrorCode.BAD_REQUEST),
    grpc.StatusCode.PERMISSION_DENIED: (403, ErrorCode.PERMISSION_DENIED),
    grpc.StatusCode.NOT_FOUND: (404, ErrorCode.NOT_AVAILABLE),
    grpc.StatusCode.UNAUTHENTICATED: (401, ErrorCode.UNAUTHORIZED),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (429, ErrorCode.TOO_MANY_REQUESTS),  # with a time; otherwise `Busy`
}


class NotOffered(Unavailable):
    """Auth is of a version that does not have the method yet."""


def refused(error: grpc.aio.AioRpcError) -> AccountRefused | Busy | Unavailable:
    """Return the error to raise for a failed call."""
    known = _HTTP.get(error.code())
    if error.details() == NO_SERVICE:  # auth refused this edge, not the user
        logger.error("auth does not know this edge: SERVICE_TOKEN_FILE is another one there")
        known = None
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return NotOffered("auth is of a version that can't do this; update it first")
    if known is None:
        return Unavailable(f"auth failed: {error.code().name}")
    trailers = dict(error.trailing_metadata() or ())
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "retry-after-s" not in trailers:
        return Busy("auth has too much to do")  # a limit of auth's queues or of gRPC, not of the user
    ended = None
    if "ended-session" in trailers:
        ended = EndedSession(
            str(trailers["ended-user"]),
            str(trailers["ended-session"]),
            int(trailers.get("access-ttl-s", 0)) or ACCESS_TTL_S,
        )
    # gRPC itself, and whatever else listens there, words its errors for operators: with addresses.
    text = error.details() if trailers.get(FOR_USERS[0]) == FOR_USERS[1] else None
    return AccountRefused(*known, text or known[1].message, int(trailers.get("retry-after-s", 0)), ended)
