"""Every way to bring a token, with the clients that have it, on two edges.

Drop and reconnect included.

`edge-2` accepts `?token=`, `edge-1` does not. docs/protocol.md, section 1, has the ways. docs/security.md says which
client can do which.
"""

from __future__ import annotations

import asyncio
import http.server
import secrets
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from websockets.exceptions import InvalidStatus

from tests.support.sdk import run_scenario
from tests.support.stack import Stack
from tests.support.tcp_proxy import TcpProxy
from tests.support.wire_client import WireClient
from tests.web.test_console import chromium, node, playwright  # noqa: F401  # fixtures

ROOT = Path(__file__).parents[2]
SDK_TESTS = ROOT / "tests" / "integration" / "sdk"
PATH = "/connection/websocket"
PASSWORD = "correct horse battery"
COOKIE = "thalamus_session"
ALLOWED, FORBIDDEN, OWN = "chat.app.localhost", "evil.app.localhost", "edge.app.localhost"  # one site


OLD_SECRET = secrets.token_urlsafe(32)  # of a set-up before this one; edges accept it beside the present one


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    older = tmp_path_factory.mktemp("ways") / "older"
    older.write_text(OLD_SECRET)
    environment = {
        "EDGE_ALLOWED_ORIGINS": f"http://{ALLOWED}:*",
        "AUTH_ATTEMPTS_PER_ADDRESS": "0",
        "AUTH_HS256_PREVIOUS_SECRET_FILE": str(older),
    }
    with Stack(edges=2, environment=environment, environment_of={"edge-2": {"EDGE_TOKEN_IN_QUERY": "true"}}) as running:
        yield running


@pytest.fixture
async def proxy(ways: Stack) -> AsyncIterator[TcpProxy]:
    """Leads to `edge-2`."""
    async with TcpProxy("127.0.0.1", int(ways.http_urls[1].rpartition(":")[2])) as running:
        yield running


async def publish(stack: Stack, channel: str, count: int) -> None:
    """Publish {"n": 1}, {"n": 2} and so on, in order."""
    commands = [{"publish": {"channel": channel, "data": {"n": number}}} for number in range(1, count + 1)]
    async with httpx.AsyncClient(base_url=stack.http_urls[0], headers={"X-API-Key": stack.api_key}) as http:
        replies = (await http.post("/api/batch", json={"commands": commands})).json()["result"]["replies"]
    assert all("publish" in reply for reply in replies), replies


async def ticket_of(stack: Stack, token: str) -> str:
    """A ticket from `edge-1`."""
    async with httpx.AsyncClient(base_url=stack.http_urls[0]) as http:
        response = await http.post("/auth/ticket", headers={"Authorization": f"Bearer {token}"})
    ticket: str = response.json()["result"]["ticket"]
    return ticket


# Status lines, with curl.


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: str


