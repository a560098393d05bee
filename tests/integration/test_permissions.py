"""Every operation, and every reason to refuse it, on two edges.

Refusals give nothing away.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.support.alike import assert_alike
from tests.support.stack import Stack, clean_environment
from tests.support.wire_client import WireClient

OPERATIONS = ("subscribe", "publish", "history", "presence", "enter")
WITHIN_S = 30.0  # a limit of waiting: how soon a change is felt is printed by `make verify-faults`
EDGES = (0, 1)
ALLOWED, REFUSED, EXPIRED, GONE = "allowed", "103", "109", "gone"  # GONE: the connection is closed, or refused


@pytest.fixture(scope="module")
def shop() -> Iterator[Stack]:
    environment = {
        "EDGE_COMMANDS_PER_S": "100000",
        "EDGE_COMMANDS_BURST": "100000",
        "EDGE_NEW_CHANNELS_PER_MINUTE": "0",
    }
    with Stack(edges=2, environment=environment) as running:
        yield running


def method(name: str, **data: Any) -> dict[str, Any]:
    """The request for a method of presence."""
    return {"rpc": {"method": f"presence.{name}", "data": data}}


@dataclass
class Scene:
    """One user, one channel, a connection to each edge, and a backend."""

    stack: Stack
    backend: httpx.AsyncClient
    user: str = field(default_factory=lambda: f"u-{secrets.token_hex(6)}")
    channel: str = field(default_factory=lambda: f"private:{secrets.token_hex(6)}")
    clients: list[WireClient] = field(default_factory=list)

    async def api(self, method: str, edge: int = 0, **body: Any) -> Any:
        response = await self.backend.post(f"{self.stack.http_urls[edge]}/api/{method}", json=body)
        assert "result" in response.json(), response.text
        return response.json()["result"]

    async def give(self, user: str = "", *operations: str, **more: Any) -> None:
        await self.api(
            "grants_give", user=user or self.user, channels=[self.channel], operations=operations or OPERATIONS, **more
        )

    async def connect(self, running: AsyncExitStack, **claims: Any) -> None:
        for url in self.stack.ws_urls:
            client = await running.enter_async_context(WireClient(url))
            await client.connect(self.stack.token(self.user, **claims))
            self.clients.append(client)

    async def outcome(self, edge: int, operation: str) -> str:
        """What an operation comes to; all commands that need it come to the same."""
        requests: dict[str, list[dict[str, Any]]] = {
            "subscribe": [{"subscribe": {"channel": self.channel}}],
            "publish": [{"publish": {"channel": self.channel, "data": 1}}],
            "history": [{"history": {"channel": self.channel, "limit": 1}}],
            "presence": [
                {"presence": {"channel": self.channel}},
                {"presence_stats": {"channel": self.channel}},
                method("members", channel=self.channel),
                method("counts", channels=[self.channel]),
            ],
            "enter": [
                method("enter", channel=self.channel, data={"n": 1}),
                method("update", channel=self.channel, data={"n": 2}),
            ],
        }
        client = self.clients[edge]
        outcomes = set()
        for request in requests[operation]:
            if client.socket.close_code is not None:
                return GONE
            reply = await client.reply(await client.post(**request))
            outcomes.add(str(reply["error"]["code"]) if "error" in reply else ALLOWED)
        if ALLOWED in outcomes and operation == "subscribe":
            await client.call(unsubscribe={"channel": self.channel})
        if ALLOWED in outcomes and operation == "enter":
            await client.call(**method("leave"))  # needs no permission
        return " and ".join(sorted(outcomes))

    async def becomes(self, edge: int, operation: str, expected: str) -> None:
        """Wait until an operation comes to this, on this edge."""
        last = ""
        deadline = time.monotonic() + WITHIN_S
        while time.monotonic() < deadline:
            last = await self.outcome(edge, operation)
            if last == expected:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"{operation} on edge {edge} is {last}, not {expected}")


@pytest.fixture
async def scene(shop: Stack) -> AsyncIterator[Scene]:
    async with httpx.AsyncClient(headers={"X-API-Key": shop.api_key}, timeout=10) as backend:
        yield Scene(shop, backend)


# Each brings a client into a state; the operation is then tried on both edges.


async def granted(scene: Scene, running: AsyncExitStack) -> None:
    await scene.give()
    await scene.connect(running)


async def granted_by_token(scene: Scene, running: AsyncExitStack) -> None:
    await scene.connect(running, caps=[{"channels": [scene.channel], "allow": ["sub", "pub", "hst", "prs", "ent"]}])


async def no_grant(scene: Scene, running: AsyncExitStack) -> None:
    await scene.connect(running)


async def of_another_user(scene: Scene, running: AsyncExitStack) -> None:
    await scene.give("somebody-else")
    await scene.connect(running)


async def of_another_channel(scene: Scene, running: AsyncExitStack) -> None:
    await scene.give()
    scene.channel += "-other"
    await scene.connect(running)


async def expired(scene: Scene, running: AsyncExitStack) -> None:
    expire_at = time.time() + 2.0
    await scene.give(expire_at=expire_at)
    await scene.connect(running)
    await asyncio.sleep(expire_at - time.time())


async def token_expired(scene: Scene, running: AsyncExitStack) -> None:
    caps = [{"channels": [scene.channel], "allow": list(OPERATIONS)}]
    await scene.connect(running, ttl_s=2.0, caps=caps)
    await asyncio.sleep(2.2)


async def withdrawn(scene: Scene, running: AsyncExitStack) -> None:
    """While the client is subscribed: the subscription ends on both edges."""
    await scene.give()
    await scene.connect(running)
    for client in scene.clients:
        await client.call(subscribe={"channel": scene.channel})
    await scene.api("grants_take", edge=1, user=scene.user, channels=[scene.channel])
    for client in scene.clients:
        push = await client.push(scene.channel, "unsubscribe", WITHIN_S)
        assert push["unsubscribe"]["code"] == 2103


async def taken_from_the_token(scene: Scene, running: AsyncExitStack) -> None:
    await granted_by_token(scene, running)
    for client in scene.clients:
        await client.call(subscribe={"channel": scene.channel})
        await client.call(refresh={"token": scene.stack.token(scene.user)})
        assert (await client.push(scene.channel, "unsubscribe"))["unsubscribe"]["code"] == 2103


async def session_revoked(scene: Scene, running: AsyncExitStack) -> None:
    await scene.give()
    await scene.connect(running, sid=scene.user)
    await scene.api("revoke", session=scene.user, ttl_s=60)
    for client in scene.clients:
        assert (await client.expect_close(WITHIN_S))[0] == 3503
    for url in scene.stack.ws_urls:
        again = await running.enter_async_context(WireClient(url))
        await again.post(connect={"token": scene.stack.token(scene.user, sid=scene.user)})
        assert (await again.expect_close())[0] == 3500


async def disabled(scene: Scene, running: AsyncExitStack) -> None:
    await scene.api("users_create", user=scene.user)
    await scene.give()
    await scene.connect(running)
    await scene.api("users_disable", user=scene.user)
    await all_closed_and_refused(scene, running)


async def deleted(scene: Scene, running: AsyncExitStack) -> None:
    """Their grants go with them."""
    await scene.api("users_create", user=scene.user)
    await scene.give()
    await scene.connect(running)
    await scene.api("users_delete", user=scene.user)
    for client in scene.clients:
        assert (await client.expect_close(WITHIN_S))[0] >= 3500
    assert (await scene.api("grants_list", user=scene.user))["grants"] == []


async def all_closed_and_refused(scene: Scene, running: AsyncExitStack) -> None:
    for client in scene.clients:
        assert (await client.expect_close(WITHIN_S))[0] >= 3500
    for url in scene.stack.ws_urls:
        again = await running.enter_async_context(WireClient(url))
        await again.post(connect={"token": scene.stack.token(scene.user)})
        assert (await again.expect_close())[0] >= 3500


TABLE: list[tuple[Callable[[Scene, AsyncExitStack], Awaitable[None]], str]] = [
    (granted, ALLOWED),
    (granted_by_token, ALLOWED),
    (no_grant, REFUSED),
    (of_another_user, REFUSED),
    (of_another_channel, REFUSED),
    (expired, REFUSED),
    (token_expired, EXPIRED),
    (withdrawn, REFUSED),
    (taken_from_the_token, REFUSED),
    (session_revoked, GONE),
    (disabled, GONE),
    (deleted, GONE),
]


@pytest.mark.parametrize(("state", "expected"), TABLE, ids=[state.__name__ for state, _ in TABLE])
async def test_every_operation_in_every_state_on_both_edges(
    scene: Scene, state: Callable[[Scene, AsyncExitStack], Awaitable[None]], expected: str
) -> None:
    async with AsyncExitStack() as running:
        await state(scene, running)
        for edge in EDGES:
            for operation in OPERATIONS:
                await scene.becomes(edge, operation, expected)


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_grant_of_one_operation_permits_no_other(scene: Scene, operation: str) -> None:
    async with AsyncExitStack() as running:
        await scene.give("", operation)
        await scene.connect(running)
        for edge in EDGES:
            for other in OPERATIONS:
                assert await scene.outcome(edge, other) == (ALLOWED if other == operation else REFUSED), other


CALLS: dict[str, dict[str, Any]] = {
    "publish": {"channel": "private:x", "data": 1},
    "history": {"channel": "private:x", "limit": 1},
    "presence": {"channel": "private:x"},
    "subscribe": {"user": "alice", "channel": "private:x"},
    "history_remove": {"channel": "private:x"},  # the operation `manage`
    "presence_remove": {"user": "alice"},  # that, too
    "presence_online": {"users": ["alice"]},
    "grants_give": {"user": "alice", "channels": ["private:x"], "operations": ["publish"]},
    "revoke": {"user": "nobody-at-all"},
}


@pytest.mark.parametrize("method", CALLS)
async def test_a_key_without_the_scope_is_refused_on_both_edges(shop: Stack, scene: Scene, method: str) -> None:
    key_id, key = make_key(shop, "--scope", "channels", "--scope", "publish:chat")
    try:
        for edge in EDGES:
            url = f"{shop.http_urls[edge]}/api/{method}"
            deadline = time.monotonic() + WITHIN_S
            while (response := await scene.backend.post(url, json=CALLS[method], headers={"X-API-Key": key})) and (
                response.status_code == 401 and time.monotonic() < deadline
            ):
                await asyncio.sleep(0.05)  # the edge has not heard of the key yet
            assert (response.status_code, response.json()["error"]["code"]) == (403, 103)
    finally:
        cli(shop, "api-key", "revoke", key_id)


def make_key(shop: Stack, *options: str) -> tuple[str, str]:
    made = json.loads(cli(shop, "api-key", "create", "limited", *options, "--json"))
    return made["id"], made["key"]


def cli(shop: Stack, *arguments: str) -> str:
    """Run a command of `thalamus` on the stack."""
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        env={**clean_environment(), "THALAMUS_DATA": str(shop.data)},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout


# What is refused gives nothing away.

SAMPLES = 200  # of a round


async def test_refusals_are_alike_whether_or_not_the_channel_exists(scene: Scene) -> None:
    """The same text, and the same time: the medians of samples that take turns."""
    there, nowhere = f"private:{secrets.token_hex(6)}", f"private:{secrets.token_hex(6)}"
    for number in range(20):
        await scene.api("publish", channel=there, data=number)
    async with AsyncExitStack() as running:
        await scene.give("member", expire_at=time.time() + 600)
        await scene.connect(running)
        member = await running.enter_async_context(WireClient(scene.stack.ws_urls[0]))
        await member.connect(scene.stack.token("member", channels=[there]))
        client = scene.clients[0]
        requests: dict[str, dict[str, Any]] = {
            "subscribe": {},
            "publish": {"data": 1},
            "history": {"limit": 10},
            "presence": {},
            "presence_stats": {},
        }
        for name, request in requests.items():
            texts: dict[str, set[str]] = {there: set(), nowhere: set()}

            async def once(channel: str, name: str = name, request: dict[str, Any] = request) -> float:
                began = time.perf_counter()
                reply = await client.reply(await client.post(**{name: {"channel": channel, **request}}))
                took = time.perf_counter() - began
                texts[channel].add(json.dumps(reply["error"]))  # noqa: B023
                return took

            print(name)
            await assert_alike(once, there, nowhere, samples=SAMPLES)
            assert texts[there] == texts[nowhere]
            assert len(texts[there]) == 1


async def test_refusals_of_a_key_are_alike_whether_or_not_the_channel_exists(shop: Stack, scene: Scene) -> None:
    there, nowhere, no_namespace = "private:exists", "private:does-not", "unheard-of:x"
    await scene.api("publish", channel=there, data=1)
    key_id, key = make_key(shop, "--scope", "publish:chat")
    texts: dict[str, set[str]] = {there: set(), nowhere: set(), no_namespace: set()}
    url = f"{shop.http_urls[0]}/api/history"

    async def once(channel: str) -> float:
        began = time.perf_counter()
        response = await scene.backend.post(url, json={"channel": channel, "limit": 1}, headers={"X-API-Key": key})
        took = time.perf_counter() - began
        texts[channel].add(f"{response.status_code} {response.text}")
        return took

    deadline = time.monotonic() + WITHIN_S
    while (await scene.backend.post(url, json={"channel": there}, headers={"X-API-Key": key})).status_code == 401:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    await assert_alike(once, there, nowhere, samples=SAMPLES)
    await assert_alike(once, there, no_namespace, samples=SAMPLES)
    assert texts[there] == texts[nowhere] == texts[no_namespace]
    assert len(texts[there]) == 1
    assert next(iter(texts[there])).startswith("403 ")
    cli(shop, "api-key", "revoke", key_id)
