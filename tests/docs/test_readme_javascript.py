"""The JavaScript of README.md as it is printed.

On Node.js, and in Chromium from a page on another port.
"""

from __future__ import annotations

import asyncio
import http.server
import json
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.sdk import javascript  # noqa: F401  # a fixture
from tests.support.stack import Stack
from tests.web.test_console import chromium  # noqa: F401  # a fixture

ROOT = Path(__file__).parents[2]
SDK = ROOT / "tests" / "integration" / "sdk" / "node_modules"
LIMIT_S = 40.0
PAGE = """<!doctype html><script src="/centrifuge.js"></script>
<script type="importmap">{"imports": {"centrifuge": "/centrifuge.mjs"}}</script>
<script>console.log = (...said) => fetch("/said?" + encodeURIComponent(JSON.stringify(said)))</script>
<script type="module">%s</script>"""


def snippets(stack: Stack) -> tuple[str, str]:
    """The program with a token before it, and the lines for an old Node.js."""
    program, old_node = re.findall(r"```js\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    program = program.replace("ws://127.0.0.1:8001/connection/websocket", stack.ws_urls[0])
    assert stack.ws_urls[0] in program
    return f'const token = "{stack.token("alice")}";\n{program}', old_node


def major_version(node: str) -> int:
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    return int(said.removeprefix("v").split(".")[0])


async def published_until(stack: Stack, received: Callable[[], bool]) -> None:
    """Publish in the room of the snippet, again and again, until it is told."""
    async with httpx.AsyncClient(base_url=stack.http_urls[1], headers={"X-API-Key": stack.api_key}) as http:
        deadline = time.monotonic() + LIMIT_S
        while not received():
            assert time.monotonic() < deadline, "the program of README.md heard nothing"
            response = await http.post("/api/publish", json={"channel": "chat:lobby", "data": {"text": "from README"}})
            assert "result" in response.json()
            await asyncio.sleep(0.2)


@pytest.mark.usefixtures("javascript")
async def test_it_runs_on_node(stack: Stack, tmp_path: Path) -> None:
    program, old_node = snippets(stack)
    (tmp_path / "node_modules").symlink_to(SDK)
    node = str(shutil.which("node"))
    (tmp_path / "chat.mjs").write_text((old_node if major_version(node) < 22 else "") + program)
    running = await asyncio.create_subprocess_exec(
        node, "chat.mjs", cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    assert running.stdout is not None
    lines: list[str] = []

    async def read(output: asyncio.StreamReader) -> None:
        while line := await output.readline():
            lines.append(line.decode())

    reading = asyncio.create_task(read(running.stdout))
    try:
        await published_until(stack, lambda: bool(lines))
    finally:
        if running.returncode is None:
            running.kill()
        await running.wait()
        await reading
    assert re.match(r"\d+ \{ text: 'from README' \}", lines[0]), lines


@contextmanager
def page(program: str, said: list[list[object]]) -> Iterator[str]:
    """A web server of a page that runs the program and tells us what it prints."""
    files = {
        "/": ("text/html", (PAGE % program).encode()),
        "/centrifuge.js": ("text/javascript", (SDK / "centrifuge" / "dist" / "centrifuge.js").read_bytes()),
        "/centrifuge.mjs": ("text/javascript", b"export const Centrifuge = globalThis.Centrifuge;"),
        "/said": ("text/plain", b""),
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if path == "/said":
                said.append(json.loads(urllib.parse.unquote(query)))
            kind, body = files.get(path, ("text/plain", b""))
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.usefixtures("javascript")
async def test_it_runs_in_chromium_from_a_page_on_another_port(
    chromium: str,  # noqa: F811
    stack: Stack,
    tmp_path: Path,
) -> None:
    program, _ = snippets(stack)
    said: list[list[object]] = []
    with page(program, said) as url:
        options = ("--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--no-first-run")
        browser = await asyncio.create_subprocess_exec(
            chromium, *options, url, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            await published_until(stack, lambda: bool(said))
        finally:
            if browser.returncode is None:
                browser.terminate()
            await browser.wait()
    offset, data = said[0]
    assert isinstance(offset, int)
    assert data == {"text": "from README"}
