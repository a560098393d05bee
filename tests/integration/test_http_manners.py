"""What every HTTP client may expect of the public port, whatever it asks for."""

from __future__ import annotations

import httpx
import pytest

from tests.support.stack import Stack

READABLE = ["/", "/docs", "/openapi.json", "/auth/jwks", "/auth/.well-known/jwks.json", "/docs-assets/swagger-ui.css"]


@pytest.fixture
def http(stack: Stack) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=stack.http_urls[0], timeout=10)


@pytest.mark.parametrize("path", READABLE)
async def test_head_answers_as_get_without_the_body(http: httpx.AsyncClient, path: str) -> None:
    async with http:
        whole, head = await http.get(path), await http.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert whole.content
    for name in ("content-type", "content-length"):
        assert head.headers[name] == whole.headers[name]


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/api/publish", "POST"),
        ("HEAD", "/api/publish", "POST"),
        ("DELETE", "/api/info", "POST"),
        ("GET", "/auth/login", "POST"),
        ("POST", "/auth/jwks", "GET, HEAD"),
        ("POST", "/", "GET, HEAD"),
        ("PUT", "/docs", "GET, HEAD"),
        ("POST", "/openapi.json", "GET, HEAD"),
        ("POST", "/docs-assets/swagger-ui.css", "GET, HEAD"),
        ("POST", "/static/app.js", "GET, HEAD"),
        ("PATCH", "/connection/websocket", "GET"),
    ],
)
async def test_405_names_the_methods(http: httpx.AsyncClient, method: str, path: str, expected: str) -> None:
    async with http:
        response = await http.request(method, path)
    assert response.status_code == 405
    assert response.headers["allow"] == expected


@pytest.mark.parametrize(
    ("path", "body", "scheme"),
    [
        ("/api/info", {}, "apikey"),
        ("/auth/login", {"username": "nobody", "password": "wrong-password"}, "Bearer"),
        ("/auth/refresh", {"refresh_token": "wrong"}, "Bearer"),
    ],
)
async def test_401_says_how_to_show_who_one_is(
    http: httpx.AsyncClient, path: str, body: dict[str, str], scheme: str
) -> None:
    async with http:
        response = await http.post(path, json=body)
    assert response.status_code == 401
    assert response.headers["www-authenticate"].split(" ")[0] == scheme


@pytest.mark.parametrize("path", ["/api/publish/", "/auth/login/", "/docs/", "/static", "/docs-assets"])
async def test_nobody_is_sent_where_its_host_header_says(http: httpx.AsyncClient, path: str) -> None:
    async with http:
        for method in ("GET", "POST"):
            response = await http.request(method, path, headers={"Host": "evil.example"})
            assert response.status_code in (404, 405)
            assert "location" not in response.headers
