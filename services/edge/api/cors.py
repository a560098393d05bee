"""CORS for `/auth/*` only: browser apps on allowed origins sign in from there."""

from __future__ import annotations

import re

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send


class AccountsCors:
    """Passes everything on; what concerns accounts goes through Starlette's CORS middleware."""

    def __init__(self, app: ASGIApp, allowed_origins: tuple[str, ...]) -> None:
        self._app = app
        self._cors = CORSMiddleware(
            app,
            allow_origin_regex="|".join(_pattern(origin) for origin in allowed_origins) or None,
            allow_methods=["GET", "POST"],
            allow_headers=["Content-Type", "Authorization"],
            max_age=600,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        mine = scope["type"] == "http" and scope["path"].startswith("/auth/")
        await (self._cors if mine else self._app)(scope, receive, send)


def _pattern(origin: str) -> str:
    """`*` stands for any labels of a host name, nothing else."""
    return f"(?:{re.escape(origin).replace(re.escape('*'), '[a-zA-Z0-9.-]+')})"
