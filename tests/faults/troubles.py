"""What each fault does to a stack. Each leaves everything as it was."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from tests.faults.open_loop import Overload
from tests.faults.scenario import World
from tests.support import faults
from tests.support.stack import Stack
from tests.support.tcp_proxy import BackgroundProxy, TcpProxy
from verify.check import Outcome
from verify.measure import percentile
from verify.socket import Closed, open_socket

_BASE_S = 8.0  # nothing happens before


async def kill_edges(world: World) -> None:
    for number in range(4):
        await world.until(_BASE_S + 7 * number)
        name = f"edge-{number % 3 + 1}"
        async with world.fault(f"kill -9 {name}"):
            await world.do(world.stack.kill9, name)
            await world.do(world.stack.wait_ready, name, 30.0)


async def kill_redis(world: World) -> None:
    await world.until(_BASE_S)
    async with world.fault("Redis killed"):
        await world.do(world.stack.kill9, "redis")
        await asyncio.sleep(3)
        await world.do(world.stack.start, "redis")


async def empty_redis(world: World) -> None:
    await world.until(_BASE_S)
    async with world.fault("Redis killed, back empty"):
        await world.do(world.stack.kill9, "redis")
        shutil.rmtree(world.stack.data / "redis" / "appendonlydir")
        await asyncio.sleep(1)
        await world.do(world.stack.start, "redis")


async def stop_redis(world: World) -> None:
    await world.until(_BASE_S)
    async with world.fault("Redis stopped"):
        world.stack.stop("redis")
        try:
            await asyncio.sleep(10)
        finally:
            world.stack.cont("redis")


async def kill_pubsub(world: World) -> None:
    port = int(world.stack.redis_url.rsplit(":", 1)[1].split("/")[0])
    for number in range(4):
        await world.until(_BASE_S + 4 * number)
        async with world.fault("CLIENT KILL TYPE pubsub"):
            if not await world.do(faults.kill_pubsub, port):
                world.findings.append("there was no pub/sub connection to kill")


def edge_behind_proxy(exits: ExitStack) -> dict[str, Any]:
    port = faults.free_port()
    proxy = exits.enter_context(BackgroundProxy("127.0.0.1", port))
    return {
        "environment": {"REDIS_PORT": str(port)},
        "environment_of": {"edge-1": {"REDIS_URL": f"redis://127.0.0.1:{proxy.port}/0"}},
        "extras": {"proxy": proxy},
    }


def first_edge_is_harmed(stack: Stack, exits: ExitStack) -> dict[str, Any]:
    return {"extras": {"harmed_edge": stack.ws_urls[0]}}


async def cut_one_edge(world: World) -> None:
    await world.until(_BASE_S)
    proxy: BackgroundProxy = world.extras["proxy"]
    async with world.fault("edge-1 cut from Redis"):
        proxy.do(TcpProxy.cut)
        try:
            await asyncio.sleep(20)
        finally:
            proxy.do(TcpProxy.heal)


def others_unharmed(outcome: Outcome, world: World) -> list[str]:
    base = percentile(outcome.figures.base, 0.99)
    during = percentile(outcome.figures.unharmed, 0.99)
    world.remarks.append(f"others p99 {during * 1000:.0f} ms, base {base * 1000:.0f} ms")
    return [] if during <= 1.5 * base + 0.01 else [f"others' p99 is {during:.3f} s, base {base:.3f} s"]


def proxies(stack: Stack, exits: ExitStack) -> dict[str, Any]:
    """Clients reach the edges through proxies that delay by 50 ms each way."""
    made = []
    for url in stack.http_urls:
        proxy = exits.enter_context(BackgroundProxy("127.0.0.1", int(url.rsplit(":", 1)[1])))
        made.append(proxy)
    return {
        "websockets": [f"ws://127.0.0.1:{proxy.port}/connection/websocket" for proxy in made],
        "extras": {"proxies": made},
    }


async def bad_network(world: World) -> None:
    await world.until(_BASE_S)
    ports = [proxy.port for proxy in world.extras["proxies"]]
    async with world.fault("5 % loss, 100 ms"):
        for proxy in world.extras["proxies"]:
            proxy.do(lambda one: setattr(one, "delay_s", 0.05))
        with faults.packet_loss(ports, 0.05):
            await asyncio.sleep(20)
        for proxy in world.extras["proxies"]:
            proxy.do(lambda one: setattr(one, "delay_s", 0.0))


async def stop_then_kill_persistence(world: World) -> None:
    await world.until(_BASE_S)
    async with world.fault("persistence stopped, then killed"):
        world.stack.stop("persistence")
        await asyncio.sleep(30)
        await world.do(world.stack.kill9, "persistence")
        await world.do(world.stack.start, "persistence")


async def slow_reader(world: World) -> None:
    """The plan has one; it must be told 3008, and recover."""
    await world.until(_BASE_S)
    async with httpx.AsyncClient() as client:
        while world.run.now() < 28:
            closes = 0.0
            for name, url in world.stack.internal_urls.items():
                if name.startswith("edge"):
                    text = (await client.get(f"{url}/metrics")).text
                    for line in text.splitlines():
                        if line.startswith("thalamus_edge_websocket_closes_total") and "3008" in line:
                            closes += float(line.rsplit(" ", 1)[1])
            if closes >= 1:
                world.remarks.append(f"closed 3008 after {world.run.now():.0f} s")
                return
            await asyncio.sleep(0.25)
    world.findings.append("the slow reader was not closed")


async def overload(world: World) -> None:
    await world.until(_BASE_S)
    async with world.fault("3 x capacity"):
        overloaded = Overload(world.run, world.stack)
        await overloaded.run()
    world.findings += overloaded.findings
    world.remarks += overloaded.remarks


def shifted_edges(exits: ExitStack) -> dict[str, Any]:
    return {
        "environment_of": {
            "edge-1": faults.shifted_clock(120) or {},
            "edge-2": faults.shifted_clock(-120) or {},
        }
    }


async def nothing(world: World) -> None:
    """The fault is in the stack itself."""
    await world.until(_BASE_S)
    async with world.fault("clocks of edge-1 and edge-2 off by 120 s"):
        await asyncio.sleep(15)


async def no_fault(world: World) -> None:
    """The clients' own comings and goings are enough."""


