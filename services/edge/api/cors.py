"""CORS for `/auth/*`, so that web pages of allowed origins can sign in."""

from __future__ import annotations

import logging
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from services.shared.process.log_limit import RateLimitedLog

_MAX_LOGGED = 200  # longest header value in the log, characters
_refused = RateLimitedLog(logging.getLogger(__name__), logging.WARNING)


class AccountsCors:
    """Middleware that applies CORS to requests for `/auth/*`, and to no others."""

    def __init__(self, app: ASGIApp, allowed: Callable[[str], bool]) -> None:
        self._app = app
        self._cors = _Cors(app, allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        mine = scope["type"] == "http" and scope["path"].startswith("/auth/")
        if mine:
            self._cors.tell_refused(Headers(scope=scope))
        await (self._cors if mine else self._app)(scope, receive, send)


class _Cors(CORSMiddleware):
    """CORS middleware that uses the same origin rules as WebSocket connections."""

    def __init__(self, app: ASGIApp, allowed: Callable[[str], bool]) -> None:
        super().__init__(
            app, allow_methods=["GET", "POST"], allow_headers=["Content-Type", "Authorization"], max_age=600
        )
        self._allowed = allowed

    def tell_refused(self, headers: Headers) -> None:
        """Log, at a limited rate, that a page of another origin can't sign in."""
        origin, host = headers.get("origin"), headers.get("host", "")
        if origin is not None and origin.partition("://")[2] != host and not self._allowed(origin):
            text = "a page of another origin can't sign in: EDGE_ALLOWED_ORIGINS lists those that may"
            _refused(text, origin=origin[:_MAX_LOGGED], host=host[:_MAX_LOGGED])

    def is_allowed_origin(self, origin: str) -> bool:
        return self._allowed(origin)
