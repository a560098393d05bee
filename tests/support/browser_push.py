"""A stand-in for Google's push service, as Chromium speaks to it.

Chromium asks at three places, which its command line names: a check-in and a registration over HTTP, then a connection
that stays (MCS, `google_apis/gcm` in Chromium's source): over TLS, a version byte, then messages of a tag, a length and
Protobuf. What is posted to the address of a subscription (RFC 8030) goes down that connection as it is, encrypted: only
the browser can read it.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs

from tests.support.http_server import Asked, HttpServer, Server
from tests.support.protobuf_by_hand import BYTES, FIXED64, VARINT, raw_fields, tagged, varint

_VERSION = 41
_LOGIN_REQUEST, _LOGIN_RESPONSE, _DATA, _PING, _PONG = 2, 3, 8, 0, 1  # tags of MCS


def _number(number: int, value: int) -> bytes:
    return tagged(number, VARINT, varint(value))


def _text(number: int, value: str | bytes) -> bytes:
    return tagged(number, BYTES, value.encode() if isinstance(value, str) else value)


@dataclass
class Registered:
    """A subscription: what the browser said of it, and its token."""

    app: str
    subtype: str
    sender: str
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))


class _Connections(Server):
    """The connections that stay; `send` writes to all."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        super().__init__(tls)
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def is_there(self) -> bool:
        """Whether a browser has logged in."""
        return bool(self._writers)

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve_browser(reader, writer)
        finally:
            self._writers = [one for one in self._writers if one is not writer]

    async def _serve_browser(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)  # the version of the client
        writer.write(bytes([_VERSION]))
        while True:
            tag, size, shift = (await reader.readexactly(1))[0], 0, 0
            while True:
                (byte,) = await reader.readexactly(1)
                size |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
            body = await reader.readexactly(size)
            if tag == _LOGIN_REQUEST:
                (name,) = [value for number, _, value in raw_fields(body) if number == 1]
                assert isinstance(name, bytes)
                writer.write(_framed(_LOGIN_RESPONSE, _text(1, name) + _number(8, int(time.time() * 1000))))
                self._writers.append(writer)
            elif tag == _PING:
                writer.write(_framed(_PONG, b""))
            await writer.drain()

    def send(self, tag: int, body: bytes) -> None:
        for writer in self._writers:
            writer.write(_framed(tag, body))


def _framed(tag: int, body: bytes) -> bytes:
    return bytes([tag]) + varint(len(body)) + body


class _Registrations(HttpServer):
    """Check-in and registration."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, Registered] = {}

    async def answered(self, asked: Asked, writer: asyncio.StreamWriter) -> bool:
        if asked.path == "/checkin":
            body = _number(1, 1) + _number(3, int(time.time() * 1000))
            body += tagged(7, FIXED64, (77).to_bytes(8, "little")) + tagged(8, FIXED64, (99).to_bytes(8, "little"))
        else:
            form = {name: values[0] for name, values in parse_qs(asked.body.decode()).items()}
            made = Registered(form["app"], form.get("X-subtype", ""), form["sender"])
            self.found[made.token] = made
            body = f"token={made.token}".encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        return True


class BrowserPush:
    """The service. An async context manager.

    `switches` are for the command line of the browser.
    """

    def __init__(self, tls: ssl.SSLContext) -> None:
        self._connections, self._registrations = _Connections(tls), _Registrations()
        self._opened = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._opened.enter_async_context(self._connections)
        await self._opened.enter_async_context(self._registrations)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._opened.aclose()

    @property
    def switches(self) -> list[str]:
        http = f"http://127.0.0.1:{self._registrations.port}"
        return [
            f"--gcm-checkin-url={http}/checkin",
            f"--gcm-registration-url={http}/register",
            f"--gcm-mcs-endpoint=https://127.0.0.1:{self._connections.port}",
        ]

    @property
    def is_connected(self) -> bool:
        """Whether a browser waits for what is sent to it."""
        return self._connections.is_there

    def sender(self, token: str) -> str:
        """Who alone may send to a subscription: a public key."""
        return self._registrations.found[token].sender

    def deliver(self, token: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Hand on what was sent to a subscription."""
        to = self._registrations.found[token]
        data = {"subtype": to.subtype, "content-encoding": headers["content-encoding"]}
        stanza = _text(3, to.sender) + _text(5, to.app)
        stanza += b"".join(_text(7, _text(1, name) + _text(2, value)) for name, value in data.items())
        stanza += _text(9, secrets.token_hex(8)) + _number(17, 60) + _number(18, int(time.time() * 1000))
        self._connections.send(_DATA, stanza + _text(21, body))
