"""The servers beside ours: how each is installed, started and spoken to."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.servers.process import free_port, process, redis
from bench.servers.target import Target, TargetFailed

_PEERS = Path(__file__).resolve().parents[1] / "peers"
_NODE = _PEERS / "node"
_NODES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One of them. `command` is that of a node, `install` makes what it needs, once."""

    name: str
    dialect: str
    path: str
    install: Callable[[], None]
    command: Callable[[int], tuple[str, ...]]  # of the port
    cwd: Path


def _install_node() -> None:
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise TargetFailed("this peer needs node and npm on the PATH")
    if not (_NODE / "node_modules" / ".package-lock.json").is_file():
        subprocess.run(["npm", "ci", "--silent"], cwd=_NODE, check=True)


def _node_peer(name: str, dialect: str, path: str) -> Peer:
    return Peer(
        name=name,
        dialect=dialect,
        path=path,
        install=_install_node,
        command=lambda _: ("node", f"{name}.mjs"),
        cwd=_NODE,
    )


PEERS: Mapping[str, Peer] = {
    peer.name: peer
    for peer in (
        _node_peer("socketio-redis", "socketio", "/socket.io/"),
        _node_peer("socketio-streams", "socketio", "/socket.io/"),
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
            environment = {
                "NODE_ENV": "production",
                "PORT": str(port),
                "REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
                "JWT_SECRET": secret,
            }
            pids[f"node-{number}"] = await stack.enter_async_context(
                process(peer.command(port), port=port, cwd=peer.cwd, environment=environment)
            )
            urls.append(f"ws://127.0.0.1:{port}{peer.path}")
        yield Target(name=peer.name, dialect=peer.dialect, urls=urls, secret=secret, pids=lambda: pids)
