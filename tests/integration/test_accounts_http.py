"""Accounts over HTTP: signing in, tokens, CORS, and the edge's own pages."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import httpx
import pytest

from tests.support.stack import Stack
from tests.support.wire_client import WireClient

ORIGIN = "https://app.example.com"
PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def shop() -> Iterator[Stack]:
    environment = {"EDGE_ALLOWED_ORIGINS": "https://*.example.com", "AUTH_ATTEMPTS_PER_ADDRESS": "1000"}
    with Stack(edges=1, environment=environment) as running:
        yield running


@pytest.fixture
async def http(shop: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=shop.http_urls[0], timeout=10) as client:
        yield client


async def register(http: httpx.AsyncClient) -> tuple[str, dict[str, str]]:
    name = f"user-{secrets.token_hex(4)}"
    response = await http.post("/auth/register", json={"username": name, "password": PASSWORD})
    assert response.status_code == 200, response.text
    assert response.headers["cache-control"] == "no-store"
    pair: dict[str, str] = response.json()["result"]
    return name, pair


async def test_registering_signs_in_and_the_token_connects(http: httpx.AsyncClient, shop: Stack) -> None:
    name, pair = await register(http)
    async with WireClient(shop.ws_urls[0]) as client:
        result = await client.connect(pair["access_token"])
        assert result["expires"] is True
        await client.subscribe("chat:lobby")
        await client.publish("chat:lobby", 1)
        info = (await client.publication("chat:lobby"))["info"]
        assert (info["user"], info["conn_info"]) == (pair["user"], {"name": name})


async def test_logging_in_needs_the_password_and_the_name_without_its_case(http: httpx.AsyncClient) -> None:
    name, pair = await register(http)
    response = await http.post("/auth/login", json={"username": name.upper(), "password": PASSWORD})
    assert response.json()["result"]["user"] == pair["user"]
    wrong = await http.post("/auth/login", json={"username": name, "password": "something else"})
    unknown = await http.post("/auth/login", json={"username": "nobody-at-all", "password": "something else"})
    assert wrong.status_code == unknown.status_code == 401
    assert wrong.json() == unknown.json()


@pytest.mark.parametrize(
    ("username", "password", "status"),
    [("ab", PASSWORD, 400), ("a b c", PASSWORD, 400), ("abc", "short", 400), ("abc", "x" * 1_025, 400)],
)
async def test_names_and_passwords_that_are_not_allowed(
    http: httpx.AsyncClient, username: str, password: str, status: int
) -> None:
    response = await http.post("/auth/register", json={"username": username, "password": password})
    assert response.status_code == status
    assert response.json()["error"]["message"]


async def test_a_name_is_taken_whatever_its_case(http: httpx.AsyncClient) -> None:
    name, _ = await register(http)
    response = await http.post("/auth/register", json={"username": name.upper(), "password": PASSWORD})
    assert response.status_code == 409


async def test_B16_a_refresh_token_is_good_once_and_its_reuse_ends_the_session(http: httpx.AsyncClient) -> None:
    _, pair = await register(http)
    second = await http.post("/auth/refresh", json={"refresh_token": pair["refresh_token"]})
    newest = second.json()["result"]["refresh_token"]
    assert (await http.post("/auth/refresh", json={"refresh_token": pair["refresh_token"]})).status_code == 401
    assert (await http.post("/auth/refresh", json={"refresh_token": newest})).status_code == 401


@pytest.mark.parametrize("ended_by", ["reuse", "logout"])
async def test_B16_the_connections_of_an_ended_session_are_closed_on_every_edge_and_no_others(
    stack: Stack, ended_by: str
) -> None:
    async with AsyncExitStack() as exits:
        http = await exits.enter_async_context(httpx.AsyncClient(base_url=stack.http_urls[0], timeout=10))
        name, pair = await register(http)
        token = {"refresh_token": pair["refresh_token"]}
        other = (await http.post("/auth/login", json={"username": name, "password": PASSWORD})).json()["result"]
        newer = pair if ended_by == "logout" else (await http.post("/auth/refresh", json=token)).json()["result"]
        tokens = [pair["access_token"], newer["access_token"], other["access_token"]]
        clients = [await exits.enter_async_context(WireClient(stack.ws_urls[edge])) for edge in (0, 1, 1)]
        for client, access_token in zip(clients, tokens, strict=True):
            await client.connect(access_token)
        status = (await http.post("/auth/logout" if ended_by == "logout" else "/auth/refresh", json=token)).status_code
        assert status == (200 if ended_by == "logout" else 401)
        for client in clients[:2]:
            assert await client.expect_close() == (3503, "force disconnect")
        for edge, access_token in enumerate(tokens[:2]):  # they have not expired, and are good nowhere
            refused = await exits.enter_async_context(WireClient(stack.ws_urls[edge]))
            await refused.post(connect={"token": access_token})
            assert await refused.expect_close() == (3500, "invalid token")
        assert (await clients[2].subscribe("chat:lobby")) is not None


async def test_logging_out_ends_the_session(http: httpx.AsyncClient) -> None:
    _, pair = await register(http)
    assert (await http.post("/auth/logout", json={"refresh_token": pair["refresh_token"]})).json() == {"result": {}}
    assert (await http.post("/auth/refresh", json={"refresh_token": pair["refresh_token"]})).status_code == 401


async def test_B18_a_login_flood_on_an_account_is_429_with_a_hint(http: httpx.AsyncClient) -> None:
    name, _ = await register(http)
    statuses = []
    for _ in range(12):
        response = await http.post("/auth/login", json={"username": name, "password": "guess guess"})
        statuses.append(response.status_code)
    assert statuses == [401] * 10 + [429] * 2
    assert 1 <= int(response.headers["retry-after"]) <= 60
    assert (await http.post("/auth/login", json={"username": name, "password": PASSWORD})).status_code == 429


@pytest.mark.parametrize("password", ["x" * 1_025, "é" * 513], ids=["characters", "bytes"])
async def test_B18_a_password_over_1024_bytes_is_400_and_no_attempt(http: httpx.AsyncClient, password: str) -> None:
    name, _ = await register(http)
    for _ in range(12):
        response = await http.post("/auth/login", json={"username": name, "password": password})
        assert response.status_code == 400
    assert (await http.post("/auth/login", json={"username": name, "password": PASSWORD})).status_code == 200


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (ORIGIN, True),
        ("https://example.com.evil.org", False),
        ("https://app.example.com.evil.org", False),
        ("http://app.example.com", False),
        ("https://evilexample.com", False),
        ("null", False),
    ],
)
async def test_cors_is_for_allowed_origins_and_accounts_only(
    http: httpx.AsyncClient, origin: str, allowed: bool
) -> None:
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    preflight = await http.options("/auth/login", headers=headers)
    assert (preflight.headers.get("access-control-allow-origin") == origin) is allowed
    response = await http.post("/auth/refresh", json={"refresh_token": "x"}, headers={"Origin": origin})
    assert (response.headers.get("access-control-allow-origin") == origin) is allowed
    elsewhere = await http.post("/api/info", json={}, headers={"Origin": origin})
    assert "access-control-allow-origin" not in elsewhere.headers


async def test_the_api_page_and_its_assets_come_from_here(http: httpx.AsyncClient) -> None:
    page = (await http.get("/docs")).text
    links = re.findall(r'(?:href|src)="([^"]+)"', page)
    assert links
    for link in links:
        assert link.startswith("/"), link
        assert (await http.get(link)).status_code == 200, link
    paths = (await http.get("/openapi.json")).json()["paths"]
    methods = "publish broadcast subscribe unsubscribe disconnect refresh history history_remove presence"
    for method in (methods + " presence_stats channels info batch").split():
        assert f"/api/{method}" in paths
    assert {"/auth/register", "/auth/login", "/auth/refresh", "/auth/logout", "/auth/jwks"} <= set(paths)
    assert "/auth/.well-known/jwks.json" in paths


async def test_the_console_page_is_served_under_a_strict_policy(http: httpx.AsyncClient) -> None:
    response = await http.get("/")
    assert "default-src 'self'" in response.headers["content-security-policy"]
    for link in re.findall(r'(?:href|src)="(/[^"]+)"', response.text):
        assert (await http.get(link)).status_code == 200, link


async def test_the_public_keys_are_public_and_only_public(http: httpx.AsyncClient) -> None:
    response = await http.get("/auth/jwks")
    keys = response.json()["keys"]
    assert keys
    where_others_look = await http.get("/auth/.well-known/jwks.json")
    assert where_others_look.content == response.content
    for name in ("cache-control", "content-type"):
        assert where_others_look.headers[name] == response.headers[name]
    assert all("d" not in key and key["kid"] and key["alg"] in ("EdDSA", "RS256") for key in keys)


async def test_B36_no_secret_is_in_any_log(http: httpx.AsyncClient, shop: Stack) -> None:
    _, pair = await register(http)
    await http.post("/auth/login", json={"username": "x", "password": "planted-secret-in-vain"})
    async with httpx.AsyncClient(base_url=shop.http_urls[0]) as other:
        await other.get("/connection/websocket?token=planted-token-in-url")
    said = "\n".join(line for name in ("auth", "edge-1") for line in shop.lines(name))
    for secret in (
        PASSWORD,
        "planted-secret",
        "planted-token",
        pair["access_token"],
        pair["refresh_token"],
        shop.api_key,
    ):
        assert secret not in said


@pytest.mark.parametrize("path", ["register", "login", "refresh", "logout"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"[]",
        b'{"username":1,"password":2,"refresh_token":3}',
        b'{"username":"abc","password":"\xff","refresh_token":"\xff"}',
        b'{"username":"\\ud800bc","password":"\\ud800aaaaaaaa","refresh_token":"\\ud800"}',
        b"[" * 5_000,
    ],
    ids=["empty", "not-json", "array", "numbers", "bad-utf-8", "surrogates", "deep"],
)
async def test_bodies_that_say_nothing_are_400(http: httpx.AsyncClient, path: str, body: bytes) -> None:
    response = await http.post(f"/auth/{path}", content=body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["message"]


@pytest.mark.parametrize("path", ["register", "login", "refresh", "logout"])
async def test_a_body_over_8_kib_is_413(http: httpx.AsyncClient, path: str) -> None:
    assert (await http.post(f"/auth/{path}", content=b" " * 8_193)).status_code == 413


async def test_names_with_quotes_and_nulls_are_nobody(http: httpx.AsyncClient) -> None:
    for name in ("' OR 1=1 --", "a\x00b", "x" * 4_000, "%", "ann\n"):
        response = await http.post("/auth/login", json={"username": name, "password": PASSWORD})
        assert response.status_code == 401, response.text
    assert (await http.post("/auth/refresh", json={"refresh_token": "' OR 1=1 --\x00"})).status_code == 401
