"""Official SDKs against two edges: publisher on the first, subscriber on the second."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.stack import Stack
from tests.support.tcp_proxy import TcpProxy

_HERE = Path(__file__).parent
_BUILD = _HERE.parents[2] / "build" / "sdk"
_LIMIT_S = 90.0
_OLD = "0.5.0"

SCENARIOS = (
    "chat",
    "presence",
    "history",
    "recovery",
    "refresh",
    "subscription_token",
    "server_side",
    "wrong_token",
    "wrong_subscription_token",
)


def _missing(what: str) -> None:
    if os.environ.get("REQUIRE_ALL") == "1":
        pytest.fail(f"{what}, and REQUIRE_ALL=1")
    pytest.skip(what)


@pytest.fixture(scope="session")
def javascript() -> list[str]:
    """The command of the JavaScript SDK; its packages are installed from the lock file on first use."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        _missing("node and npm are not installed")
    if not (_HERE / "node_modules" / "centrifuge").is_dir():
        subprocess.run([str(npm), "ci", "--silent"], cwd=_HERE, check=True, timeout=300)
    return [str(node), str(_HERE / "scenarios.mjs")]


@pytest.fixture(scope="session")
def python_newest() -> list[str]:
    """centrifuge-python as locked for development: the newest."""
    return [sys.executable, str(_HERE / "scenarios.py")]


@pytest.fixture(scope="session")
def python_old() -> list[str]:
    """centrifuge-python 0.5.0, in a folder of its own: it wants other websockets and protobuf than we do."""
    target = _BUILD / f"centrifuge-python-{_OLD}"
    if not (target / "centrifuge").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target)]
        subprocess.run([*pip, "--requirement", str(_HERE / "requirements-old.txt")], check=True, timeout=300)
    return ["env", f"PYTHONPATH={target}", sys.executable, str(_HERE / "scenarios.py")]


SDKS = {"js": "javascript", f"python-{_OLD}": "python_old", "python-newest": "python_newest"}


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("sdk", SDKS)
async def test_sdk(sdk: str, scenario: str, request: pytest.FixtureRequest, stack: Stack) -> None:
    command: list[str] = request.getfixturevalue(SDKS[sdk])
    edge1, edge2 = stack.ws_urls[:2]
    host, port = edge2.removeprefix("ws://").split("/")[0].split(":")
    async with TcpProxy(host, int(port)) as proxy:
        addresses = {
            "edge1": edge1,
            "edge2": edge2,
            "proxied2": edge2.replace(f"{host}:{port}", f"127.0.0.1:{proxy.port}"),
            "run": secrets.token_hex(4),
            "version": sdk.rpartition("-")[2],
        }

        def token(user: str, ttl_s: float, claims: dict[str, object]) -> str:
            return stack.token(user, ttl_s=ttl_s, **claims)

        code, errors = await _run([*command, scenario], addresses, token, proxy)
    assert code == 0, errors


async def _run(
    command: list[str],
    addresses: dict[str, str],
    token: Callable[[str, float, dict[str, object]], str],
    proxy: TcpProxy,
) -> tuple[int | None, str]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    errors = asyncio.create_task(process.stderr.read())
    try:
        async with asyncio.timeout(_LIMIT_S):
            process.stdin.write(json.dumps(addresses).encode() + b"\n")
            while line := await process.stdout.readline():
                question = json.loads(line)
                answer: object = "ok"
                if question["do"] == "token":
                    answer = token(question["user"], question["ttl_s"], question["claims"])
                elif question["do"] == "cut":
                    proxy.cut()
                else:
                    proxy.heal()
                process.stdin.write(json.dumps(answer).encode() + b"\n")
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, (await errors).decode()
