"""Bodies of requests and responses of the HTTP API.

JSON payloads are passed on byte for byte; they are never parsed and serialised again.
"""

from __future__ import annotations

import logging
import math
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec
from fastapi import Request, Response

from services.shared.errors import ErrorCode, ThalamusError
from services.shared.process.log_limit import RateLimitedLog

MAX_BODY_BYTES = 1_048_576
_LOGGER = logging.getLogger(__name__)
_FAILED = RateLimitedLog(_LOGGER, logging.WARNING, every_s=1.0)
_UNFORESEEN = RateLimitedLog(_LOGGER, logging.ERROR, every_s=1.0)
_INTERNAL = {"code": int(ErrorCode.INTERNAL), "message": ErrorCode.INTERNAL.message}
_ENCODER = msgspec.json.Encoder()
T = TypeVar("T")


class BodyRefused(Exception):
    """Raised when the body of a request can't be used; answered with `status`."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


async def read_body(request: Request, max_bytes: int = MAX_BODY_BYTES) -> bytes:
    """Return the whole body of a request.

    Raises:
        BodyRefused: 413 if it has more than `max_bytes`.
    """
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise BodyRefused(413, "body too large")
        chunks.append(chunk)
    return b"".join(chunks)


def decode(body: bytes, kind: type[T]) -> T:
    """Return a body as a request of type `kind`; an empty body is an empty object.

    Raises:
        BodyRefused: 400 if it is not JSON, or if a member is unknown or has the wrong type; the text names it.
    """
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BodyRefused(400, f"bad request: {error}") from error


def result_response(result: Any) -> Response:
    """Return a response with status 200 and `{"result": …}`."""
    return Response(_ENCODER.encode({"result": result}), media_type="application/json")


def error_body(error: ThalamusError) -> dict[str, Any]:
    """Return `{"code", "message"}` of an error, as Centrifugo's server API has them.

    Details of an internal error go to the log only. Details of all other errors are for the caller.
    """
    if error.code is ErrorCode.INTERNAL:
        _FAILED("a call over HTTP failed", error=str(error))
        return _INTERNAL
    detail = str(error)
    message = error.code.message if detail in ("", error.code.message) else f"{error.code.message}: {detail}"
    return {"code": int(error.code), "message": message}


def unforeseen(error: Exception) -> dict[str, Any]:
    """Return the body of error 100 for an unexpected exception.

    Its traceback goes to the log, at most once a second.
    """
    _UNFORESEEN("a call over HTTP failed, unforeseen", exc_info=error)
    return _INTERNAL


def refusal(error: ThalamusError, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return the response of an error; the server API answers errors with 200."""
    return error_response(error_body(error), status, headers)


def come_again(error: ThalamusError) -> Response:
    """Return a 503 with Retry-After, which is at least a second."""
    return refusal(error, 503, {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))})


def error_response(body: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a response with `{"error": …}`."""
    return Response(_ENCODER.encode({"error": body}), status, media_type="application/json", headers=headers)


def plain_error(status: int, message: str, code: ErrorCode = ErrorCode.BAD_REQUEST) -> Response:
    """Return the response of an error in the request itself."""
    return error_response({"code": int(code), "message": message}, status)


def unauthorized(message: str, challenge: str) -> Response:
    """Return a 401 with WWW-Authenticate, which RFC 9110, 11.6.1 requires."""
    response = plain_error(HTTPStatus.UNAUTHORIZED, message, ErrorCode.UNAUTHORIZED)
    response.headers["WWW-Authenticate"] = challenge
    return response