def small_disk(exits: ExitStack) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="thalamus-disk-"))
    exits.callback(shutil.rmtree, folder, ignore_errors=True)
    exits.enter_context(faults.small_disk(folder, 48))
    return {"environment": {"PERSISTENCE_DB": str(folder / "persistence.sqlite3")}, "extras": {"disk": folder}}


async def disk_full(world: World) -> None:
    await world.until(_BASE_S)
    pid = world.stack.pid("persistence")
    async with world.fault("disk full"):
        with faults.full_disk(world.extras["disk"]):
            await asyncio.sleep(10)
    if world.stack.pid("persistence") != pid:
        world.findings.append("persistence was started anew")


async def memory_cap(world: World) -> None:
    """Many slow readers against a small bound of all outboxes.

    The edge sheds them and stays.
    """
    await world.until(2.0)
    names = [f"edge-{number}" for number in (1, 2, 3)]
    pids = {name: world.stack.pid(name) for name in names}
    before = {name: faults.resident_kib(pid) for name, pid in pids.items()}
    most = dict(before)
    async with world.fault("20 slow readers, outboxes capped at 4 MiB"):
        while world.run.now() < 26:
            for name, pid in pids.items():
                with contextlib.suppress(FileNotFoundError):
                    most[name] = max(most[name], faults.resident_kib(pid))
            await asyncio.sleep(0.25)
    for name, pid in pids.items():
        if world.stack.supervisor.children[name].pid != pid:
            world.findings.append(f"{name} died")
    grown = max(most[name] - before[name] for name in names) / 1024
    world.remarks.append(f"grew by {grown:.0f} MiB at most")
    if grown > 96:
        world.findings.append(f"an edge grew by {grown:.0f} MiB")


def edge_with_few_files(exits: ExitStack) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="thalamus-files-"))
    exits.callback(shutil.rmtree, folder, ignore_errors=True)
    return {"environment_of": {"edge-1": faults.few_files(folder, 400)}}


async def files_run_out(world: World) -> None:
    """An edge may open few more files than it has.

    Its cap answers 503, what is open goes on, health answers.
    """
    await world.until(_BASE_S)
    edge, url = "edge-1", world.stack.ws_urls[0]
    opened: list[Any] = []
    refused = 0
    async with world.fault("file descriptors run out"):
        for _ in range(600):
            try:
                opened.append(await open_socket(url, lambda push: None, lambda code: None))
            except Closed:
                refused += 1
        if not refused:
            world.findings.append("nobody was refused")
        async with httpx.AsyncClient(timeout=3) as client:
            for path in ("healthz", "readyz", "metrics"):
                response = await client.get(f"{world.stack.internal_urls[edge]}/{path}")
                if response.status_code != 200:
                    world.findings.append(f"/{path} answers {response.status_code}")
            with contextlib.suppress(httpx.HTTPError):
                response = await client.get(world.stack.http_urls[0] + "/")
                if response.status_code != 503:
                    world.findings.append(f"a full edge answers {response.status_code}")
        world.remarks.append(
            f"{len(opened)} more let in, {refused} refused, {faults.open_files(world.stack.pid(edge))} files"
        )
        for socket in opened:
            socket.close()
