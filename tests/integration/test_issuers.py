"""Tokens of an external issuer at an edge that starts while it is down."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import jwt
import pytest
import websockets
from websockets.exceptions import InvalidStatus

from tests.edge.domain.test_token_algorithms import PRIVATE, jwk_of, key_set
from tests.support.faults import free_port
from tests.support.issuer import Issuer, answer
from tests.support.stack import Stack
from tests.support.wire_client import WireClient

NAME = "https://login.example.com"
PORT = free_port()


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    environment = {"EDGE_JWKS_URLS": f"{NAME}=http://127.0.0.1:{PORT}/keys", "EDGE_TOKEN_AUDIENCE": "chat"}
    with Stack(edges=1, environment=environment) as running:
        yield running


@asynccontextmanager
async def issuer() -> AsyncIterator[Issuer]:
    made = Issuer(answer(key_set(*map(jwk_of, PRIVATE))), port=PORT)
    await made.start()
    yield made
    await made.stop()


def token(algorithm: str, issuer: str = NAME, audience: str = "chat") -> str:
    body = {"sub": "ann", "iss": issuer, "aud": audience, "exp": int(time.time()) + 600}
    return jwt.encode(body, PRIVATE[algorithm], algorithm=algorithm, headers={"kid": algorithm})


async def metrics(stack: Stack) -> str:
    async with httpx.AsyncClient() as http:
        return (await http.get(f"{stack.internal_urls['edge-1']}/metrics")).text


async def refused(stack: Stack, text: str) -> tuple[int, str]:
    async with WireClient(stack.ws_urls[0]) as client:
        await client.post(connect={"token": text})
        return await client.expect_close()


async def is_asked_to_come_again(stack: Stack, text: str) -> bool:
    """Whether an edge neither accepts a token nor calls it wrong.

    Tried in the handshake, in the connect command, and over HTTP.
    """
    head = [("Authorization", f"Bearer {text}")]
    with pytest.raises(InvalidStatus) as handshake:
        await websockets.connect(stack.ws_urls[0], additional_headers=head)
    async with WireClient(stack.ws_urls[0]) as client:
        error = await client.error(connect={"token": text})
    assert error == {"code": 100, "message": "internal server error", "temporary": True, "retry_after_ms": 2000}
    async with httpx.AsyncClient(base_url=stack.http_urls[0], headers=dict(head)) as http:
        for method, path in (("POST", "ticket"), ("GET", "me"), ("GET", "sessions")):
            response = await http.request(method, f"/auth/{path}")
            assert (response.status_code, response.headers["retry-after"]) == (503, "2"), path
            assert response.headers["cache-control"] == "no-store"
            assert response.json()["error"]["code"] == 100
    return handshake.value.response.status_code == 503


async def test_an_edge_without_the_keys_is_ready_and_refuses_until_the_issuer_is_there(stack: Stack) -> None:
    async with httpx.AsyncClient() as http:
        ready = await http.get(f"{stack.internal_urls['edge-1']}/readyz")
    assert (ready.status_code, json.loads(ready.text)["failing"]) == (200, [])
    assert await is_asked_to_come_again(stack, token("EdDSA"))
    assert f'thalamus_edge_issuer_keys_fetched_timestamp_seconds{{issuer="{NAME}"}} 0.0' in await metrics(stack)
    async with issuer():
        deadline = time.monotonic() + 90  # pauses between attempts grow to a minute
        while f'thalamus_edge_issuer_keys{{issuer="{NAME}"}} {len(PRIVATE)}.0' not in await metrics(stack):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)
    for algorithm in PRIVATE:  # and goes on with what it knows, now that the issuer is down again
        async with WireClient(stack.ws_urls[0]) as client:
            assert (await client.connect(token(algorithm)))["expires"] is True
        assert await refused(stack, token(algorithm, issuer="https://others.example.com")) == (3500, "invalid token")
        assert await refused(stack, token(algorithm, audience="another app")) == (3500, "invalid token")


async def test_tokens_of_auth_are_not_called_wrong_by_an_edge_that_started_without_auth() -> None:
    with Stack(edges=1, restart=False) as stack:
        user = {"username": "ann", "password": "correct horse battery"}
        async with httpx.AsyncClient(base_url=stack.http_urls[0]) as http:
            made = (await http.post("/auth/register", json=user)).raise_for_status()
        text = made.json()["result"]["access_token"]
        await asyncio.to_thread(stack.kill9, "auth")
        await asyncio.to_thread(stack.kill9, "edge-1")
        await asyncio.to_thread(stack.start, "edge-1")
        assert await is_asked_to_come_again(stack, text)
        async with WireClient(stack.ws_urls[0]) as client:  # those of the edge's own secret go on
            await client.connect(stack.token("ben"))
        await asyncio.to_thread(stack.start, "auth")
        deadline = time.monotonic() + 20
        while True:
            async with WireClient(stack.ws_urls[0]) as client:
                if "connect" in await client.reply(await client.post(connect={"token": text})):
                    break
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)
        assert await refused(stack, text[:-4] + "AAAA") == (3500, "invalid token")
