"""EDGE_WORKERS: edges on one port.

Clients spread over them, one may die or drain alone, and all end together.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.stack import Stack
from tests.support.wire_client import WireClient
from tests.support.workers import LIMIT_S, LoneEdge, is_gone, suspend, until, workers_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux spreads connections over processes")

CHANNEL = "chat:workers"
SETTINGS = {"EDGE_WORKERS": "2", "EDGE_NAME": "site"}
MANY = 24  # connections: one chance in 2 ** 23 that the kernel gives all to one worker


class Site:
    """A stack whose one edge is two workers, and clients of it that end with the test."""

    def __init__(self, stack: Stack, exits: AsyncExitStack) -> None:
        self.stack = stack
        self._exits = exits
        first = urlsplit(stack.internal_urls["edge-1"])
        self.internal = [f"http://{first.hostname}:{(first.port or 0) + step}" for step in range(2)]

    def pids(self) -> dict[int, int]:
        return workers_of(self.stack.pid("edge-1"))

    async def ready(self) -> None:
        """Wait until both workers are."""
        async with asyncio.timeout(LIMIT_S), httpx.AsyncClient() as http:
            for url in self.internal:
                while True:
                    try:
                        if (await http.get(f"{url}/readyz")).status_code == 200:
                            break
                    except httpx.TransportError:
                        pass
                    await asyncio.sleep(0.05)

    async def open_websockets(self) -> list[int]:
        """Of each worker, from its own metrics."""
        async with httpx.AsyncClient() as http:
            pages = [(await http.get(f"{url}/metrics")).text for url in self.internal]
        return [
            int(float(value)) for page in pages for value in re.findall(r'connections\{kind="websocket"\} (\S+)', page)
        ]

    async def join(self, count: int = MANY, **options: object) -> list[WireClient]:
        clients = [await self._exits.enter_async_context(WireClient(self.stack.ws_urls[0])) for _ in range(count)]
        for number, client in enumerate(clients):
            await client.connect(self.stack.token(f"user{number}"))
            await client.subscribe(CHANNEL, **options)
        return clients


def start_stack(**environment: str) -> Stack:
    return Stack(edges=1, restart=False, environment={**SETTINGS, **environment})


@pytest.fixture(scope="module")
def running() -> Iterator[Stack]:
    with start_stack() as stack:
        yield stack


@pytest.fixture
async def site(running: Stack) -> AsyncIterator[Site]:
    async with AsyncExitStack() as exits:
        site = Site(running, exits)
        await site.ready()
        yield site


async def closed(clients: list[WireClient], count: int) -> dict[WireClient, int]:
    """The first so many that the server ends, with their codes."""

    async def code(client: WireClient) -> tuple[WireClient, int]:
        return client, (await client.expect_close(LIMIT_S))[0]

    codes: dict[WireClient, int] = {}
    waiting = [asyncio.create_task(code(client)) for client in clients]
    for ended in asyncio.as_completed(waiting):
        client, codes[client] = await ended
        if len(codes) == count:
            break
    for task in waiting:
        task.cancel()
    return codes


async def test_clients_are_spread_over_workers_that_are_edges_of_their_own(site: Site) -> None:
    await site.join()
    opened = await site.open_websockets()
    assert sum(opened) == MANY
    assert min(opened) > 0
    async with httpx.AsyncClient(headers={"X-API-Key": site.stack.api_key}) as http:
        nodes = (await http.post(f"{site.stack.http_urls[0]}/api/info", json={})).json()["result"]["nodes"]
    assert sorted(node["name"] for node in nodes) == ["site-1", "site-2"]
    assert len({node["uid"] for node in nodes}) == 2
    assert sorted(node["num_clients"] for node in nodes) == sorted(opened)
    started = [json.loads(line) for line in site.stack.lines("edge-1") if '"msg": "started"' in line]
    assert {line["edge"]: line["worker"] for line in started} == {node["uid"]: int(node["name"][-1]) for node in nodes}


async def test_everybody_hears_everybody_in_one_order_across_workers(site: Site) -> None:
    clients = await site.join()
    await asyncio.gather(*(client.publish(CHANNEL, number) for number, client in enumerate(clients)))
    received = [await client.publications(CHANNEL, MANY) for client in clients]
    assert all(each == received[0] for each in received)
    assert sorted(each["data"] for each in received[0]) == list(range(MANY))


async def test_a_killed_worker_takes_its_own_clients_with_it_and_comes_back(site: Site) -> None:
    clients = await site.join()
    before, (theirs, _) = site.pids(), await site.open_websockets()
    os.kill(before[1], signal.SIGKILL)
    lost = await closed(clients, theirs)
    assert set(lost.values()) == {1006}
    kept = [client for client in clients if client not in lost]
    position = await kept[0].publish(CHANNEL, "missed")
    assert [(await client.publication(CHANNEL))["data"] for client in kept] == ["missed"] * len(kept)
    await site.ready()
    after = site.pids()
    assert after[2] == before[2]
    assert after[1] != before[1]
    back = await site.join(MANY, recover=True, offset=position["offset"] - 1, epoch=position["epoch"])
    assert min(await site.open_websockets()) > 0
    await kept[0].publish(CHANNEL, "all here")
    for client in back:
        results = [line["subscribe"] for line in client.lines if "subscribe" in line]
        assert [one["data"] for one in results[0]["publications"]] == ["missed"]
        assert (await client.publication(CHANNEL))["data"] == "all here"
    (told,) = [line for line in site.stack.lines("edge-1") if "a worker died" in line]
    assert '"worker": 1' in told
    assert "was killed by SIGKILL" in told


async def test_a_worker_that_drains_leaves_the_new_to_the_others_and_is_replaced(site: Site) -> None:
    clients = await site.join()
    before, (_, theirs) = site.pids(), await site.open_websockets()
    os.kill(before[2], signal.SIGTERM)
    lost = asyncio.create_task(closed(clients, theirs))
    async with httpx.AsyncClient() as http:
        while (await http.get(f"{site.internal[1]}/readyz")).status_code == 200:
            await asyncio.sleep(0.01)
    await site.join()  # while it drains: nobody is refused
    assert not is_gone(before[2])
    assert set((await lost).values()) == {3001}
    await asyncio.to_thread(until, lambda: is_gone(before[2]), "its end")
    await site.ready()
    assert site.pids()[1] == before[1]
    assert site.pids()[2] != before[2]


@pytest.mark.parametrize("everyone", [False, True], ids=["the parent alone", "everyone at once"])
@pytest.mark.slow
async def test_asked_to_stop_all_workers_drain_and_the_code_is_zero(everyone: bool) -> None:
    with start_stack() as stack:
        async with AsyncExitStack() as exits:
            site = Site(stack, exits)
            await site.ready()
            clients = await site.join()
            parent, workers = stack.pid("edge-1"), site.pids()
            if everyone:  # as Ctrl-C and systemd do
                os.killpg(parent, signal.SIGINT)
            else:
                os.kill(parent, signal.SIGTERM)
            assert list((await closed(clients, MANY)).values()) == [3001] * MANY
            await asyncio.to_thread(until, lambda: stack.supervisor.children["edge-1"].deaths == 1, "its end")
            assert stack.supervisor.children["edge-1"].last_code == 0
            assert all(is_gone(pid) for pid in workers.values())


def test_no_worker_outlives_a_killed_parent() -> None:
    with LoneEdge(SETTINGS) as edge:
        workers = edge.workers(2)
        edge.process.kill()
        edge.process.wait()
        until(lambda: all(is_gone(pid) for pid in workers.values()), "the end of all workers")
        until(edge.group_is_empty, "the end of everything")


def test_a_second_signal_ends_everything_at_once() -> None:
    with LoneEdge(SETTINGS) as edge:
        workers = edge.workers(2)
        suspend(workers[1])  # one that would never drain
        edge.process.terminate()
        until(lambda: is_gone(workers[2]), "the drain of the other")
        edge.process.terminate()
        edge.end()
        until(edge.group_is_empty, "the end of everything")


def test_a_worker_that_is_killed_in_its_drain_is_told_by_exit_code_one() -> None:
    with LoneEdge(SETTINGS) as edge:
        workers = edge.workers(2)
        suspend(workers[1])
        edge.process.terminate()
        until(lambda: is_gone(workers[2]), "the drain of the other")
        os.kill(workers[1], signal.SIGKILL)
        assert edge.end()[0] == 1


def test_a_public_port_that_another_site_shares_is_refused_in_one_line() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        port = listen(other)
        with LoneEdge({**SETTINGS, "EDGE_PORT": str(port)}) as edge:
            line = f"thalamus edge: public port {port} on 127.0.0.1 can't be used: Address already in use"
            assert edge.end() == (2, "", [line])


@pytest.mark.parametrize("workers", ["2", "4"])
@pytest.mark.slow
def test_a_setting_that_every_worker_refuses_is_told_once_and_leaves_no_process(workers: str, tmp_path: Path) -> None:
    missing = tmp_path / "channels.toml"
    with LoneEdge({"EDGE_WORKERS": workers, "CHANNELS_FILE": str(missing)}) as edge:
        code, out, lines = edge.end()
        assert (code, out, len(lines)) == (2, "", 1)
        assert lines[0].startswith("thalamus edge: ")
        assert str(missing) in lines[0]
        until(edge.group_is_empty, "the end of everything")


def test_an_internal_port_that_one_worker_cannot_have_is_told_in_one_line() -> None:
    with ExitStack() as others:
        taken = listen(others.enter_context(socket.socket()))
        while not is_free(taken - 1):
            taken = listen(others.enter_context(socket.socket()))
        with LoneEdge({**SETTINGS, "EDGE_INTERNAL_PORT": str(taken - 1)}) as edge:
            code, out, lines = edge.end()
            assert (code, out, len(lines)) == (2, "", 1)
            assert lines[0].startswith(f"thalamus edge: internal port {taken} on 127.0.0.1 can't be used: ")
            until(edge.group_is_empty, "the end of everything")


def is_free(port: int) -> bool:
    with socket.socket() as one, suppress(OSError):
        one.bind(("127.0.0.1", port))
        return True
    return False


def listen(server: socket.socket) -> int:
    """On any free port, which is returned."""
    server.bind(("127.0.0.1", 0))
    server.listen()
    port: int = server.getsockname()[1]
    return port
