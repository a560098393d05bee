"""Users of other login servers get a row when first seen, where that is set."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from cli.stack.run import mint
from tests.integration.test_users import PASSWORD, api, bearer, refused_by
from tests.support.stack import Stack
from tests.support.wire_client import WireClient

WITHIN_S = 30.0


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    settings = {"AUTH_ATTEMPTS_PER_ADDRESS": "0", "AUTH_INSERT_UNKNOWN_USERS": "true"}
    with Stack(edges=2, environment=settings) as running:
        yield running


@pytest.fixture
async def http(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=stack.http_urls[0], timeout=10) as client:
        yield client


async def connect(url: str, token: str) -> None:
    async with WireClient(url) as client:
        await client.connect(token)


async def until_known(stack: Stack, http: httpx.AsyncClient, user: str) -> dict[str, Any]:
    async with asyncio.timeout(WITHIN_S):
        while "result" not in (found := await api(stack, http, "users_get", user=user)):
            await asyncio.sleep(0.1)
    result: dict[str, Any] = found["result"]
    return result


async def test_a_user_of_another_login_server_has_a_row_once_seen_and_can_be_disabled(
    stack: Stack, http: httpx.AsyncClient
) -> None:
    user = f"urn:user:{secrets.token_hex(4)}, é"
    token = stack.token(user, info={"name": "Ann of There"})
    await connect(stack.ws_urls[0], token)
    found = await until_known(stack, http, user)
    assert (found["username"], found["display_name"], found["version"]) == ("", "Ann of There", 0)
    changed = await http.post("/auth/profile", json={"display_name": "Ann", "version": 0}, headers=bearer(token))
    assert changed.json()["result"]["version"] == 1
    await connect(stack.ws_urls[1], token)  # this edge tells auth too, which knows the user
    assert await api(stack, http, "users_disable", user=user) == {"result": {}}
    for url in stack.ws_urls:
        assert await refused_by(url, token) == 3500
    found = (await api(stack, http, "users_get", user=user))["result"]
    assert (found["display_name"], found["disabled"]) == ("Ann", True)


async def test_neither_anonymous_users_nor_those_of_auth_nor_deleted_ones_get_a_row(
    stack: Stack, http: httpx.AsyncClient
) -> None:
    name = f"user-{secrets.token_hex(4)}"
    pair = (await http.post("/auth/register", json={"username": name, "password": PASSWORD})).json()["result"]
    gone = f"gone-{secrets.token_hex(4)}"
    await api(stack, http, "users_create", user=gone)
    await api(stack, http, "users_delete", user=gone)
    before = await known(stack, http)
    await connect(stack.ws_urls[0], stack.token(""))
    await connect(stack.ws_urls[0], pair["access_token"])
    minted = await asyncio.to_thread(mint, stack.plan, f"minted-{name}", 60)
    await connect(stack.ws_urls[0], minted)  # auth has signed it
    assert await refused_by(stack.ws_urls[0], stack.token(gone)) == 3500
    last = f"last-{secrets.token_hex(4)}"
    await connect(stack.ws_urls[0], stack.token(last, info={"name": "two\nlines"}))  # told with them, or later
    assert (await until_known(stack, http, last))["display_name"] == ""
    assert await known(stack, http) == before | {last}


async def test_users_who_come_while_auth_is_away_are_told_at_their_next_connect(
    stack: Stack, http: httpx.AsyncClient
) -> None:
    user = f"user-{secrets.token_hex(4)}"
    token = stack.token(user)
    stack.stop("auth")
    try:
        took = []
        for one in (user, f"{user}-2", f"{user}-3"):  # of which a busy machine may delay two
            began = time.monotonic()
            await connect(stack.ws_urls[0], stack.token(one))
            took.append(time.monotonic() - began)
        assert min(took) < 2, f"a connect waits for auth: {took}"
        async with asyncio.timeout(20):
            while not await dropped(stack):
                await asyncio.sleep(0.1)
    finally:
        stack.cont("auth")
    async with asyncio.timeout(20):  # until the edge calls auth again
        while "error" not in (answer := await api(stack, http, "users_get", user=user)) or (
            answer["error"]["code"] != 108
        ):
            await asyncio.sleep(0.1)
    await connect(stack.ws_urls[0], token)
    await until_known(stack, http, user)


async def test_nobody_gets_a_row_where_it_is_not_set() -> None:
    with Stack(edges=1) as plain:
        async with httpx.AsyncClient(base_url=plain.http_urls[0], timeout=10) as http:
            await connect(plain.ws_urls[0], plain.token("ann"))
            await asyncio.sleep(1.0)
            assert (await api(plain, http, "users_get", user="ann"))["error"]["code"] == 108


async def known(stack: Stack, http: httpx.AsyncClient) -> set[str]:
    found, after = set(), ""
    while True:
        page = (await api(stack, http, "users_list", limit=100, after=after))["result"]
        found |= {user["user"] for user in page["users"]}
        after = page["next"]
        if not after:
            return found


async def dropped(stack: Stack) -> int:
    async with httpx.AsyncClient() as client:
        text = (await client.get(stack.internal_urls["edge-1"] + "/metrics")).text
    found = re.search(r'^thalamus_edge_seen_users_total\{outcome="dropped"\} ([0-9.]+)$', text, re.MULTILINE)
    assert found, text
    return int(float(found[1]))
