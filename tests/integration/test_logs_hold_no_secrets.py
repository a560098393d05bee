"""No log of any process has a secret, whichever way it came; B09, B36.

Tokens, tickets, passwords and keys are secrets.

Secrets are planted through every way in, good and bad, in refused handshakes, in broken requests, and while services
are away. Then all lines of all processes are searched, with logs at DEBUG.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import secrets
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.support.stack import Stack
from tests.support.wire_client import WireClient, WireError

_PIECE = 16  # characters: a log that has so many of a secret in a row has leaked it
PATH = "/connection/websocket"


@pytest.fixture(scope="module")
def told() -> Iterator[Stack]:
    environment = {"LOG_LEVEL": "DEBUG", "AUTH_ATTEMPTS_PER_ADDRESS": "0"}
    with Stack(edges=2, environment=environment, environment_of={"edge-2": {"EDGE_TOKEN_IN_QUERY": "true"}}) as running:
        yield running


class Planted:
    """Secrets that were given to the services, each with how."""

    def __init__(self) -> None:
        self.pieces: dict[str, str] = {}

    def __call__(self, how: str, secret: str) -> str:
        """Remember the pieces of a secret; returns it. The header of a JWT is none."""
        parts = secret.split(".")[1:] if secret.startswith("eyJ") else [secret]
        for part in parts:
            for form in (part, base64.b64encode(part.encode()).decode(), urllib.parse.quote(part, safe="")):
                for start in range(0, max(1, len(form) - _PIECE + 1), _PIECE // 2):
                    self.pieces.setdefault(form[start : start + _PIECE], how)
        return secret

    def found(self, stack: Stack) -> list[tuple[str, str, str]]:
        names = ["redis", *(name for name in stack.supervisor.children if name != "redis")]
        lines = [(name, line) for name in names for line in stack.lines(name)]
        assert len({name for name, line in lines if line.startswith("{")}) >= 5, "some process logged nothing"
        return [(how, name, line) for name, line in lines for piece, how in self.pieces.items() if piece in line]


def bad_of(token: str) -> str:
    """The token with another signature, which is a secret that nobody else has."""
    return token[: token.rindex(".") + 1] + secrets.token_urlsafe(32)


async def handshake(url: str, connect: Mapping[str, Any] | None = None, **options: Any) -> None:
    """Try to connect, and to do what tokens are needed for."""
    with contextlib.suppress(InvalidStatus, WireError, TimeoutError):
        async with WireClient(url, deadline_s=2, **options) as client:
            await client.post(connect=dict(connect or {}))
            await client.wait_for(lambda: client.lines or client.socket.close_code, "an answer")


async def raw(stack: Stack, edge: int, request: str) -> None:
    """Send bytes to the public port, and wait for its answer."""
    host, port = stack.http_urls[edge].removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request.encode())
    with contextlib.suppress(TimeoutError, ConnectionError):
        await asyncio.wait_for(reader.read(), 0.5)
    writer.close()


async def bring_tokens(stack: Stack, plant: Planted) -> None:
    """By every way of the handshake and of the protocol, good and bad."""
    for number, url in enumerate(stack.ws_urls[:2]):
        for is_good in (True, False):

            def token(how: str, is_good: bool = is_good, **claims: Any) -> str:
                made = stack.token("alice", jti=secrets.token_hex(16), **claims)
                return plant(how, made if is_good else bad_of(made))

            own = stack.http_urls[number]
            await handshake(url, {"token": token("connect")})
            await handshake(url, {"headers": {"Authorization": f"Bearer {token('headers of connect')}"}})
            await handshake(url, headers={"Authorization": f"Bearer {token('header')}"})
            await handshake(url, headers={"Authorization": f"Bearer {token('two')}, Bearer {token('two')}"})
            await handshake(url, subprotocols=("centrifuge-json", f"bearer.{token('subprotocol')}"))
            await handshake(url, subprotocols=(token("bare subprotocol"),))
            await handshake(url, headers={"Cookie": f"thalamus_session={token('cookie')}"}, origin=own)
            await handshake(url, headers={"Cookie": f"thalamus_session={token('cookie')}"}, origin="http://evil.test")
            await handshake(f"{url}?token={token('query')}")
            await handshake(f"{url}?token={token('query')}", headers={"Authorization": f"Bearer {token('header')}"})
            for name in ("ticket", "session"):
                await handshake(f"{url}?{name}={plant('unknown ticket', secrets.token_urlsafe(24))}")
            async with WireClient(url) as client:
                await client.connect(stack.token("alice"))
                await client.reply(await client.post(subscribe={"channel": "$x", "token": token("sub", channel="$x")}))
                await client.post(refresh={"token": token("refresh")})
                await client.post(publish={"channel": "chat:x", "data": 1}, token=token("command"))
                await client.send_frame('{"id":9,"connect":{"token":"' + token("broken JSON"))
                with contextlib.suppress(WireError):
                    await client.expect_close()


async def bring_passwords(stack: Stack, plant: Planted) -> None:
    """By every endpoint of accounts: good, wrong, malformed.

    With the tokens that come back.
    """
    async with httpx.AsyncClient(base_url=stack.http_urls[0], timeout=10) as http:
        account = {"username": f"user-{secrets.token_hex(4)}", "password": plant("password", secrets.token_hex(16))}
        pair = (await http.post("/auth/register", json=account | {"cookie": True})).json()["result"]
        plant("refresh token", pair["refresh_token"])
        plant("access token", pair["access_token"])
        again = (await http.post("/auth/login", json=account)).json()["result"]
        plant("refresh token", again["refresh_token"])
        session = plant("session", (await http.post("/auth", json=account)).json()["result"]["session"])
        bearer = {"Authorization": f"Bearer {pair['access_token']}"}
        ticket = plant("ticket", (await http.post("/auth/ticket", headers=bearer)).json()["result"]["ticket"])
        by_ticket, by_session = f"ticket={ticket}", f"session={session}"
        for query in (by_ticket, by_session, by_ticket, f"{by_ticket}&{by_session}"):
            await handshake(f"{stack.ws_urls[1]}?{query}")
        wrong = account | {"password": plant("wrong password", secrets.token_hex(16))}
        unknown = wrong | {"username": secrets.token_hex(8)}
        made = await http.post("/api/invites_create", json={}, headers={"X-API-Key": stack.api_key})
        invite = plant("invite", made.json()["result"]["code"])
        await http.post("/auth/register", json=wrong | {"invite": invite})
        await http.post("/auth/register", json=wrong | {"invite": invite, "x": 1})
        for path in ("/auth/login", "/auth", "/auth/register"):
            for body in (
                wrong,
                wrong | {"x": 1},
                wrong | {"username": 5},
                wrong | {"password": wrong["password"] * 99},
            ):
                await http.post(path, json=body)
            await http.post(path, content=json.dumps(wrong)[:-2])
            await http.get(path, params=wrong)
        await http.post("/auth/login", json=unknown)
        for token in (pair["refresh_token"], pair["refresh_token"], plant("refresh", secrets.token_hex(24))):
            await http.post("/auth/refresh", json={"refresh_token": token})
            await http.post("/auth/logout", json={"refresh_token": token, "x": 1})
        await http.post("/auth/logout", json={"refresh_token": again["refresh_token"]})
        bad = plant("bad token for a ticket", bad_of(pair["access_token"]))
        await http.post("/auth/ticket", headers={"Authorization": f"Bearer {bad}"})
        key = plant("API key", secrets.token_urlsafe(32))
        for headers in ({"X-API-Key": key}, {"Authorization": f"apikey {key}"}, {"X-API-Key": stack.api_key}):
            await http.post("/api/publish", json={"channel": "nope:x", "data": 1}, headers=headers)
            await http.post("/api/publish", content=b"{", headers=headers)
        await http.post("/api/info", params={"api_key": key}, json={})


async def break_requests(stack: Stack, plant: Planted) -> None:
    """Bring tokens in requests that can't be read."""
    for edge in (0, 1):
        token = plant("broken request", bad_of(stack.token("alice")))
        for request in (
            f"GET {PATH}?token={token}\r\n\r\n",
            f"GET {PATH}?token={token} HTTP/1.0\r\nHost: a\r\n\r\n",
            f"GET {PATH}?token={token} HTTP/1.1\r\nHost: a\r\n\r\n",
            f"POST {PATH}?token={token} HTTP/1.1\r\nHost: a\r\n\r\n",
            f"GET {PATH} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer\r\n {token}\r\n\r\n",
            f"GET {PATH} HTTP/1.1\r\nHost: a\r\nAuthorization : Bearer {token}\r\n\r\n",
            f"GET {PATH} HTTP/1.1\r\nHost: a\r\nX: \0{token}\r\n\r\n",
            f"GET {PATH}?{'a&' * 65}token={token} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            f"GET /nowhere?token={token} HTTP/1.1\r\nHost: a\r\n\r\n",
            f"GET /{token} HTTP/1.1\r\nHost: a\r\n\r\n",
            f"{token}\r\n\r\n",
        ):
            await raw(stack, edge, request)


