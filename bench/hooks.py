"""`python -m bench.hooks`: does a hook whose backend fails slow others down?

Clients publish at a steady rate in a namespace without a hook, and others in one with a hook. In turns of two seconds,
in random order, the backend of the hook is well, down, slow, or answers garbage, 10 MB or a redirect. What counts is
p99 of the acknowledgements in the namespace without a hook.

**Two controls.** Both have the same traffic, so what else the machine does is in both. The first ratio is to the turn
of the round in which the others publish without a hook, too: what a hook and its faults add for those who have none.
The second is to the turn in which the backend is well: what its faults alone add.

**Rules.** The edge has one core, and the load, the backend, Redis and the other services have the rest: a backend is on
another machine in earnest, and its CPU must not be taken from the edge. It runs at the lowest priority, so that it does
not hold up the clients that measure, which share its core (`--share-cores`: all share all cores). CPU of the edge is
shown because it can be told on a busy machine, where p99 can't. Ratios are medians of rounds, with how far these would
differ if the rounds were drawn again (95 %).
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

import click
import jwt
from websockets.asyncio.client import ClientConnection, connect

from bench.measure.proc import cpu_s
from bench.servers.platform import platform
from bench.turns import interval

_SEED = 1
_WITHOUT = "no hook"
_KINDS = ("well", "down", "slow", "garbage", "10 MB", "redirect")
_NAMESPACES = """
[namespaces.hooked]
durability = "hot"
subscribe = ["authenticated"]
publish = ["authenticated"]

[namespaces.free]
durability = "hot"
subscribe = ["authenticated"]
publish = ["authenticated"]
"""
_HOOKS = """
[hooks.bench]
events = ["publish"]
namespaces = ["hooked"]
url = "http://127.0.0.1:{port}/"
secret_files = ["{secret}"]
timeout_s = 0.5
"""
_SLOW_S = 30.0
_PIECE_BYTES = (
    65_536  # that the backend has under way: as on a network, and other than on one machine, where it is 2.5 MB
)
_LOWEST = 19  # priority
_EDGE = "edge-1"  # its name in the platform


def _response(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


_ANSWERS = {
    "well": _response(b"{}"),
    "garbage": _response(b"<html>"),
    "10 MB": _response(b" " * (10 << 20)),
    "redirect": _response(b"", "302 Found\r\nLocation: http://127.0.0.1:1/"),
}


async def _serve() -> None:
    """Be the backend: print the port, and take how to answer from the lines of stdin."""
    os.nice(_LOWEST)
    kind = "well"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                lengths = [int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")]
                await reader.readexactly(lengths[0])
                if kind == "down":
                    break
                if kind == "slow":
                    await asyncio.sleep(_SLOW_S)
                said = _ANSWERS.get(kind, _ANSWERS["well"])
                for start in range(0, len(said), _PIECE_BYTES):
                    writer.write(said[start : start + _PIECE_BYTES])
                    await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PIECE_BYTES)  # its connections have it, too
    server = await asyncio.start_server(answer, sock=listener)
    click.echo(server.sockets[0].getsockname()[1])
    while line := await asyncio.to_thread(sys.stdin.readline):
        kind = line.strip()


@contextmanager
def _backend() -> Iterator[tuple[int, Callable[[str], None]]]:
    """Run the backend as a process: its port, and what changes how it answers."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.hooks", "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin = process.stdin

    def become(kind: str) -> None:
        stdin.write(f"{kind}\n")
        stdin.flush()

    try:
        yield int(process.stdout.readline()), become
    finally:
        process.kill()
        process.wait()


class _Client:
    """One connection, which publishes one message at a time."""

    def __init__(self, socket: ClientConnection, number: int) -> None:
        self._socket, self.number, self._id = socket, number, 0

    async def call(self, **command: object) -> float:
        """Send a command; return the seconds until its reply."""
        self._id += 1
        began = time.perf_counter()
        await self._socket.send(json.dumps({"id": self._id, **command}))
        while True:
            for line in str(await self._socket.recv()).split("\n"):
                reply = json.loads(line)
                if not reply:
                    await self._socket.send("{}")
                if reply.get("id") == self._id:
                    return time.perf_counter() - began

    async def publish(self, namespace: str, per_s: float, until: float) -> list[float]:
        """Publish on schedule; return the seconds of each acknowledgement."""
        took, at = [], time.perf_counter() + random.random() / per_s
        while at < until:
            await asyncio.sleep(max(0.0, at - time.perf_counter()))
            message = {"channel": f"{namespace}:{self.number}", "data": {"text": "x" * 100}}
            took.append(await self.call(publish=message))
            at += 1 / per_s
        return took


