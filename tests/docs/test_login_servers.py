"""The login servers of docs/security.md as they are printed.

Their tokens connect, and can be revoked.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import jwt
import pytest

from tests.support.faults import free_port
from tests.support.sdk import javascript  # noqa: F401  # a fixture
from tests.support.stack import Stack
from tests.support.wire_client import WireClient

ROOT = Path(__file__).parents[2]
SDK = ROOT / "tests" / "integration" / "sdk" / "node_modules"
ALICE = {"username": "alice", "password": "correct horse battery"}
LIMIT_S = 60.0
BEFORE_PAGE = """import { Centrifuge, UnauthorizedError } from "centrifuge";
globalThis.WebSocket = (await import("ws")).default;
const { username, password } = %s;
const fetch = (path, options) => globalThis.fetch("%s" + path, options);
%s
client.on("connected", () => { console.log("connected"); process.exit(0); });
client.on("disconnected", (ctx) => { console.log(ctx.code); process.exit(1); });
client.connect();
"""


def printed() -> tuple[str, str, str]:
    """The servers in Python and in Node.js, and what the page does."""
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8").split("## Your own login server\n", 1)[1]
    (in_python,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    in_node, in_page = re.findall(r"```js\n(.*?)```", page, re.DOTALL)
    return in_python, in_node, in_page


@contextmanager
def serving(command: list[str], stack: Stack) -> Iterator[str]:
    """Run a login server that knows the secret of the stack; its address."""
    port = free_port()
    environment = {**os.environ, "PORT": str(port), "TOKEN_SECRET_FILE": str(stack.data / "hs256.secret")}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


async def signed_in(http: httpx.AsyncClient, account: dict[str, str]) -> httpx.Response:
    """The answer of a server that may still be starting."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                return await http.post("/token", json=account)
            except httpx.ConnectError:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("language", ["python", "node"])
async def test_a_token_of_the_printed_server_connects_and_can_be_revoked(
    language: str, stack: Stack, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    in_python, in_node, in_page = printed()
    if language == "node":
        request.getfixturevalue("javascript")
    program = tmp_path / ("server.py" if language == "python" else "server.mjs")
    program.write_text(in_python if language == "python" else in_node)
    command = [sys.executable if language == "python" else str(shutil.which("node")), str(program)]
    with serving(command, stack) as url:
        async with httpx.AsyncClient(base_url=url) as http:
            token = (await signed_in(http, ALICE)).json()["token"]
            for wrong in (ALICE | {"password": "another"}, ALICE | {"username": "bob"}):
                assert (await http.post("/token", json=wrong)).status_code == 401
            with pytest.raises(httpx.RemoteProtocolError):  # it drops what it can't read, and goes on
                await http.post("/token", content=b"{")
            assert (await http.post("/token", json=ALICE)).status_code == 200
        if language == "node":
            (tmp_path / "node_modules").symlink_to(SDK)
            in_page = in_page.replace("wss://chat.example.com/connection/websocket", stack.ws_urls[0])
            (tmp_path / "page.mjs").write_text(BEFORE_PAGE % (ALICE, url, in_page))
            page = await asyncio.create_subprocess_exec(
                *(command[0], "page.mjs"), cwd=tmp_path, stdout=asyncio.subprocess.PIPE
            )
            said, _ = await asyncio.wait_for(page.communicate(), LIMIT_S)
            assert said == b"connected\n"
    async with WireClient(stack.ws_urls[1]) as client:
        assert (await client.connect(token))["expires"] is True
        await client.subscribe("chat:login-servers")
        roster = await client.call(presence={"channel": "chat:login-servers"})
        (info,) = roster["presence"].values()
        assert (info["user"], info["conn_info"]) == ("alice", {"name": "alice"})
        claims = jwt.decode(token, options={"verify_signature": False})
        async with httpx.AsyncClient(base_url=stack.http_urls[0], headers={"X-API-Key": stack.api_key}) as api:
            response = await api.post("/api/revoke", json={"token": claims["jti"], "ttl_s": 600})
            assert response.json() == {"result": {}}
        assert (await client.expect_close())[0] == 3503
    async with WireClient(stack.ws_urls[0]) as client:
        await client.post(connect={"token": token})
        assert (await client.expect_close())[0] == 3500