async def bring_while_services_are_away(stack: Stack, plant: Planted) -> None:
    """Sign in without auth, and show a ticket while Redis hangs."""
    token = plant("token without Redis", stack.token("alice"))
    password = plant("password without auth", secrets.token_hex(16))
    async with httpx.AsyncClient(base_url=stack.http_urls[0], timeout=10) as http:
        stack.stop("redis")
        try:
            ticket = plant("ticket without Redis", secrets.token_urlsafe(24))
            await asyncio.gather(
                handshake(f"{stack.ws_urls[1]}?ticket={ticket}"),
                http.post("/auth/ticket", headers={"Authorization": f"Bearer {token}"}),
                http.post("/auth/login", json={"username": "alice", "password": password}),
            )
        finally:
            stack.cont("redis")
        stack.kill9("auth")
        for path in ("/auth/login", "/auth/register", "/auth"):
            await http.post(path, json={"username": "alice", "password": password})
        await http.post("/auth/refresh", json={"refresh_token": plant("refresh", secrets.token_hex(24))})


@pytest.mark.slow
async def test_B36_all_logs_of_a_run_are_searched(told: Stack) -> None:
    plant = Planted()
    plant("secret of tokens", told.secret)
    plant("API key", told.api_key)
    plant("service token", told.plan.service_token_file.read_text().strip())
    await asyncio.gather(bring_tokens(told, plant), bring_passwords(told, plant), break_requests(told, plant))
    await bring_while_services_are_away(told, plant)
    assert plant.found(told) == []
    said = "".join(told.lines("edge-1") + told.lines("edge-2"))
    for reason in ("EDGE_TOKEN_IN_QUERY", "the ticket is unknown", "a token was refused"):
        assert reason in said, "operators are not told"
