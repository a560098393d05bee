"""Bodies of requests and answers: JSON texts of payloads are carried byte for byte, never re-serialised."""

from __future__ import annotations

import logging
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
    """The request itself can't be taken; answered with this HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


async def read_body(request: Request, max_bytes: int = MAX_BODY_BYTES) -> bytes:
    """The whole body.

    Raises:
        BodyRefused: 413 over `max_bytes`.
    """
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise BodyRefused(413, "body too large")
        chunks.append(chunk)
    return b"".join(chunks)


def decode(body: bytes, kind: type[T]) -> T:
    """A body as a request.

    Raises:
        BodyRefused: 400 where it is not JSON, or a member has the wrong type; the text names it.
    """
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BodyRefused(400, f"bad request: {error}") from error


def answer(result: Any) -> Response:
    """200 with `{"result": …}`."""
    return Response(_ENCODER.encode({"result": result}), media_type="application/json")


def error_body(error: ThalamusError) -> dict[str, Any]:
    """`{"code", "message"}` as the server API of the field has it.

    What failed inside is named in our log alone; of what the caller did wrong, and of its limits, the caller is told.
    """
    if error.code is ErrorCode.INTERNAL:
        _FAILED("a call over HTTP failed", error=str(error))
        return _INTERNAL
    detail = str(error)
    message = error.code.message if detail in ("", error.code.message) else f"{error.code.message}: {detail}"
    return {"code": int(error.code), "message": message}


def unforeseen(error: Exception) -> dict[str, Any]:
    """The body of error 100 for what nobody reckoned with; the log has the traceback, once a second at most."""
    _UNFORESEEN("a call over HTTP failed, unforeseen", exc_info=error)
    return _INTERNAL


def refusal(error: ThalamusError, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An error: 200 for the server API, another status where one says more."""
    return error_answer(error_body(error), status, headers)


def error_answer(body: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """`{"error": …}` with this body."""
    return Response(_ENCODER.encode({"error": body}), status, media_type="application/json", headers=headers)


def plain_error(status: int, message: str, code: ErrorCode = ErrorCode.BAD_REQUEST) -> Response:
    """An error about the request itself."""
    return error_answer({"code": int(code), "message": message}, status)


def unauthorized(message: str, challenge: str) -> Response:
    """401, with what RFC 9110, 11.6.1 wants beside it: how a client could show who it is."""
    response = plain_error(HTTPStatus.UNAUTHORIZED, message, ErrorCode.UNAUTHORIZED)
    response.headers["WWW-Authenticate"] = challenge
    return response
