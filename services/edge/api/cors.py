"""CORS for `/auth/*` and `/chat/*`.

Web pages of allowed origins can sign in, and read and write conversations.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from services.shared.process.log_limit import RateLimitedLog

_MAX_LOGGED = 200  # longest header value in the log, characters
_refused = RateLimitedLog(logging.getLogger(__name__), logging.WARNING)


class AccountsCors:
    """Middleware that applies CORS only to requests for `/auth…` and `/chat…`.

    Pages of origins that are listed by name may let the browser keep the cookie of a response of `/auth`. Cookies do
    not count for `/chat`.
    """

    def __init__(self, app: ASGIApp, allowed: Callable[[str], bool], named: Callable[[str], bool]) -> None:
        self._app = app
        self._named = named
        self._cors = _Cors(app, allowed)
        self._cors_with_cookies = _Cors(app, named, takes_cookies=True)
        self._cors_of_chat = _Cors(
            app, allowed, methods=["GET", "POST", "PUT", "PATCH", "DELETE"], headers=["Idempotency-Key"]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        first = scope["path"].split("/", 2)[1:2] if scope["type"] == "http" else []
        if first not in (["auth"], ["chat"]):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        self._cors.tell_refused(headers)
        if first == ["chat"]:
            await self._cors_of_chat(scope, receive, send)
            return
        cors = self._cors_with_cookies if self._named(headers.get("origin", "")) else self._cors
        await cors(scope, receive, send)


class _Cors(CORSMiddleware):
    """CORS middleware that uses the same origin rules as WebSocket connections."""

    def __init__(
        self,
        app: ASGIApp,
        allowed: Callable[[str], bool],
        *,
        takes_cookies: bool = False,
        methods: Sequence[str] = ("GET", "POST"),
        headers: Sequence[str] = (),
    ) -> None:
        super().__init__(
            app,
            allow_methods=methods,
            allow_headers=["Content-Type", "Authorization", *headers],
            allow_credentials=takes_cookies,
            expose_headers=["Retry-After"],
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