@asynccontextmanager
async def _clients(urls: list[str], secret: str, count: int) -> AsyncIterator[list[_Client]]:
    async with AsyncExitStack() as stack:
        clients = []
        for number in range(count):
            socket = await stack.enter_async_context(connect(urls[number % len(urls)], compression=None, proxy=None))
            clients.append(_Client(socket, number))
            token = jwt.encode({"sub": f"user{number}", "exp": time.time() + 3_600}, secret, algorithm="HS256")
            await clients[-1].call(connect={"token": token})
        yield clients


@contextmanager
def _cores(shared: bool) -> Iterator[Callable[[int], None]]:
    """Give the process that is named a core that nothing else started here has."""
    before = os.sched_getaffinity(0)
    if shared or len(before) < 2:
        yield lambda pid: None
        return
    own = {min(before)}

    def give(pid: int) -> None:
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), own)

    os.sched_setaffinity(0, before - own)
    try:
        yield give
    finally:
        os.sched_setaffinity(0, before)


class Turn(NamedTuple):
    """What one turn came to."""

    p99_ms: float  # of acknowledgements in the namespace without a hook
    edge_cpu: float  # share of a core that the edge took


async def measure(
    rounds: int, seconds: float, clients: int, per_s: float, others_per_s: float, share_cores: bool
) -> dict[str, list[Turn]]:
    """Return the turns of all rounds, by how the backend behaves."""
    rng = random.Random(_SEED)
    found: dict[str, list[Turn]] = {kind: [] for kind in (_WITHOUT, *_KINDS)}
    with tempfile.TemporaryDirectory() as folder, _cores(share_cores) as give, _backend() as (port, become):
        secret, hooks = Path(folder) / "secret", Path(folder) / "hooks.toml"
        secret.write_text(f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}\n")
        hooks.write_text(_HOOKS.format(port=port, secret=secret))
        async with (
            platform(edges=1, environment={"HOOKS_FILE": str(hooks)}, channels=_NAMESPACES) as target,
            _clients(list(target.where.urls), target.where.secret, 2 * clients) as all_clients,
        ):
            edge = target.pids()[_EDGE]
            give(edge)
            measured, others = all_clients[:clients], all_clients[clients:]
            for number in range(-1, rounds):  # the first warms up
                for kind in rng.sample(list(found), len(found)):
                    become(kind)
                    began, used = time.perf_counter(), cpu_s(edge)
                    until = began + seconds
                    noise = "free" if kind == _WITHOUT else "hooked"
                    publishing = [client.publish("free", per_s, until) for client in measured]
                    publishing += [client.publish(noise, others_per_s, until) for client in others]
                    took = (await asyncio.gather(*publishing))[:clients]
                    ordered = sorted(one for each in took for one in each)
                    if number >= 0:
                        share = (cpu_s(edge) - used) / (time.perf_counter() - began)
                        found[kind].append(Turn(ordered[int(len(ordered) * 0.99)] * 1_000, share))
    return found


def table(found: dict[str, list[Turn]]) -> str:
    """Return a row for each way in which the backend behaves."""

    def ratio(kind: str, control: str) -> str:
        if kind == control:
            return "1"
        ratios = [one.p99_ms / base.p99_ms for one, base in zip(found[kind], found[control], strict=True)]
        low, high = interval(ratios)
        return f"{median(ratios):.2f} ({low:.2f}–{high:.2f})"

    well = _KINDS[0]
    lines = [
        "| backend | p99 of a namespace without hooks, ms | to no hook | to a hook that is well | CPU of the edge |",
        "|---|---:|---:|---:|---:|",
    ]
    for kind, turns in found.items():
        p99, cpu = median(one.p99_ms for one in turns), median(one.edge_cpu for one in turns)
        to_well = "" if kind == _WITHOUT else ratio(kind, well)
        lines.append(f"| {kind} | {p99:.2f} | {ratio(kind, _WITHOUT)} | {to_well} | {cpu:.1%} |")
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--rounds", default=15, show_default=True)
@click.option("--seconds", default=2.0, show_default=True, help="Of a turn.")
@click.option("--clients", default=20, show_default=True, help="Of each of the two namespaces.")
@click.option("--per-s", default=10.0, show_default=True, help="Publications of a client without a hook.")
@click.option("--others-per-s", default=2.0, show_default=True, help="The same of one with a hook.")
@click.option("--share-cores", is_flag=True, help="Give the edge no core of its own.")
@click.option("--serve", is_flag=True, hidden=True, help="Be the backend.")
def main(
    rounds: int, seconds: float, clients: int, per_s: float, others_per_s: float, share_cores: bool, serve: bool
) -> None:
    """Compare p99 in a namespace without hooks while the backend of another fails."""
    if serve:
        asyncio.run(_serve())
        return
    click.echo(table(asyncio.run(measure(rounds, seconds, clients, per_s, others_per_s, share_cores))))


if __name__ == "__main__":
    main()
