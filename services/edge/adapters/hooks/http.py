"""Asks a hook over HTTP: a signed POST with a JSON body.

**Purpose.** A backend decides without a client library: any web server that reads JSON will do.

**Rules.**

1. The body is the question, the same members as `HookRequest`. It is signed as Standard Webhooks says, with the
   headers `webhook-id`, `webhook-timestamp` and `webhook-signature`.
2. 200 with a JSON object is an answer; 204, or 200 without a body, is one that changes nothing. Any other status is a
   failure, and so is a redirect: it is not followed, since the body may hold what is for this backend alone.
3. At most `max_answer_bytes` of a body are read; beyond, the connection is closed. Compressed answers are refused: a
   small one can hold a large one.
4. Connections are kept for 4 s after their last use, less than what the usual servers allow (5 s): so none is used
   that the server is about to close. Proxies of the environment are not used.

`http_connections.py` keeps the connections.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import ssl
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import h11
import msgspec

from services.edge.adapters.hooks.http_connections import AnswerTooLong, Connections, Headers, Judge
from services.edge.domain.hooks.answers import read_answer
from services.edge.domain.hooks.model import Answer, Event, Failure, HookFailed, HookRequest
from services.edge.domain.hooks.options import HookOptions
from services.shared.json_text import InvalidJson, JsonText, checked_json
from services.shared.process.config import ConfigError
from services.shared.webhook_signing import read_signer

_KEPT_S = 4.0  # an idle connection, seconds
_PROBE_S = 1.0  # longest wait for the response to a ping, seconds: what `Breaker` asks for
# What a proxy says for a backend that it can't reach; and a backend for itself, while it starts or has too much to do.
_FROM_PROXIES = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT})


class HttpBackend:
    """Implements `Backend` by HTTP requests."""

    def __init__(self, options: HookOptions) -> None:
        """Make a client; connects to nothing yet.

        Raises:
            ConfigError: a secret or the authorities can't be used.
        """
        self._options = options
        self._signer = read_signer(map(Path, options.secret_files), f"[hooks.{options.name}] secret_files")
        parts = urlsplit(options.url)
        self._target = (parts.path or "/").encode() + (f"?{parts.query}".encode() if parts.query else b"")
        self._headers = (
            (b"Host", parts.netloc.encode()),
            (b"Accept", b"application/json"),
            (b"User-Agent", b"thalamus"),
            (b"Content-Type", b"application/json"),
        )
        tls = _authorities(options)
        self._connections = Connections(
            parts.hostname or "",
            parts.port or (443 if tls else 80),
            tls=tls,
            most_bytes=options.max_answer_bytes,
            kept_s=_KEPT_S,
        )

    async def ask(self, request: HookRequest) -> Answer:
        return read_answer(request.event, await self._post(request, _check))

    async def probe(self) -> bool:
        request = HookRequest(event=Event.PING, id=f"ping_{secrets.token_hex(16)}")
        try:
            async with asyncio.timeout(_PROBE_S):
                await self._post(request, _is_alive)
        except TimeoutError:
            return False
        except HookFailed as error:
            return error.failure is not Failure.UNREACHABLE
        return True

    async def close(self) -> None:
        self._connections.close()

    async def _post(self, request: HookRequest, judge: Judge) -> bytes:
        """Return the body of the response to a question."""
        body = encoded_request(request)
        signature = self._signer.headers(request.id, int(time.time()), body.decode())
        signed = [(name.encode(), value.encode()) for name, value in signature.items()]
        headers = (*self._headers, (b"Content-Length", str(len(body)).encode()), *signed)
        try:
            return await self._connections.post(self._target, headers, body, judge)
        except AnswerTooLong as error:
            raise HookFailed(Failure.TOO_LARGE, str(error)) from None
        except (OSError, h11.ProtocolError) as error:
            raise HookFailed(Failure.UNREACHABLE, f"{type(error).__name__}: {error}") from error


def _is_alive(status: int, headers: Headers) -> None:
    """Take any response to a ping: it shows that the process lives."""


def _check(status: int, headers: Headers) -> None:
    """Raise what a response other than an answer means."""
    found = dict(headers)
    if 300 <= status < 400:
        raise HookFailed(Failure.REDIRECT, f"it redirects to {found.get(b'location', b'')[:100]!r}")
    if status in _FROM_PROXIES:
        raise HookFailed(Failure.UNREACHABLE, f"status {status}")
    if status not in (HTTPStatus.OK, HTTPStatus.NO_CONTENT):
        raise HookFailed(Failure.STATUS, f"status {status}")
    if found.get(b"content-encoding", b"identity").lower() != b"identity":
        raise HookFailed(Failure.BAD_ANSWER, "it is compressed although that was not asked for")


def encoded_request(request: HookRequest) -> bytes:
    """Return a question as JSON. Members that are empty are left out."""
    found: dict[str, Any] = {
        "id": request.id,
        "event": request.event.value,
        "time_ms": request.time_ms,
        "edge": request.edge,
        "client": request.client,
        "user": request.user,
        "info": msgspec.Raw(request.info) if request.info else None,
        "peer": request.peer,
        "name": request.name,
        "headers": request.headers,
        "has_token": request.has_token,
        "expires_at": request.expires_at,
        "channel": request.channel,
        "method": request.method,
        **_data(request.data),
        "idempotency_key": request.idempotency_key,
    }
    return msgspec.json.encode({name: value for name, value in found.items() if value or value == 0.0})


def _data(data: bytes) -> dict[str, Any]:
    """Return the payload as JSON if it is, else in base64."""
    if not data:
        return {}
    try:
        return {"data": msgspec.Raw(data if type(data) is JsonText else checked_json(data))}
    except InvalidJson:
        return {"b64data": base64.b64encode(data).decode()}


def _authorities(options: HookOptions) -> ssl.SSLContext | None:
    """Return whose certificates are good; None: there is no TLS."""
    if not options.url.startswith("https:"):
        return None
    try:
        return ssl.create_default_context(cafile=options.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"[hooks.{options.name}] ca_file: can't read {options.ca_file}: {error}") from error
