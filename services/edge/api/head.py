"""HEAD requests: answered like GET; the transport leaves out the body."""

from __future__ import annotations

from collections.abc import Set

from starlette.types import ASGIApp, Receive, Scope, Send


class HeadAsGet:
    """Middleware that turns HEAD into GET."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


def allow(named: Set[str]) -> str:
    """Return the Allow header of a 405; HEAD is added where GET is allowed."""
    return ", ".join(sorted(named | {"HEAD"} if "GET" in named else named))
