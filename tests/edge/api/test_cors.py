"""CORS of `/auth/*`: the origins that may sign in are those that may connect."""

from __future__ import annotations

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from services.edge.api.cors import AccountsCors
from services.edge.transport.origins import OriginRules

ORIGINS = (
    "https://example.com",
    "https://app.example.com",
    "https://a.b.example.com",
    "https://example.com:8443",
    "http://example.com",
    "https://example.com.evil.org",
    "https://evilexample.com",
    "http://localhost:5173",
    "null",
)


async def _ok(_: Request) -> Response:
    return PlainTextResponse("ok")


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ((), set[str]()),
        (("*",), set(ORIGINS) - {"null"}),
        (("null",), {"null"}),
        (("https://example.com/",), {"https://example.com"}),
        (("https://Example.COM",), {"https://example.com"}),
        (("https://example.com:443",), {"https://example.com"}),
        (("https://*.example.com",), {"https://app.example.com", "https://a.b.example.com"}),
        (("https://example.com:8443", "http://localhost:5173"), {"https://example.com:8443", "http://localhost:5173"}),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, tuple) else "",
)
async def test_an_origin_may_sign_in_exactly_where_it_may_connect(listed: tuple[str, ...], expected: set[str]) -> None:
    rules = OriginRules(listed)
    app = Starlette(routes=[Route(path, _ok, methods=["GET", "POST"]) for path in ("/auth/login", "/api/info")])
    app.add_middleware(
        AccountsCors, allowed=lambda origin: rules.allows(origin, ""), named=lambda origin: rules.names(origin, "")
    )
    assert {origin for origin in ORIGINS if rules.allows(origin, "edge.internal")} == expected
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://edge.internal") as http:
        for origin in ORIGINS:
            asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            for response in (
                await http.options("/auth/login", headers=asked),
                await http.post("/auth/login", headers={"Origin": origin}),
            ):
                found = response.headers.get("access-control-allow-origin")
                assert found == (origin if origin in expected else None)
                may_keep_cookies = rules.names(origin, "")  # by its name, and not because of "*"
                assert may_keep_cookies <= (origin in expected)
                assert ("access-control-allow-credentials" in response.headers) is may_keep_cookies
            elsewhere = await http.post("/api/info", headers={"Origin": origin})
            assert "access-control-allow-origin" not in elsewhere.headers


async def test_an_answer_that_depends_on_the_origin_says_so_to_caches() -> None:
    rules = OriginRules(["https://example.com"])
    app = Starlette(routes=[Route("/auth/jwks", _ok)])
    app.add_middleware(
        AccountsCors, allowed=lambda origin: rules.allows(origin, ""), named=lambda origin: rules.names(origin, "")
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://edge.internal") as http:
        allowed = await http.get("/auth/jwks", headers={"Origin": "https://example.com"})
    assert "origin" in allowed.headers["vary"].lower()
