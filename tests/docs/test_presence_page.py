"""The examples of docs/presence.md as they are printed, and its numbers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.edge.api.presence import PRESENCE_METHODS
from services.edge.domain.channels.presence_events import MAX_WAITING
from services.edge.domain.presence.data import MAX_BYTES
from services.edge.domain.presence.views import MAX_PAGE
from services.edge.domain.session import presence_methods
from services.edge.domain.session.rpc import RpcMethods
from tests.docs.test_readme_javascript import SDK, major_version, snippets
from tests.support.sdk import javascript  # noqa: F401  # a fixture
from tests.support.stack import Stack
from tests.support.wire_client import WireClient

PAGE = (Path(__file__).parents[2] / "docs" / "presence.md").read_text(encoding="utf-8")
ADDRESS = "ws://127.0.0.1:8001/connection/websocket"
LIMIT_S = 30.0


@pytest.fixture(scope="module")
def place() -> Iterator[Stack]:
    """A stack of its own: nobody else is in the lobby."""
    with Stack() as running:
        yield running


@pytest.mark.usefixtures("javascript")
async def test_the_programs_show_one_another_across_edges(place: Stack, tmp_path: Path) -> None:
    (in_javascript,) = re.findall(r"```js\n(.*?)```", PAGE, re.DOTALL)
    (in_python,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    _, old_node = snippets(place)
    node = str(shutil.which("node"))
    (tmp_path / "node_modules").symlink_to(SDK)
    (tmp_path / "here.mjs").write_text(
        (old_node if major_version(node) < 22 else "")
        + f'const token = "{place.token("alice")}";\n'
        + in_javascript.replace(ADDRESS, place.ws_urls[0])
    )
    (tmp_path / "typing_now.py").write_text(
        in_python.replace(ADDRESS, place.ws_urls[1]).replace('"..."', f'"{place.token("bob")}"')
    )
    pipe = asyncio.subprocess.PIPE
    watching = await asyncio.create_subprocess_exec(
        node, "here.mjs", cwd=tmp_path, stdout=pipe, stderr=asyncio.subprocess.STDOUT
    )
    assert watching.stdout is not None
    alice = 'alice {"mood":"good"}'
    lines: list[str] = []
    try:
        async with asyncio.timeout(LIMIT_S):
            while lines[-1:] != [alice]:
                lines.append((await watching.stdout.readline()).decode().strip())
            typing = await asyncio.create_subprocess_exec(
                sys.executable, "typing_now.py", cwd=tmp_path, stdout=pipe, stderr=asyncio.subprocess.STDOUT
            )
            said, _ = await typing.communicate()
            assert said.decode() == "['chat:lobby']\n"
            lines.clear()
            while len(lines) < 5 or lines[-1] != alice:
                line = (await watching.stdout.readline()).decode().strip()
                if lines or "bob" in line:
                    lines.append(line)
    finally:
        watching.kill()
        await watching.wait()
    of_bob = ("null", '{"typing":false,"mood":"bad"}', '{"typing":true,"mood":"bad"}', '{"mood":"bad"}')
    assert lines == [*(f"{alice}, bob {data}" for data in of_bob), alice]
    for data in of_bob[1:]:
        assert f"`bob {data}`" in PAGE


async def test_a_backend_gets_what_is_printed(place: Stack) -> None:
    (console,) = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    steps = re.findall(r"\$ (curl .*)\n(\{.*)\n", console)
    assert len(steps) == 6
    async with WireClient(place.ws_urls[1]) as client:
        await client.connect(place.token("alice"))
        await client.subscribe("chat:lobby")
        for command, printed in steps:
            done = await asyncio.to_thread(
                subprocess.run,
                command.replace("http://127.0.0.1:8001", place.http_urls[0]),
                shell=True,
                env={**os.environ, "KEY": place.api_key},
                capture_output=True,
                text=True,
                check=True,
                timeout=LIMIT_S,
            )
            assert json.loads(done.stdout) == json.loads(printed), command


def test_every_method_stands_in_the_page() -> None:
    methods = RpcMethods()
    presence_methods.register(methods)
    assert set(re.findall(r"^\| `(presence\.\w+)` \|", PAGE, re.MULTILINE)) == set(methods.names)
    of_backends = set(re.findall(r"^\| `(presence_\w+)` \|", PAGE, re.MULTILINE))
    assert of_backends == PRESENCE_METHODS.keys() - {"presence", "presence_stats"}


def test_the_numbers_of_the_page_are_those_of_the_code() -> None:
    for text in (
        f"at most {MAX_BYTES:,} bytes of JSON",
        f"{MAX_PAGE:,} at most",
        f"`channels`: {presence_methods.MAX_ASKED} at most",
        f"Beyond {MAX_WAITING:,} waiting clients",
    ):
        assert text in PAGE, text
