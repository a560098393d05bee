"""The servers beside ours: how each is installed, started and spoken to."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.load.commands import Where
from bench.servers.process import free_port, process, redis
from bench.servers.target import Target, TargetFailed

_ROOT = Path(__file__).resolve().parents[2]
_PEERS = _ROOT / "bench" / "peers"
_ENVIRONMENTS = _ROOT / "build" / "bench"
_NODES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A server to compare with.

    `install` makes what it needs, once. `command` runs a node, `settings` are its own variables.
    """

    name: str
    dialect: str
    path: str
    cwd: Path
    install: Callable[[], None]
    command: Callable[[int], tuple[str, ...]]  # of the port
    settings: Callable[[int, str, str], Mapping[str, str]]  # of the port, Redis' address and the secret of tokens


def _settings(port: int, redis_url: str, secret: str) -> Mapping[str, str]:
    return {"NODE_ENV": "production", "PORT": str(port), "REDIS_URL": redis_url, "JWT_SECRET": secret}


def _node_peer(name: str, dialect: str, path: str, folder: str, script: str) -> Peer:
    home = _PEERS / folder

    def install() -> None:
        if shutil.which("node") is None or shutil.which("npm") is None:
            raise TargetFailed(f"{name} needs node and npm on the PATH")
        if not (home / "node_modules" / ".package-lock.json").is_file():
            subprocess.run(["npm", "ci", "--silent"], cwd=home, check=True)

    return Peer(
        name=name,
        dialect=dialect,
        path=path,
        cwd=home,
        install=install,
        command=lambda _: ("node", script),
        settings=_settings,
    )


def _python_peer(name: str, dialect: str, path: str) -> Peer:
    home, python = _PEERS / name, _ENVIRONMENTS / name / "bin" / "python"

    def install() -> None:
        stamp = _ENVIRONMENTS / name / ".installed"
        wanted = (home / "requirements.txt").read_text()
        if stamp.is_file() and stamp.read_text() == wanted:
            return
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(_ENVIRONMENTS / name)], check=True)
        pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--requirement", "requirements.txt"], cwd=home, check=True)
        stamp.write_text(wanted)

    options = ("--loop", "uvloop", "--http", "httptools", "--ws", "websockets", "--ws-per-message-deflate", "false")
    return Peer(
        name=name,
        dialect=dialect,
        path=path,
        cwd=home,
        install=install,
        command=lambda port: (
            *(str(python), "-m", "uvicorn", "server:app", "--port", str(port)),
            *(*options, "--no-access-log", "--log-level", "warning", "--backlog", "4096"),
        ),
        settings=_settings,
    )


def centrifugo(binary: Path) -> Peer:
    """Of version 6, where somebody has it."""

    def install() -> None:
        if not binary.is_file():
            raise TargetFailed(f"there is no {binary}")

    return Peer(
        name="centrifugo",
        dialect="centrifugal",
        path="/connection/websocket",
        cwd=_PEERS / "centrifugo",
        install=install,
        command=lambda _: (str(binary.resolve()), "--config", "config.json"),
        settings=lambda port, redis_url, secret: {
            "CENTRIFUGO_HTTP_SERVER_ADDRESS": "127.0.0.1",
            "CENTRIFUGO_HTTP_SERVER_PORT": str(port),
            "CENTRIFUGO_ENGINE_REDIS_ADDRESS": redis_url,
            "CENTRIFUGO_CLIENT_TOKEN_HMAC_SECRET_KEY": secret,
        },
    )


FLOOR = Peer(
    name="floor",
    dialect="plain",
    path="/",
    cwd=_PEERS / "floor",
    install=lambda: None,
    command=lambda _: (sys.executable, "server.py"),
    settings=_settings,
)

PEERS: Mapping[str, Peer] = {
    peer.name: peer
    for peer in (
        _node_peer("socketio-redis", "socketio", "/socket.io/", "socketio", "redis.mjs"),
        _node_peer("socketio-streams", "socketio", "/socket.io/", "socketio", "streams.mjs"),
        _node_peer("ws", "plain", "/", "ws", "server.mjs"),
        _python_peer("python-socketio", "socketio", "/socket.io/"),
        _python_peer("channels", "plain", "/"),
    )
}


@asynccontextmanager
async def running_peer(peer: Peer, *, nodes: int = _NODES) -> AsyncIterator[Target]:
    """So many nodes of it, with a Redis between them."""
    peer.install()
    secret = secrets.token_urlsafe(32)
    async with AsyncExitStack() as stack:
        data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        redis_pid, redis_port = await stack.enter_async_context(redis(data))
        pids, urls = {"redis": redis_pid}, []
        for number in range(1, nodes + 1):
            port = free_port()
            environment = peer.settings(port, f"redis://127.0.0.1:{redis_port}/0", secret)
            pids[f"node-{number}"] = await stack.enter_async_context(
                process(peer.command(port), port=port, cwd=peer.cwd, environment=environment)
            )
            urls.append(f"ws://127.0.0.1:{port}{peer.path}")
        yield Target(name=peer.name, where=Where(dialect=peer.dialect, secret=secret, urls=urls), pids=lambda: pids)
