"""The cookie with a connection token, for WebSocket handshakes of web pages.

No script reads it (HttpOnly), no other site makes the browser send it (SameSite=Strict), and the browser sends it with
handshakes only (Path). `services/edge/domain/handshake.py` says when it counts.

Only pages for which it counts may set or remove it. Any page can make a browser send a form here: it would sign the
user in as somebody else, whose channels the user then writes to.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from fastapi import Request, Response

from services.edge.domain.handshake import COOKIE

_PATH = "/connection"


def may_change_cookie(request: Request, is_own_page: Callable[[str, str], bool]) -> bool:
    """Return whether the request is of a page that may use the cookie, or of no page.

    Browsers send Origin with every POST.
    """
    host = request.headers.get("host", "")
    return all(is_own_page(origin, host) for origin in request.headers.getlist("origin"))


def set_session_cookie(request: Request, response: Response, token: str, max_age_s: int, websocket_path: str) -> None:
    """Set the cookie, for as long as the token is good."""
    response.set_cookie(
        COOKIE,
        token,
        max_age=max_age_s,
        path=_path(websocket_path),
        secure=not _is_plain_loopback(request),
        httponly=True,
        samesite="strict",
    )


def clear_session_cookie(request: Request, response: Response, websocket_path: str) -> None:
    """Remove the cookie."""
    response.delete_cookie(
        COOKIE,
        path=_path(websocket_path),
        secure=not _is_plain_loopback(request),
        httponly=True,
        samesite="strict",
    )


def _path(websocket_path: str) -> str:
    """Return `/connection`, or the endpoint itself if it lies elsewhere."""
    return _PATH if websocket_path.startswith(f"{_PATH}/") else websocket_path


def _is_plain_loopback(request: Request) -> bool:
    """Return whether the browser reaches the edge on its own machine over http.

    A proxy that ends TLS makes it look like http too, but then Host is not a loopback name.
    """
    host = request.url.hostname or ""
    if request.url.scheme != "http":
        return False
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
