"""CORS for `/auth/*` only: browser apps on allowed origins sign in from there."""

from __future__ import annotations

from collections.abc import Callable

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send


class AccountsCors:
    """Passes everything on; what concerns accounts goes through Starlette's CORS middleware."""

    def __init__(self, app: ASGIApp, allowed: Callable[[str], bool]) -> None:
        self._app = app
        self._cors = _Cors(app, allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        mine = scope["type"] == "http" and scope["path"].startswith("/auth/")
        await (self._cors if mine else self._app)(scope, receive, send)


class _Cors(CORSMiddleware):
    """Asks the rules that WebSocket connections are asked: one setting, one meaning."""

    def __init__(self, app: ASGIApp, allowed: Callable[[str], bool]) -> None:
        super().__init__(
            app, allow_methods=["GET", "POST"], allow_headers=["Content-Type", "Authorization"], max_age=600
        )
        self._allowed = allowed

    def is_allowed_origin(self, origin: str) -> bool:
        return self._allowed(origin)
