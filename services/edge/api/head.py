"""HEAD requests: answered like GET; the transport leaves out the body."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class HeadAsGet:
    """Middleware that turns HEAD into GET."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


def allow(methods: str | None) -> str:
    """Return the Allow header of a 405, made from Starlette's; None means GET only.

    HEAD is added where GET is allowed.
    """
    named = {"GET"} if methods is None else set(methods.split(", "))
    return ", ".join(sorted(named | {"HEAD"} if "GET" in named else named))
