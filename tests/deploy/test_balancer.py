"""The balancer's configuration in a real HAProxy.

Its limit of new connections per address.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.deploy.tools import ROOT, command
from tests.support.faults import free_port

CONFIG = (ROOT / "deploy" / "balancer" / "haproxy.cfg").read_text(encoding="utf-8")
HANDSHAKE = (
    b"GET /connection/websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
PLAIN = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
REPLY = b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
Ask = Callable[[bytes], Awaitable[bytes]]


async def _edge(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Stands for an edge: one reply to whatever comes."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(REPLY)
    writer.close()


def _here(port: int, edge: int) -> str:
    """The configuration without TLS and DNS, for an edge of this machine."""
    text = CONFIG
    for found, instead in (
        (r"bind :8000", f"bind 127.0.0.1:{port}"),
        (r"bind :8443 ssl.*", ""),
        (r"bind :8404", f"bind 127.0.0.1:{free_port()}"),
        (r"default-server .*", ""),
        (r"server-template .*", f"server edge 127.0.0.1:{edge}"),
    ):
        text, count = re.subn(found, instead, text)
        assert count == 1, found
    return text


@asynccontextmanager
async def balancer(folder: Path, per_address: int) -> AsyncIterator[Ask]:
    """Yield what sends a request to a running balancer.

    It returns the head of the response.
    """
    program, port = command("haproxy"), free_port()
    async with AsyncExitStack() as exits:
        edge = await exits.enter_async_context(await asyncio.start_server(_edge, "127.0.0.1", 0))
        config = folder / "haproxy.cfg"
        config.write_text(_here(port, edge.sockets[0].getsockname()[1]), encoding="utf-8")
        environment = {"BALANCER_MAX_CONNECTIONS": "200", "EDGE_SLOTS": "1-2"}
        environment["BALANCER_NEW_CONNECTIONS_PER_ADDRESS"] = str(per_address)
        process = await asyncio.create_subprocess_exec(program, "-db", "-f", str(config), env=environment)
        exits.push_async_callback(process.wait)
        exits.callback(process.kill)

        async def ask(request: bytes) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(request)
                return await reader.readuntil(b"\r\n\r\n")
            finally:
                writer.close()

        async with asyncio.timeout(30):
            while True:
                try:
                    await ask(PLAIN)
                    break
                except (ConnectionError, asyncio.IncompleteReadError):
                    assert process.returncode is None, "HAProxy refuses its configuration"
                    await asyncio.sleep(0.05)
        yield ask


async def test_handshakes_of_one_address_beyond_the_limit_get_429(tmp_path: Path) -> None:
    async with balancer(tmp_path, 5) as ask:
        started = time.monotonic()
        heads = await asyncio.gather(*(ask(HANDSHAKE) for _ in range(40)))
        passed = [head for head in heads if head.startswith(b"HTTP/1.1 426 ")]
        refused = [head for head in heads if head.startswith(b"HTTP/1.1 429 ")]
        assert len(passed) + len(refused) == 40, set(heads)
        assert 5 <= len(passed) <= 5 + 5 * (time.monotonic() - started)
        assert all(b"retry-after: 1\r\n" in head.lower() for head in refused)
        assert (await ask(PLAIN)).startswith(b"HTTP/1.1 426 "), "other requests are not counted"
        await asyncio.sleep(2.1)
        assert (await ask(HANDSHAKE)).startswith(b"HTTP/1.1 426 ")


async def test_at_zero_there_is_no_limit(tmp_path: Path) -> None:
    async with balancer(tmp_path, 0) as ask:
        heads = await asyncio.gather(*(ask(HANDSHAKE) for _ in range(100)))
        assert all(head.startswith(b"HTTP/1.1 426 ") for head in heads)


def test_the_stack_gives_the_balancer_every_setting_that_it_reads() -> None:
    stack = (ROOT / "dev-stack.yml").read_text(encoding="utf-8")
    read = set(re.findall(r'"\$\{([A-Z_]+)\}"', CONFIG))
    assert read == {"BALANCER_MAX_CONNECTIONS", "BALANCER_NEW_CONNECTIONS_PER_ADDRESS", "EDGE_SLOTS"}
    for name in read:
        assert f"      {name}: ${{{name}:-" in stack


@pytest.mark.parametrize("per_address", [0, 20])
def test_haproxy_takes_the_whole_configuration(tmp_path: Path, per_address: int) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text(re.sub(r"bind :8443 ssl.*", "", CONFIG), encoding="utf-8")
    environment = {"BALANCER_MAX_CONNECTIONS": "200", "EDGE_SLOTS": "1-2"}
    environment["BALANCER_NEW_CONNECTIONS_PER_ADDRESS"] = str(per_address)
    checked = subprocess.run(
        [command("haproxy"), "-c", "-f", config], env=environment, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
