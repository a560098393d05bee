"""HEAD: whatever answers GET answers it too, and the transport leaves out the body."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class HeadAsGet:
    """Shows the application GET where the client sent HEAD."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


def allow(methods: str | None) -> str:
    """The Allow header of a 405, from the one that Starlette gives; static files give none."""
    named = {"GET"} if methods is None else set(methods.split(", "))
    return ", ".join(sorted(named | {"HEAD"} if "GET" in named else named))
