"""The guide of docs/chat.md as it is printed, and its table of methods."""

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

import msgspec
import pytest

from services.edge.api.chat_rest import ROUTES
from services.edge.domain.settings import Settings
from services.shared.chat_methods import METHODS
from services.shared.chat_requests import MAX_ENTRIES, MAX_KEY_BYTES, MAX_MESSAGES, MAX_USERS
from tests.docs.test_readme_javascript import SDK, major_version, snippets
from tests.support.sdk import javascript  # noqa: F401  # a fixture
from tests.support.stack import Stack

PAGE = (Path(__file__).parents[2] / "docs" / "chat.md").read_text(encoding="utf-8")
WEBSOCKET = "ws://127.0.0.1:8001/connection/websocket"
HTTP = "http://127.0.0.1:8001"
LIMIT_S = 30.0
CONTENT = {"text", "format", "attachments", "mentions", "mention_all", "meta"}


@pytest.fixture(scope="module")
def place() -> Iterator[Stack]:
    """A stack of its own: offsets are printed."""
    with Stack() as running:
        yield running


def section(title: str) -> str:
    return re.split(r"^##+ ", PAGE.split(f"# {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


class Shell:
    """Runs what is printed behind `$`, and compares what comes with what is printed."""

    def __init__(self, place: Stack) -> None:
        self._place = place
        self._environment = {
            **os.environ,
            "KEY": place.api_key,
            "ALICE": place.token("alice"),
            "BOB": place.token("bob"),
        }
        self.channel = ""  # of the group

    async def follow(self, text: str) -> int:
        """Run all commands of a text; return how many said something."""
        found = 0
        for command, printed in re.findall(r"^\$ (.*)\n((?!\$|```).*\n)?", text, re.MULTILINE):
            command = command.replace("conv:g.…", self.channel).replace(HTTP, self._place.http_urls[found % 2])
            if match := re.fullmatch(r"([A-Z]+)=(http\S+)", command):
                self._environment[match[1]] = match[2]
                continue
            said = await asyncio.to_thread(self._run, command.replace("$(thalamus token --user eve)", "$EVE"))
            expected = ".*?".join(map(re.escape, printed.strip().split("…")))
            assert re.fullmatch(expected, said), (command, said, printed)
            if match := re.search(r"conv:g\.[a-z2-7]{26}", said):
                self.channel = match[0]
            found += 1
        return found

    def say(self, text: str) -> None:
        """Write to the group as the platform."""
        data = json.dumps({"channel": self.channel, "text": text})
        self._run(f"curl -s -H \"X-API-Key: $KEY\" -d '{data}' {self._place.http_urls[0]}/api/messages_send")

    def _run(self, command: str) -> str:
        done = subprocess.run(
            command,
            shell=True,
            env={**self._environment, "EVE": self._place.token("eve")},
            capture_output=True,
            text=True,
            check=True,
            timeout=LIMIT_S,
        )
        return done.stdout


@pytest.mark.usefixtures("javascript")
async def test_a_group_chat_from_nothing(place: Stack, tmp_path: Path) -> None:
    shell = Shell(place)
    assert await shell.follow(section("With curl")) == 7

    (in_javascript,) = re.findall(r"```js\n(.*?)```", section("In JavaScript"), re.DOTALL)
    (in_python,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    _, old_node = snippets(place)
    node = str(shutil.which("node"))
    (tmp_path / "node_modules").symlink_to(SDK)
    (tmp_path / "bob.mjs").write_text(
        (old_node if major_version(node) < 22 else "")
        + f'const token = "{place.token("bob")}";\n'
        + in_javascript.replace(WEBSOCKET, place.ws_urls[0])
    )
    (tmp_path / "alice.py").write_text(
        in_python.replace(WEBSOCKET, place.ws_urls[1])
        .replace('"..."', f'"{place.token("alice")}"')
        .replace("conv:g....", shell.channel)
    )
    pipe = asyncio.subprocess.PIPE
    watching = await asyncio.create_subprocess_exec(
        node, "bob.mjs", cwd=tmp_path, stdout=pipe, stderr=asyncio.subprocess.STDOUT
    )
    assert watching.stdout is not None
    lines: list[str] = []

    async def heard(count: int) -> list[str]:
        assert watching.stdout is not None
        async with asyncio.timeout(LIMIT_S):
            while len(lines) < count:
                lines.append((await watching.stdout.readline()).decode().strip())
        return lines

    try:
        assert await heard(1) == ["3 alice: See you at 9"]
        writing = await asyncio.create_subprocess_exec(
            sys.executable, "alice.py", cwd=tmp_path, stdout=pipe, stderr=asyncio.subprocess.STDOUT
        )
        said, _ = await writing.communicate()
        assert said.decode() == "Pasta? {'🍝': {'count': 1, 'me': True}}\n"
        assert (await heard(3))[1:] == ["6 alice: Pizza?", "6 alice: Pasta?"]
        assert await shell.follow(section("Direct conversations")) == 3
        assert (await heard(4))[3:] == ["2 alice: psst"]  # he was told, and followed
        shell.say("Closed today")
        assert (await heard(5))[4:] == ["9 the platform: Closed today"]
    finally:
        watching.kill()
        await watching.wait()
    for line in (*lines[:3], said.decode().strip()):
        assert f"`{line}`" in PAGE

    folding = await _fold(place, shell, tmp_path)
    try:
        assert folding.stdout is not None
        async with asyncio.timeout(LIMIT_S):
            texts = [one.get("text") for one in json.loads(await folding.stdout.readline()).values()]
            assert texts == ["See you at 9", "Pasta?", "Closed today"]
            shell.say("Open again")
            messages = json.loads(await folding.stdout.readline())
        assert [messages["6"]["reactions"], messages["10"]["text"]] == [{"🍝": ["alice"]}, "Open again"]
    finally:
        folding.kill()
        await folding.wait()


async def _fold(place: Stack, shell: Shell, folder: Path) -> asyncio.subprocess.Process:
    """Start the printed program that folds; it prints messages as JSON."""
    (program,) = re.findall(r"```js\n(.*?)```", section("The fold in JavaScript"), re.DOTALL)
    for module in (Path(__file__).parents[2] / "clients" / "js").iterdir():
        shutil.copy(module, folder)
    _, old_node = snippets(place)
    node = str(shutil.which("node"))
    (folder / "folding.mjs").write_text(
        (old_node if major_version(node) < 22 else "")
        + 'import { Centrifuge } from "centrifuge";\n'
        + f'const client = new Centrifuge("{place.ws_urls[0]}", {{ token: "{place.token("bob")}" }});\n'
        + f'const room = client.newSubscription("{shell.channel}");\n'
        + "const show = ({ messages }) => console.log(JSON.stringify(messages));\n"
        + program
        + "room.subscribe();\nclient.connect();\n"
    )
    return await asyncio.create_subprocess_exec(
        node, "folding.mjs", cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )


def test_the_table_of_methods_is_that_of_the_code() -> None:
    lines = [line.replace("| |", "|  |") for line in section("Methods").splitlines() if line.startswith("| `")]
    rows = [line.split(" | ") for line in lines]
    named: list[str] = []
    for names, parameters, routes, *_ in rows:
        methods = re.findall(r"`([\w.]+)`", names)
        named += methods
        fields = [field for name in methods for field in msgspec.structs.fields(METHODS[name].request)]
        known = {field.encode_name for field in fields} - {"key"}
        printed = set(re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", parameters)))
        assert printed | (CONTENT if "content" in parameters else set()) == known, methods
        needed = {field.encode_name for field in fields if field.required}
        assert set(re.findall(r"`(\w+)`\\\*", parameters)) == needed, methods
        expected = {
            f"{route.verb} {route.path.replace('/chat/conversations/{id}', '…').replace(':path', '')}"
            for route in ROUTES
            if route.method in methods
        }
        assert set(re.findall(r"`([A-Z]+ [^`]+)`", routes)) == expected, methods
    assert sorted(named) == sorted(METHODS)


def test_the_numbers_of_the_guide_are_those_of_the_code() -> None:
    text, settings = section("Methods"), Settings()
    for number in (
        f"`users` ({MAX_USERS})",
        f"(100; {MAX_ENTRIES:,} at most)",
        f"(25; {MAX_MESSAGES} at most)",
        f"a key of at most {MAX_KEY_BYTES} bytes",
        f"{settings.commands_per_s:g} requests a second, and {settings.commands_burst} at once",
    ):
        assert number in text, number