async def curl(url: str, *headers: str) -> Answer:
    """What `curl -i -N` shows of a handshake within half a second."""
    asked = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", *headers]
    process = await asyncio.create_subprocess_exec(
        *("curl", "-i", "-N", "-s", "--noproxy", "*", "--http1.1", "--max-time", "0.5"),
        *("-H", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
        *(word for header in asked for word in ("-H", header)),
        url,
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    head, _, body = said.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return Answer(
        int(first.split()[1]),
        {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)},
        body.decode(errors="replace"),
    )


async def test_curl_sees_the_status_of_each_way(ways: Stack) -> None:
    strict, lax = (url + PATH for url in ways.http_urls[:2])
    good, other, late = ways.token("alice"), ways.token("bob"), ways.token("alice", ttl_s=-60)
    bad = good[:-6] + "AAAAAA"
    own, allowed, forbidden = f"Origin: {ways.http_urls[0]}", f"Origin: http://{ALLOWED}", f"Origin: http://{FORBIDDEN}"
    ticket = await ticket_of(ways, good)
    offers = "Sec-WebSocket-Protocol: centrifuge-json, "
    cases: list[tuple[int, str, list[str]]] = [
        (101, strict, []),
        (101, strict, [own]),
        (101, strict, [allowed]),
        (403, strict, [forbidden]),
        (400, strict, [own, own]),
        (101, strict, [f"Authorization: Bearer {good}"]),
        (101, strict, ["Authorization: Basic YTpi"]),
        *((401, strict, [f"Authorization: Bearer {token}"]) for token in (bad, late, "garbage", "")),
        (400, strict, [f"Authorization: Bearer {good}", f"{offers}bearer.{other}"]),
        (101, strict, [f"Authorization: Bearer {good}", f"{offers}bearer.{good}"]),
        (101, strict, [f"{offers}bearer.{good}"]),
        (101, strict, [f"{offers}{good}"]),
        (401, strict, [f"{offers}bearer.{bad}"]),
        (401, strict, [f"{offers}{bad}"]),
        *((101, strict, [origin, f"Cookie: {COOKIE}={token}"]) for origin in (own, allowed) for token in (good, bad)),
        (403, strict, [forbidden, f"Cookie: {COOKIE}={good}"]),
        (401, strict, [own, f"Cookie: {COOKIE}={good}", "Authorization: Bearer garbage"]),
        (401, f"{strict}?session=unknown", []),
        (401, f"{strict}?token={good}", []),
        (101, f"{lax}?token={good}", []),
        (401, f"{lax}?token={bad}", []),
        (400, f"{lax}?token={good}&token={other}", []),
        (101, f"{lax}?token={good}&token={good}&x=1&x=2", []),
        (400, f"{lax}?token={good}", [f"Authorization: Bearer {other}"]),
    ]
    at_once = asyncio.Semaphore(8)

    async def ask(url: str, headers: list[str]) -> Answer:
        async with at_once:
            return await curl(url, *headers)

    responses = await asyncio.gather(*(ask(url, headers) for _, url, headers in cases))
    responses += [await curl(f"{url}?ticket={ticket}") for url in (lax, strict)]
    cases += [(101, lax, []), (401, strict, [])]
    for number, ((status, _, headers), response) in enumerate(zip(cases, responses, strict=True)):
        assert response.status == status, (number, headers, response)
        whole = f"{response.headers} {response.body}"
        assert not any(secret in whole for secret in (good, other, late, bad, ticket)), whole
        offered = any(header.startswith(offers) for header in headers)
        if status == 101:
            assert response.headers.get("sec-websocket-protocol") == ("centrifuge-json" if offered else None)
        if status == 401:
            assert response.headers["www-authenticate"].startswith('Bearer realm="connection", error="invalid_token"')


# The raw protocol.


@dataclass
class Way:
    """How a handshake is made: called anew for each connection."""

    query: Callable[[], str] = lambda: ""
    headers: Mapping[str, str] = field(default_factory=dict)
    subprotocols: tuple[str, ...] = ()
    connect: Mapping[str, Any] = field(default_factory=dict)
    origin: str | None = None


async def raw_ways(stack: Stack, host: str) -> dict[str, Way]:
    good = stack.token("alice")
    tickets = iter([await ticket_of(stack, good) for _ in range(2)])
    sessions = []
    async with httpx.AsyncClient(base_url=stack.http_urls[0], timeout=10) as http:
        account = {"username": f"user-{secrets.token_hex(4)}", "password": PASSWORD}
        (await http.post("/auth/register", json=account)).raise_for_status()
        for _ in range(2):
            sessions.append((await http.post("/auth", json=account)).json()["result"]["session"])
    by_password = iter(sessions)
    bearer = {"Authorization": f"Bearer {good}"}
    return {
        "token of connect": Way(connect={"token": good}),
        "headers of connect": Way(connect={"headers": bearer}),
        "Authorization": Way(headers=bearer),
        "bearer subprotocol": Way(subprotocols=("centrifuge-json", f"bearer.{good}")),
        "JWT as a subprotocol": Way(subprotocols=(good, "centrifuge-json")),
        "cookie": Way(headers={"Cookie": f"a=b; {COOKIE}={good}"}, origin=f"http://{host}"),
        "new ticket": Way(query=lambda: f"?ticket={next(tickets)}"),
        "new session": Way(query=lambda: f"?session={next(by_password)}"),
        "token in the query": Way(query=lambda: f"?token={good}"),
    }


async def test_raw_clients_come_in_each_way_and_recover_in_the_same_way(ways: Stack, proxy: TcpProxy) -> None:
    host = f"127.0.0.1:{proxy.port}"
    all_ways = await raw_ways(ways, host)

    channel = f"chat:raw-{secrets.token_hex(4)}"

    @asynccontextmanager
    async def visit(name: str, way: Way) -> AsyncIterator[WireClient]:
        client = WireClient(
            f"ws://{host}{PATH}{way.query()}", headers=way.headers, origin=way.origin, subprotocols=way.subprotocols
        )
        async with client:
            assert client.subprotocol == ("centrifuge-json" if way.subprotocols else None), name
            result = await client.connect(**way.connect)
            assert ("expires" in result) == bool(way.connect), name
            yield client

    async with AsyncExitStack() as clients:
        for name, way in all_ways.items():
            client = await clients.enter_async_context(visit(name, way))
            position = await client.subscribe(channel)
        proxy.reset()
    await publish(ways, channel, 5)
    since = {"recover": True, "epoch": position["epoch"], "offset": position.get("offset", 0)}
    for name, way in all_ways.items():
        async with visit(name, way) as client:
            again = await client.subscribe(channel, **since)
            assert again["recovered"], name
            assert [one["data"]["n"] for one in again["publications"]] == [1, 2, 3, 4, 5], name


async def test_a_ticket_is_good_once_on_all_edges(ways: Stack) -> None:
    ticket = await ticket_of(ways, ways.token("alice"))
    used = []
    for url in (*ways.ws_urls[:2], *ways.ws_urls[:2]):
        try:
            async with WireClient(f"{url}?ticket={ticket}") as client:
                await client.connect()
            used.append(101)
        except InvalidStatus as error:
            used.append(error.response.status_code)
    assert used == [101, 401, 401, 401]


async def test_a_cookie_is_no_credential_without_an_origin_or_for_http(ways: Stack) -> None:
    cookie = {"Cookie": f"{COOKIE}={ways.token('alice')}"}
    async with WireClient(ways.ws_urls[0], headers=cookie) as client:
        await client.post(connect={})
        assert (await client.expect_close())[0] == 3501
    async with httpx.AsyncClient(base_url=ways.http_urls[0], headers=cookie) as http:
        for path in ("/api/info", "/auth/ticket"):
            assert (await http.post(path, json={}, headers={"Origin": ways.http_urls[0]})).status_code == 401


async def test_only_pages_that_may_use_the_cookie_set_or_clear_it(ways: Stack) -> None:
    account = {"username": f"user-{secrets.token_hex(4)}", "password": PASSWORD}
    async with httpx.AsyncClient(base_url=ways.http_urls[0], timeout=10) as http:
        pair = (await http.post("/auth/register", json=account)).json()["result"]
        for origin, status in (
            (ways.http_urls[0], 200),
            (f"http://{ALLOWED}:1", 200),
            (f"http://{FORBIDDEN}:1", 403),
            ("null", 403),
        ):
            headers = {"Origin": origin}
            response = await http.post("/auth/login", json=account | {"cookie": True}, headers=headers)
            assert (response.status_code, COOKIE in response.headers.get("set-cookie", "")) == (status, status == 200)
            refused = await http.post("/auth/logout", json={"refresh_token": "unknown"}, headers=headers)
            assert (COOKIE in refused.headers.get("set-cookie", "")) == (status == 200)
            without = await http.post("/auth/login", json=account, headers=headers)
            assert (without.status_code, "set-cookie" in without.headers) == (200, False)
        stale = {"refresh_token": pair["refresh_token"], "cookie": True}
        forbidden = await http.post("/auth/refresh", json=stale, headers={"Origin": f"http://{FORBIDDEN}"})
        assert forbidden.status_code == 403
        assert (await http.post("/auth/refresh", json=stale)).status_code == 200  # it was not used up


async def test_tokens_of_an_older_shared_secret_come_in_as_before(ways: Stack) -> None:
    token = jwt.encode({"sub": "alice"}, OLD_SECRET, algorithm="HS256")  # as many set-ups have them: without `exp`
    for url, options in (
        (ways.ws_urls[0], {"subprotocols": (token, "centrifuge-json")}),
        (ways.ws_urls[0], {"headers": {"Authorization": f"Bearer {token}"}}),
        (f"{ways.ws_urls[1]}?token={token}", {}),
    ):
        async with WireClient(url, **options) as client:
            assert "expires" not in await client.connect()


async def test_a_revoked_session_stays_out_and_a_revoked_user_may_refresh(ways: Stack) -> None:
    """What docs/security.md says of ends."""

    async def connects(token: str) -> bool:
        async with WireClient(ways.ws_urls[1]) as client:
            await client.post(connect={"token": token})
            await client.wait_for(lambda: client.lines or client.socket.close_code, "an answer")
            return bool(client.lines)

    key = {"X-API-Key": ways.api_key}
    async with httpx.AsyncClient(base_url=ways.http_urls[0], timeout=10) as http:

        async def revoke_and_refresh(kind: str, claim: str) -> bool:
            account = {"username": f"user-{secrets.token_hex(4)}", "password": PASSWORD}
            pair = (await http.post("/auth/register", json=account)).json()["result"]
            claims = jwt.decode(pair["access_token"], options={"verify_signature": False})
            assert await connects(pair["access_token"])
            response = await http.post("/api/revoke", json={kind: claims[claim]}, headers=key)
            assert response.json() == {"result": {}}
            assert not await connects(pair["access_token"])
            await asyncio.sleep(1.1)  # `iat` has whole seconds
            newer = await http.post("/auth/refresh", json={"refresh_token": pair["refresh_token"]})
            return await connects(newer.json()["result"]["access_token"])

        assert not await revoke_and_refresh("session", "sid")
        assert await revoke_and_refresh("user", "sub")


# The official SDKs.


async def run(stack: Stack, proxy: TcpProxy, command: list[str], **addresses: str) -> None:
    """Run a program that asks for tokens and for drops.

    It fails on what does not hold.
    """
    everything = {
        "proxied2": f"ws://127.0.0.1:{proxy.port}{PATH}",
        "own": f"http://127.0.0.1:{proxy.port}",
        "expired": stack.token("alice", ttl_s=-60),
        "channel": f"chat:ways-{secrets.token_hex(4)}",
        "run": secrets.token_hex(4),
        **addresses,
    }
    code, errors = await run_scenario(
        command,
        everything,
        lambda user, ttl_s, claims: stack.token(user, ttl_s=ttl_s, **claims),
        proxy,
        lambda channel, count: publish(stack, channel, count),
        lambda token: ticket_of(stack, token),
        limit_s=90,
    )
    assert code == 0, errors


async def test_centrifuge_js_on_node(ways: Stack, proxy: TcpProxy, javascript: list[str]) -> None:
    await run(ways, proxy, [javascript[0], str(SDK_TESTS / "ways_in.mjs")])


async def test_centrifuge_python(ways: Stack, proxy: TcpProxy) -> None:
    await run(ways, proxy, [sys.executable, str(SDK_TESTS / "ways_in.py")])


@contextmanager
def pages() -> Iterator[int]:
    """A web server of an empty page, and of the SDK; its port."""
    sdk = (ROOT / "web" / "static" / "vendor" / "centrifuge.js").read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_sdk = self.path == "/centrifuge.js"
            self.send_response(200)
            self.send_header("Content-Type", "text/javascript" if is_sdk else "text/html")
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()
            self.wfile.write(sdk if is_sdk else b"<!doctype html>")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.usefixtures("playwright")
@pytest.mark.slow
async def test_chromium_signs_in_by_cookie_and_comes_in_each_way(
    ways: Stack,
    proxy: TcpProxy,
    node: str,  # noqa: F811
    chromium: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    edge = f"http://{OWN}:{proxy.port}"
    with pages() as port:
        await run(
            ways,
            proxy,
            [node, str(ROOT / "tests" / "web" / "ways_in.mjs")],
            edge=edge,
            own=edge,
            allowed=f"http://{ALLOWED}:{port}",
            forbidden=f"http://{FORBIDDEN}:{port}",
            sdk=f"http://127.0.0.1:{port}/centrifuge.js",
            password=PASSWORD,
            chromium=chromium,
            profile=str(tmp_path / "profile"),
        )
