"""Registration with an invite, over HTTP, on two edges."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from tests.integration.test_users import PASSWORD, api
from tests.support.stack import Stack


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack(edges=2, environment={"AUTH_ATTEMPTS_PER_ADDRESS": "0", "AUTH_REGISTRATION": "invite"}) as running:
        yield running


@pytest.fixture
async def edges(stack: Stack) -> AsyncIterator[list[httpx.AsyncClient]]:
    async with AsyncExitStack() as opened:
        yield [await opened.enter_async_context(httpx.AsyncClient(base_url=url, timeout=10)) for url in stack.http_urls]


async def register(http: httpx.AsyncClient, name: str, **more: Any) -> httpx.Response:
    return await http.post("/auth/register", json={"username": name, "password": PASSWORD, **more})


async def test_of_two_registrations_at_once_with_one_invite_one_succeeds(
    stack: Stack, edges: list[httpx.AsyncClient]
) -> None:
    taken = f"user-{secrets.token_hex(4)}"
    await api(stack, edges[0], "users_create", username=taken, password=PASSWORD)
    made = (await api(stack, edges[0], "invites_create", note="for Ann", ttl_s=600))["result"]
    assert made["expires_at"] - made["created_at"] == 600
    assert abs(made["created_at"] - time.time()) < 60
    code = made.pop("code")
    assert (await api(stack, edges[1], "invites_list"))["result"]["invites"] == [made]
    assert (await register(edges[1], taken, invite=code)).status_code == 409
    names = [f"user-{secrets.token_hex(4)}" for _ in range(2)]
    answers = await asyncio.gather(
        *(register(edge, name, invite=code) for edge, name in zip(edges, names, strict=True))
    )
    assert sorted(answer.status_code for answer in answers) == [200, 403]
    assert (await api(stack, edges[1], "invites_list"))["result"]["invites"] == []
    expired = (await api(stack, edges[0], "invites_create", ttl_s=1))["result"]
    revoked = (await api(stack, edges[0], "invites_create"))["result"]
    assert revoked["expires_at"] - revoked["created_at"] == 7 * 86_400
    assert await api(stack, edges[1], "invites_revoke", invite=revoked["invite"]) == {"result": {}}
    assert (await api(stack, edges[1], "invites_revoke", invite=revoked["invite"]))["error"]["code"] == 108
    async with asyncio.timeout(30):
        while (await api(stack, edges[0], "invites_list"))["result"]["invites"]:
            await asyncio.sleep(0.1)
    wrong: list[dict[str, str]] = [{"invite": text} for text in ("", "x", code, expired["code"], revoked["code"])]
    refused = [await register(edges[0], name, **more) for name in (taken, "nobody-yet") for more in ({}, *wrong)]
    assert {(answer.status_code, answer.text) for answer in refused} == {(403, refused[0].text)}
    assert refused[0].json()["error"]["message"] == "registration needs an invite that is good"


@pytest.mark.parametrize(
    "body", [{"ttl_s": 0}, {"ttl_s": 90 * 86_400 + 1}, {"ttl_s": 1.5}, {"note": "x" * 101}, {"note": "a\nb"}]
)
async def test_what_an_invite_may_not_be_is_refused_by_name(
    stack: Stack, edges: list[httpx.AsyncClient], body: dict[str, Any]
) -> None:
    response = await edges[0].post("/api/invites_create", json=body, headers={"X-API-Key": stack.api_key})
    assert response.status_code == 400, response.text
    assert next(iter(body)) in response.json()["error"]["message"]
