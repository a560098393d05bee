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

from services.edge.api.texts import in_words
from services.edge.domain.conversations.calls import ChatRefused
from services.edge.domain.hooks.model import CommandRefused
from services.shared.chat_requests import ChatRequest
from services.shared.errors import Busy, ErrorCode, ThalamusError
from services.shared.process.log_limit import RateLimitedLog

MAX_BODY_BYTES = 1_048_576
NO_STORE = {"Cache-Control": "no-store"}
_LOGGER = logging.getLogger(__name__)
_FAILED = RateLimitedLog(_LOGGER, logging.WARNING, every_s=1.0)
_UNFORESEEN = RateLimitedLog(_LOGGER, logging.ERROR, every_s=1.0)
_INTERNAL = {"code": int(ErrorCode.INTERNAL), "message": ErrorCode.INTERNAL.message}
_ENCODER = msgspec.json.Encoder()
_STATUSES = {
    ErrorCode.BAD_REQUEST: 400,
    ErrorCode.PERMISSION_DENIED: 403,
    ErrorCode.UNKNOWN_CHANNEL: 404,
    ErrorCode.NOT_AVAILABLE: 404,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.CONFLICT: 409,
    ErrorCode.GONE: 410,
    ErrorCode.LIMIT_EXCEEDED: 413,
    ErrorCode.TOO_MANY_REQUESTS: 429,
    ErrorCode.HOOK_FAILED: 502,
}
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

    Requests on conversations have integers, of which `1.0` is one: JSON does not distinguish it from `1`.

    Raises:
        BodyRefused: 400 if it is not JSON, or if a member is unknown or has the wrong type; the text names it.
    """
    try:
        try:
            return msgspec.json.decode(body or b"{}", type=kind)
        except msgspec.ValidationError as error:
            if not issubclass(kind, ChatRequest) or "got `float`" not in str(error):
                raise
            return msgspec.json.decode(msgspec.json.encode(_whole(msgspec.json.decode(body))), type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BodyRefused(400, f"bad request: {in_words(str(error))}") from error


def _whole(value: Any) -> Any:
    """Return a JSON value with integers in place of floats without a fraction."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, list):
        return [_whole(each) for each in value]
    if isinstance(value, dict):
        return {name: each if name == "meta" else _whole(each) for name, each in value.items()}
    return value


def result_response(result: Any) -> Response:
    """Return a response with status 200 and `{"result": …}`."""
    return Response(_ENCODER.encode({"result": result}), media_type="application/json")


def error_body(error: ThalamusError) -> dict[str, Any]:
    """Return `{"code", "message"}` of an error, as Centrifugo's server API has them.

    `retry_after_ms` is there too if the error says when to try again, and `why` if conversations say more than a code.

    Details of an internal error go to the log only. Details of all other errors are for the caller.
    """
    if isinstance(error, CommandRefused):
        return _with_retry({"code": error.refusal.code, "message": error.refusal.message}, error)
    if error.code is ErrorCode.INTERNAL:
        _FAILED("a call over HTTP failed", error=str(error))
        return _INTERNAL
    detail = str(error)
    message = error.code.message if detail in ("", error.code.message) else f"{error.code.message}: {detail}"
    body: dict[str, Any] = {"code": int(error.code), "message": message}
    if isinstance(error, ChatRefused) and error.why:
        body["why"] = error.why
    return _with_retry(body, error)


def _with_retry(body: dict[str, Any], error: ThalamusError) -> dict[str, Any]:
    if error.retry_after_s:
        body["retry_after_ms"] = math.ceil(error.retry_after_s * 1000)
    return body


def unforeseen(error: Exception) -> dict[str, Any]:
    """Return the body of error 100 for an unexpected exception.

    Its traceback goes to the log, at most once a second.
    """
    _UNFORESEEN("a call over HTTP failed, unforeseen", exc_info=error)
    return _INTERNAL


def refusal(error: ThalamusError, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return the response of an error; the server API answers errors with 200."""
    return error_response(error_body(error), status, headers)


def over_limit(error: ThalamusError) -> Response:
    """Return a 429 with Retry-After, which is at least a second.

    Without a time after which a repeat helps it is an error as any other.
    """
    if not error.retry_after_s:
        return refusal(error)
    return refusal(error, HTTPStatus.TOO_MANY_REQUESTS, {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))})


def come_again(error: ThalamusError) -> Response:
    """Return a 503 with Retry-After, which is at least a second."""
    return refusal(error, 503, {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))})


def refusal_by_status(error: ThalamusError) -> Response:
    """Return the response of an error with the HTTP status that says the same.

    With 429 and 503 there is a Retry-After, which is at least a second.
    """
    if isinstance(error, Busy) or error.code not in _STATUSES:
        return come_again(error)
    if error.code is ErrorCode.TOO_MANY_REQUESTS:
        return refusal(error, 429, {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))})
    return refusal(error, _STATUSES[error.code])


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
