"""The examples of docs/hooks.md as they are printed: moderation, and game moves."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from centrifuge import Client

from tests.support.faults import free_port
from tests.support.stack import Stack
from tests.support.wire_client import WireClient

ROOT = Path(__file__).parents[2]
LIMIT_S = 60.0


def section(heading: str) -> str:
    page = (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8")
    return page.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def blocks(heading: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", section(heading), re.DOTALL)


class Example:
    """The files of one example in a folder, with free ports in place of those printed."""

    def __init__(self, folder: Path, hooks: str, channels: str = "") -> None:
        self.folder, self.port = folder, free_port()
        self.secret = folder / "hooks.secret"
        self.secret.write_text(f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}\n")
        text = hooks.replace(":7000/", f":{self.port}/").replace("/run/secrets/hooks", str(self.secret))
        (folder / "hooks.toml").write_text(text)
        shipped = (ROOT / "config" / "channels.toml").read_text(encoding="utf-8")
        self.channels = folder / "channels.toml"
        self.channels.write_text(f"{shipped}\n{channels}")

    def stack(self, **environment: str) -> Stack:
        """Two edges with the hooks."""
        return Stack(
            channels_file=self.channels,
            environment={"HOOKS_FILE": str(self.folder / "hooks.toml")} | environment,
        )

    @contextmanager
    def serving(self, program: str) -> Iterator[None]:
        """Run the backend of the page."""
        (self.folder / "backend.py").write_text(program)
        environment = {**os.environ, "PORT": str(self.port), "HOOK_SECRET_FILE": str(self.secret)}
        server = subprocess.Popen(
            [sys.executable, str(self.folder / "backend.py")],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield
        finally:
            server.kill()
            server.wait()

    async def up(self) -> None:
        """Wait until the backend answers; without a signature it says 401."""
        async with asyncio.timeout(LIMIT_S), httpx.AsyncClient() as http:
            while True:
                try:
                    response = await http.post(f"http://127.0.0.1:{self.port}/thalamus", content=b"{}")
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
                    continue
                assert response.status_code == 401
                return


async def eventually(client: WireClient, **request: Any) -> dict[str, Any]:
    """The reply, once the hook is asked: it may be taken for silent."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            reply = await client.reply(await client.post(**request))
            if reply.get("error", {}).get("code") != 113:
                return reply
            await asyncio.sleep(0.1)


async def test_the_moderation_hook_does_what_the_table_says(tmp_path: Path) -> None:
    heading = "Example: a chat moderation hook"
    (toml,), (program,) = blocks(heading, "toml"), blocks(heading, "python")
    example = Example(tmp_path, toml)
    rows = re.findall(r"^\| `(\{.*?\})`(?: as `(\w+)`)? \| ([^|]*) \| ([^|]*) \|$", section(heading), re.MULTILINE)
    assert len(rows) == 4
    with example.stack() as stack:
        async with WireClient(stack.ws_urls[1]) as reader:
            await reader.connect(stack.token("bob"))
            await reader.subscribe("chat:lobby")
            with example.serving(program):
                await example.up()
                for data, user, gets, others in rows:
                    async with WireClient(stack.ws_urls[0]) as client:
                        await client.connect(stack.token(user or "ann"))
                        await client.subscribe("chat:lobby")
                        sent = {"channel": "chat:lobby", "data": json.loads(data)}
                        reply = await eventually(client, publish=sent)
                        if gets.startswith("error"):
                            assert f"error {reply['error']['code']}, `{reply['error']['message']}`" == gets
                        else:
                            assert ("offset" in reply["publish"]) is (gets == "offset and epoch")
                        if others == "nothing":
                            await reader.expect_silence(0.3)
                        else:
                            publication = await reader.publication("chat:lobby")
                            assert publication["data"] == json.loads(others.strip("`"))
            async with WireClient(stack.ws_urls[0]) as client:
                await client.connect(stack.token("ann"))
                await client.subscribe("chat:lobby")
                error = await client.error(publish={"channel": "chat:lobby", "data": {"text": "hello"}})
                assert (error["code"], error["temporary"]) == (113, True)
                await reader.expect_silence(0.3)


GAME = 'Example: an event kind "game.move"'


async def test_game_moves_of_the_http_backend_reach_both_edges(tmp_path: Path) -> None:
    namespace, over_http, *_ = blocks(GAME, "toml")
    backend = blocks(GAME, "python")[0]
    example = Example(tmp_path, over_http, namespace)
    with example.stack() as stack, example.serving(backend):
        await example.up()
        async with WireClient(stack.ws_urls[1]) as reader, WireClient(stack.ws_urls[0]) as bob:
            await reader.connect(stack.token("eve"))
            await reader.subscribe("game:7")
            await bob.connect(stack.token("bob"))
            await eventually(bob, rpc={"method": "game.move", "data": {"game": "1", "cell": 0}})
            assert await moved_by_the_sdk(stack, "ann", {"game": "7", "cell": 4}) == {"moves": 1}
            publication = await reader.publication("game:7")
            assert (publication["data"], publication["offset"]) == ({"cell": 4, "by": "ann"}, 1)
            error = await bob.error(rpc={"method": "game.move", "data": {"game": "7", "cell": 4}})
            assert error == {"code": 409, "message": "the cell is taken"}
            assert (await bob.error(rpc={"method": "game.move", "data": {"game": "7", "cell": 9}}))["code"] == 400
            assert (await bob.error(publish={"channel": "game:7", "data": {"cell": 0}}))["code"] == 103
            await moved_by_the_sdk(stack, "ann", {"game": "7", "cell": 4})  # a repeat
            await reader.expect_silence(0.3)


async def test_game_moves_of_the_extension_reach_both_edges(tmp_path: Path) -> None:
    namespace, _, in_process, project = blocks(GAME, "toml")
    package = tmp_path / "package"
    package.mkdir()
    (package / "game.py").write_text(blocks(GAME, "python")[1])
    (package / "pyproject.toml").write_text(project)
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-build-isolation", "--no-deps"]
    await asyncio.to_thread(subprocess.run, [*pip, "--target", str(site), str(package)], check=True, timeout=120)
    example = Example(tmp_path, in_process, namespace)
    paths = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))
    with example.stack(PYTHONPATH=paths) as stack:
        async with WireClient(stack.ws_urls[1]) as reader, WireClient(stack.ws_urls[0]) as bob:
            await reader.connect(stack.token("eve"))
            await reader.subscribe("game:7")
            await bob.connect(stack.token("bob"))
            assert await moved_by_the_sdk(stack, "ann", {"game": "7", "cell": 4}) == {"cell": 4, "by": "ann"}
            publication = await reader.publication("game:7")
            assert (publication["data"], publication["offset"]) == ({"cell": 4, "by": "ann"}, 1)
            error = await bob.error(rpc={"method": "game.move", "data": {"game": "7", "cell": "x"}})
            assert error == {"code": 400, "message": "no such cell"}


async def moved_by_the_sdk(stack: Stack, user: str, data: dict[str, Any]) -> Any:
    """What the official SDK gets from `game.move`."""
    client = Client(stack.ws_urls[0], token=stack.token(user))
    await client.connect()
    await client.ready(timeout=LIMIT_S)
    try:
        return (await client.rpc("game.move", data)).data
    finally:
        await client.disconnect()
