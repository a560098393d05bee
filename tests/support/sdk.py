"""The official SDKs as processes: JavaScript, the newest Python, and an old one."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.support.tcp_proxy import TcpProxy

_ROOT = Path(__file__).parents[2]
_HERE = _ROOT / "tests" / "integration" / "sdk"
_BUILD = _ROOT / "build" / "sdk"
_LIMIT_S = 180.0
_OLD = "0.5.0"

SDKS = {"js": "javascript", f"python-{_OLD}": "python_old", "python-newest": "python_newest"}
CLIENTS = [*((sdk, "json") for sdk in SDKS), ("js", "protobuf"), ("python-newest", "protobuf")]
SCENARIOS = (
    "chat",
    "presence",
    "presence_data",
    "history",
    "recovery",
    "resubscribed",
    "too_old",
    "comes_and_goes",
    "not_served",
    "refresh",
    "subscription_token",
    "server_side",
    "removed",
    "wrong_token",
    "wrong_subscription_token",
)


def _missing(what: str) -> None:
    if os.environ.get("REQUIRE_ALL") == "1":
        pytest.fail(f"{what}, and REQUIRE_ALL=1")
    pytest.skip(what)


@pytest.fixture(scope="session")
def javascript() -> list[str]:
    """Return the command of the JavaScript SDK; install its packages on first use."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        _missing("node and npm are not installed")
    if not (_HERE / "node_modules" / "centrifuge-before").is_dir():
        subprocess.run([str(npm), "ci", "--silent"], cwd=_HERE, check=True, timeout=300)
    return [str(node), str(_HERE / "scenarios.mjs")]


@pytest.fixture(scope="session")
def python_newest() -> list[str]:
    """centrifuge-python as locked for development: the newest."""
    return [sys.executable, str(_HERE / "scenarios.py")]


@pytest.fixture(scope="session")
def python_old() -> list[str]:
    """Return the command of centrifuge-python 0.5.0, installed in a folder of its own.

    It needs other versions of websockets and protobuf than we do.
    """
    target = _BUILD / f"centrifuge-python-{_OLD}"
    if not (target / "centrifuge").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target)]
        subprocess.run([*pip, "--requirement", str(_HERE / "requirements-old.txt")], check=True, timeout=300)
    return ["env", f"PYTHONPATH={target}", sys.executable, str(_HERE / "scenarios.py")]


async def run_scenario(
    command: list[str],
    addresses: dict[str, str],
    token: Callable[[str, float, dict[str, object]], str],
    proxy: TcpProxy,
    fill: Callable[[str, int], Awaitable[object]] | None = None,
    ticket: Callable[[str], Awaitable[str]] | None = None,
    ephemeral: Callable[[str, int], Awaitable[object]] | None = None,
    *,
    limit_s: float = _LIMIT_S,
    encoding: str = "json",
) -> tuple[int | None, str]:
    """Exit code and stderr of one scenario; 0: it held.

    It asks for tokens, tickets for a token, publications and ephemeral events, to cut and to heal.
    """
    environment = {**os.environ, "SDK_ENCODING": encoding}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    errors = asyncio.create_task(process.stderr.read())
    try:
        async with asyncio.timeout(limit_s):
            process.stdin.write(json.dumps(addresses).encode() + b"\n")
            while line := await process.stdout.readline():
                question = json.loads(line)
                reply: object = "ok"
                if question["do"] == "token":
                    reply = token(question["user"], question["ttl_s"], question["claims"])
                elif question["do"] == "cut":
                    proxy.cut()
                elif question["do"] == "fill":
                    assert fill is not None, "this scenario needs one who publishes much"
                    await fill(question["channel"], question["count"])
                elif question["do"] == "ephemeral":
                    assert ephemeral is not None, "this scenario needs one who publishes ephemeral events"
                    await ephemeral(question["channel"], question["count"])
                elif question["do"] == "ticket":
                    assert ticket is not None, "this scenario needs tickets"
                    reply = await ticket(question["token"])
                else:
                    proxy.heal()
                process.stdin.write(json.dumps(reply).encode() + b"\n")
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, (await errors).decode()
