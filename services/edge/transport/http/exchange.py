"""One HTTP request and its response, for an ASGI application."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable, MutableMapping
from http import HTTPStatus
from typing import Any, Protocol

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Scope

from services.shared.process.log_limit import RateLimitedLog

MAX_UNREAD_BODY_BYTES = 65_536  # of a request body; beyond, nothing is read until the application has taken it

_failures = RateLimitedLog(logging.getLogger(__name__), logging.ERROR)

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(rb"[\x20-\x7e\x80-\xff\t]*")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_BODILESS = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})
_PHRASES = {status.value: status.phrase for status in HTTPStatus}


class Line(Protocol):
    """What an exchange needs of its connection."""

    def write(self, data: bytes) -> None:
        """Send bytes; no effect once the connection is closing."""

    async def writable(self) -> None:
        """Wait until the client has read enough, or the connection has ended."""

    def body_taken(self) -> None:
        """Called when the application has taken everything that arrived of the body."""

    def answered(self, *, whole: bool) -> None:
        """Called when the response is finished.

        `whole` is False if the application stopped in the middle; the connection must then break, so that the client
        notices.
        """


class Exchange:
    """One request and its response.

    `keep_alive` may be set to False from outside until the response starts.
    """

    __slots__ = (
        "_body",
        "_changed",
        "_chunked",
        "_expects_continue",
        "_gone",
        "_has_more",
        "_is_head",
        "_left",
        "_line",
        "_scope",
        "_standing_headers",
        "_started",
        "keep_alive",
    )

    def __init__(
        self,
        line: Line,
        scope: Scope,
        standing_headers: list[tuple[bytes, bytes]],
        *,
        has_body: bool,
        keep_alive: bool,
        expects_continue: bool,
    ) -> None:
        self._line: Line | None = line  # None: the response is finished, or the client is gone
        self._scope = scope
        self._standing_headers = standing_headers
        self._is_head = scope["method"] == "HEAD"
        self._has_more = has_body
        self._expects_continue = expects_continue
        self._body: bytearray | None = bytearray()  # not yet taken; None: the application has taken the last part
        self._changed = asyncio.Event()
        self._gone = False
        self._started = False
        self._chunked = False
        self._left: int | None = None  # bytes to come by Content-Length; None: there is none; -1: there is no body
        self.keep_alive = keep_alive

    # Called by the connection.

    @property
    def wants_body(self) -> bool:
        """Whether the connection should read more of the body now."""
        return self._body is None or len(self._body) <= MAX_UNREAD_BODY_BYTES

    @property
    def has_started(self) -> bool:
        """Whether the head of the response is written."""
        return self._started

    def add(self, body: bytes, *, has_more: bool) -> None:
        """Add a part of the request body."""
        if self._body is not None:
            self._body += body
        self._has_more = has_more
        self._changed.set()

    def lost(self) -> None:
        """Note that the client is gone.

        The application receives `http.disconnect`; sending raises ConnectionResetError.
        """
        self._gone = True
        self._line = None
        self._changed.set()

    async def run(self, app: ASGIApp) -> None:
        """Run the application for this request.

        If it does not finish the response, a 500 is sent, or the connection breaks if the response has started.
        """
        try:
            await app(self._scope, self._receive, self._send)
        except ClientDisconnect:
            pass
        except Exception as error:
            if not self._gone:
                _failures("an HTTP request failed", exc_info=error, path=self._scope["path"])
        finally:
            await self._end()

    async def _end(self) -> None:
        line = self._line
        if line is None:
            return
        if self._started:
            self._line = None
            line.answered(whole=False)
            return
        body = b"Internal Server Error"
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
        self.keep_alive = False
        await self._send({"type": "http.response.start", "status": 500, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    # Called by the application.

    async def _receive(self) -> Message:
        line = self._line
        if self._expects_continue and line is not None and not self._started:
            line.write(_CONTINUE)
        self._expects_continue = False
        while self._line is not None:
            if self._body is not None and (self._body or not self._has_more):
                body = bytes(self._body)
                self._body = bytearray() if self._has_more else None
                self._line.body_taken()
                return {"type": "http.request", "body": body, "more_body": self._has_more}
            self._changed.clear()
            await self._changed.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        line = self._line
        if line is not None:
            await line.writable()
        if self._line is None:
            if self._gone:
                raise ConnectionResetError("the client is gone")
            raise RuntimeError(f"{message['type']} behind the end of the response")
        if not self._started:
            _expect(message, "http.response.start")
            self._line.write(self._head(message["status"], message.get("headers", ())))
            self._started = True
            return
        _expect(message, "http.response.body")
        has_more = message.get("more_body", False)
        self._line.write(self._framed(message.get("body", b""), has_more=has_more))
        if not has_more:
            line, self._line = self._line, None
            self._changed.set()
            line.answered(whole=True)

    def _head(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        lines = [b"HTTP/1.1 %d %b\r\n" % (status, _PHRASES.get(status, "").encode())]
        is_last = False
        if self._expects_continue and self._has_more:  # what comes next may be this body, or the next request
            self.keep_alive = False
        for given, value in (*self._standing_headers, *headers):
            name = given.lower()
            if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
                raise RuntimeError("a header of the response is malformed")
            if name == b"content-length":
                self._left = int(value)
            elif name == b"connection" and b"close" in value.lower():
                is_last = True
            lines.append(b"%b: %b\r\n" % (name, value))
        if self._is_head or status in _BODILESS:
            self._left = -1  # there is no body, whatever Content-Length says
        elif self._left is None and self._scope["http_version"] == "1.1":
            self._chunked = True
            lines.append(b"transfer-encoding: chunked\r\n")
        elif self._left is None:
            self.keep_alive = False
        if is_last:
            self.keep_alive = False
        elif not self.keep_alive:
            lines.append(b"connection: close\r\n")
        return b"".join(lines) + b"\r\n"

    def _framed(self, body: bytes, *, has_more: bool) -> bytes:
        if self._left == -1:
            return b""
        if self._chunked:
            framed = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            return framed if has_more else framed + _LAST_CHUNK
        if self._left is not None:
            self._left -= len(body)
            if self._left < 0 or (self._left > 0 and not has_more):
                raise RuntimeError("the response is not as long as its Content-Length")
        return body


def _expect(message: MutableMapping[str, Any], kind: str) -> None:
    if message["type"] != kind:
        raise RuntimeError(f"{message['type']} in place of {kind}")
