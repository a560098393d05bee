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
    """Middleware that applies CORS only to requests for `/auth` and `/auth/*`.

    Pages of origins that are listed by name may let the browser keep the cookie of a response.
    """

    def __init__(self, app: ASGIApp, allowed: Callable[[str], bool], named: Callable[[str], bool]) -> None:
        self._app = app
        self._named = named
        self._cors = _Cors(app, allowed, takes_cookies=False)
        self._cors_with_cookies = _Cors(app, named, takes_cookies=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not (scope["path"] == "/auth" or scope["path"].startswith("/auth/")):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        self._cors.tell_refused(headers)
        cors = self._cors_with_cookies if self._named(headers.get("origin", "")) else self._cors
        await cors(scope, receive, send)


class _Cors(CORSMiddleware):
    """CORS middleware that uses the same origin rules as WebSocket connections."""

    def __init__(self, app: ASGIApp, allowed: Callable[[str], bool], *, takes_cookies: bool) -> None:
        super().__init__(
            app,
            allow_methods=["GET", "POST"],
            allow_headers=["Content-Type", "Authorization"],
            allow_credentials=takes_cookies,
            max_age=600,
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
