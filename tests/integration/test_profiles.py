"""Profiles over HTTP, on two edges, with auth on SQLite and on DynamoDB."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from tests.integration.test_users import api, bearer
from tests.support.dynamodb_tables import environment_on_dynamodb
from tests.support.lateness import Lateness
from tests.support.stack import Stack

WITHIN_S = 30.0


@pytest.fixture(scope="module", params=["sqlite", "dynamodb"])
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    environment: dict[str, str] = {}
    if request.param == "dynamodb":
        environment = asyncio.run(environment_on_dynamodb(request.getfixturevalue("dynamodb"), "auth"))
    with Stack(edges=2, environment=environment) as running:
        yield running


@pytest.fixture
async def edges(stack: Stack) -> AsyncIterator[list[httpx.AsyncClient]]:
    async with AsyncExitStack() as opened:
        yield [await opened.enter_async_context(httpx.AsyncClient(base_url=url, timeout=10)) for url in stack.http_urls]


def fresh(name: str) -> str:
    return f"{name}-{secrets.token_hex(4)}"


async def ask(stack: Stack, http: httpx.AsyncClient, *users: str) -> httpx.Response:
    """Read profiles as somebody else each time: one user may do so only so often."""
    return await http.post("/auth/profiles", json={"users": users}, headers=bearer(stack.token(fresh("reader"))))


async def seen(stack: Stack, http: httpx.AsyncClient, *users: str) -> list[dict[str, Any]]:
    response = await ask(stack, http, *users)
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["result"]["profiles"]
    return found


async def until_seen(stack: Stack, edges: list[httpx.AsyncClient], user: str, **members: object) -> None:
    """Both edges show these members within 5 s; without any, no profile."""
    started = time.monotonic()
    for http in edges:
        while True:
            found = await seen(stack, http, user)
            if (bool(found) == bool(members)) and all(found[0][name] == value for name, value in members.items()):
                break
            assert time.monotonic() - started < WITHIN_S, found
            await asyncio.sleep(0.02)


async def test_a_change_is_seen_on_both_edges_whoever_makes_it(stack: Stack, edges: list[httpx.AsyncClient]) -> None:
    user = fresh("urn:bob")
    for http in edges:
        assert await seen(stack, http, user) == []
    await api(stack, edges[0], "users_create", user=user, display_name="Bob", custom={"a": 1})
    await until_seen(stack, edges, user, version=1, display_name="Bob", custom={"a": 1}, username="")
    own = await edges[1].post("/auth/profile", json={"status": "off"}, headers=bearer(stack.token(user)))
    assert own.json()["result"]["version"] == 2
    await until_seen(stack, edges, user, version=2, status="off")
    await api(stack, edges[0], "users_update", user=user, avatar_url="https://img.example/b.png")
    await until_seen(stack, edges, user, version=3, avatar_url="https://img.example/b.png")
    assert set((await seen(stack, edges[0], user))[0]) == {
        *("user", "username", "display_name", "avatar_url", "status", "custom", "version"),
    }
    await api(stack, edges[1], "users_disable", user=user)
    await until_seen(stack, edges, user)
    await api(stack, edges[0], "users_enable", user=user)
    await until_seen(stack, edges, user, version=3)
    await api(stack, edges[0], "users_delete", user=user)
    await until_seen(stack, edges, user)


async def test_profiles_come_in_the_order_of_the_ids_without_those_that_nobody_may_see(
    stack: Stack, edges: list[httpx.AsyncClient]
) -> None:
    name = fresh("ann")
    ann = (await api(stack, edges[0], "users_create", username=name, password="correct horse battery"))["result"][
        "user"
    ]
    users = [fresh(f"user {number}") for number in range(99)]
    for user in users[:5]:
        await api(stack, edges[0], "users_create", user=user, display_name=user)
    await api(stack, edges[0], "users_disable", user=users[1])
    asked = [users[3], ann, users[1], *users[5:], users[0], users[3]]
    assert len(asked) == 99
    for http in edges:
        assert [one["user"] for one in await seen(stack, http, *asked)] == [users[3], ann, users[0]]
        of_backends = (await api(stack, http, "users_profiles", users=asked))["result"]["profiles"]
        assert of_backends == await seen(stack, http, *asked)
    await api(stack, edges[1], "users_update", user=ann, hidden=True)
    await until_seen(stack, edges, ann, username="", version=1)  # who knows the id may see the rest
    for http in edges:
        assert (await api(stack, http, "users_profiles", users=[ann]))["result"]["profiles"][0]["username"] == name


async def test_what_is_asked_wrongly_is_refused(stack: Stack, edges: list[httpx.AsyncClient]) -> None:
    for users in (["x"] * 101, [""], "x", [1]):
        response = await edges[0].post("/auth/profiles", json={"users": users}, headers=bearer(stack.token("ann")))
        assert response.status_code == 400, users
    assert (await edges[0].post("/auth/profiles", json={"users": ["x"]})).status_code == 401
    assert await seen(stack, edges[0]) == []


async def test_what_was_read_is_not_read_again_and_metrics_say_so(stack: Stack, edges: list[httpx.AsyncClient]) -> None:
    user = fresh("bob")
    await api(stack, edges[0], "users_create", user=user)
    await until_seen(stack, edges, user, version=0)
    await asyncio.sleep(0.5)  # the news of the user have come
    before = await counts(stack)
    for _ in range(3):
        await seen(stack, edges[1], user)
    after = await counts(stack)
    assert after["hit"] - before["hit"] >= 2
    assert after["miss"] - before["miss"] <= 1


async def test_while_auth_is_away_known_profiles_are_shown_and_others_are_an_error_at_once(
    stack: Stack, edges: list[httpx.AsyncClient]
) -> None:
    user = fresh("bob")
    await api(stack, edges[0], "users_create", user=user, display_name="Bob")
    await until_seen(stack, edges, user, version=1)
    await asyncio.to_thread(stack.stop, "auth")  # it hangs, which is worse than being away
    try:
        async with Lateness() as late:
            refused = await ask(stack, edges[1], fresh("nobody"))
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == 100
        assert late.took_s < 3
        async with Lateness() as late:
            assert (await seen(stack, edges[1], user))[0]["display_name"] == "Bob"
            assert (await ask(stack, edges[1], fresh("nobody"))).status_code == 503
        assert late.took_s < 1
    finally:
        await asyncio.to_thread(stack.cont, "auth")
    async with asyncio.timeout(20):
        while (await ask(stack, edges[1], fresh("nobody"))).status_code != 200:
            await asyncio.sleep(0.1)


async def counts(stack: Stack) -> dict[str, float]:
    async with httpx.AsyncClient(timeout=10) as http:
        text = (await http.get(f"{stack.internal_urls['edge-2']}/metrics")).text
    name = 'thalamus_edge_profile_cache_total{outcome="'
    lines = [line.removeprefix(name) for line in text.splitlines() if line.startswith(name)]
    return {line.partition('"')[0]: float(line.rpartition(" ")[2]) for line in lines}
