"""Hooks on a stack: workers, a drain while a hook is asked, and an edge without."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.hook_backend import SECRET, Decide, HookBackend, Question
from tests.support.stack import Stack
from tests.support.wire_client import WireClient

ROOT = Path(__file__).parents[2]
LIMIT_S = 60.0
GRACE_S = 3.0
CHANNELS = """
[namespaces.hooked]
durability = "hot"
subscribe = ["authenticated"]
publish = ["authenticated"]
"""
HOOKS = """
[hooks.one]
events = ["publish", "rpc"]
namespaces = ["hooked"]
methods = ["game.*"]
url = "{url}"
secret_files = ["{secret}"]
timeout_s = 4
"""
CHANNEL = "hooked:a"
MANY = 24  # connections: one chance in 2 ** 23 that the kernel gives all to one worker


async def marks(question: Question) -> Any:
    """Say in the message which edge asked."""
    return {"data": {"said": question["data"], "asked_by": question["edge"]}}


@asynccontextmanager
async def hooked(
    folder: Path, decide: Decide, *, of: dict[str, dict[str, str]] | None = None, edges: int = 2, **environment: str
) -> AsyncIterator[tuple[Stack, HookBackend]]:
    """Run a stack whose edges ask a backend; `of`: environment of single processes."""
    async with HookBackend(decide) as backend:
        secret, hooks, channels = folder / "secret", folder / "hooks.toml", folder / "channels.toml"
        secret.write_text(SECRET + "\n")
        hooks.write_text(HOOKS.format(url=backend.url, secret=secret))
        channels.write_text((ROOT / "config" / "channels.toml").read_text() + CHANNELS)
        stack = Stack(
            edges=edges,
            restart=False,
            channels_file=channels,
            environment={"HOOKS_FILE": str(hooks)} | environment,
            environment_of=of or {},
        )
        await asyncio.to_thread(stack.__enter__)
        try:
            yield stack, backend
        finally:
            await asyncio.to_thread(stack.__exit__, None, None, None)


async def join(stack: Stack, exits: AsyncExitStack, user: str, edge: int = 0) -> WireClient:
    client = await exits.enter_async_context(WireClient(stack.ws_urls[edge]))
    await client.connect(stack.token(user))
    await client.subscribe(CHANNEL)
    return client


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux spreads connections over processes")
async def test_each_worker_of_an_edge_asks_and_all_clients_get_what_was_answered(tmp_path: Path) -> None:
    async with (
        hooked(tmp_path, marks, edges=1, EDGE_WORKERS="2") as (stack, backend),
        AsyncExitStack() as exits,
    ):
        clients = [await join(stack, exits, f"user{number}") for number in range(MANY)]
        for number, client in enumerate(clients):
            assert (await client.publish(CHANNEL, number))["offset"] == number + 1
        asked_by = {question["edge"] for question in backend.questions}
        assert len(asked_by) == 2
        assert sorted(question["data"] for question in backend.questions) == list(range(MANY))
        for client in clients:
            got = [one["data"] for one in await client.publications(CHANNEL, MANY)]
            assert [one["said"] for one in got] == list(range(MANY))
            assert {one["asked_by"] for one in got} == asked_by


@pytest.mark.parametrize("when", ["the edge drains", "its client is gone"])
async def test_what_a_hook_is_asked_about_while_its_edge_drains_is_not_lost(tmp_path: Path, when: str) -> None:
    """The message is published as answered, once, and the edge ends in order."""
    asked, free = asyncio.Event(), asyncio.Event()

    async def decide(question: Question) -> Any:
        asked.set()
        await free.wait()
        return await marks(question)

    async with (
        hooked(tmp_path, decide, EDGE_DRAIN_GRACE_S=str(GRACE_S)) as (stack, backend),
        AsyncExitStack() as exits,
        asyncio.timeout(LIMIT_S),
    ):
        watcher = await join(stack, exits, "bob", edge=1)
        client = await join(stack, exits, "ann")
        await client.post(publish={"channel": CHANNEL, "data": "last words"})
        await asked.wait()
        stopping = asyncio.create_task(asyncio.to_thread(stack.terminate, "edge-1"))
        async with httpx.AsyncClient() as http:
            while (await http.get(stack.http_urls[0] + "/docs")).status_code != 503:
                await asyncio.sleep(0.05)
        if when == "its client is gone":
            assert await client.expect_close(GRACE_S + 60) == (3001, "shutdown")
        free.set()
        assert (await watcher.publication(CHANNEL))["data"]["said"] == "last words"
        await stopping
        assert stack.supervisor.children["edge-1"].last_code == 0
        assert len(backend.questions) == 1
        await watcher.expect_silence(0.3)


async def test_an_edge_without_hooks_beside_one_with_them_asks_nobody(tmp_path: Path) -> None:
    """As during the update that brings them; their clients share channels."""
    async with (
        hooked(tmp_path, marks, of={"edge-2": {"HOOKS_FILE": str(ROOT / "config" / "hooks.toml")}}) as (stack, backend),
        AsyncExitStack() as exits,
    ):
        clients = [await join(stack, exits, user, edge) for edge, user in enumerate(("ann", "bob"))]
        for number in range(6):
            await clients[number % 2].publish(CHANNEL, number)
        assert [question["data"] for question in backend.questions] == [0, 2, 4]
        for client in clients:
            got = [one["data"] for one in await client.publications(CHANNEL, 6)]
            assert [one["said"] if isinstance(one, dict) else one for one in got] == list(range(6))
            assert [isinstance(one, dict) for one in got] == [True, False] * 3
        assert await clients[0].call(rpc={"method": "game.move", "data": 1}) == {
            "data": {"said": 1, "asked_by": backend.questions[0]["edge"]}
        }
        error = await clients[1].error(rpc={"method": "game.move", "data": 1})
        assert error["code"] == 104
