"""Compression with real clients.

`ws` on Node.js, Chromium, and centrifuge-python on an edge.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from centrifuge import Client, SubscriptionEventHandler
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from services.edge.transport.options import TransportOptions
from tests.edge.transport.support import PATH, Serve
from tests.support.edge import OPEN, Cluster
from tests.support.sdk import javascript  # noqa: F401  # a fixture
from tests.support.served_edge import ServedEdge
from tests.web.test_console import chromium  # noqa: F401  # a fixture

_HERE = Path(__file__).parent
_LIMIT_S = 60.0
_PAGE = """<!doctype html><script>
const socket = new WebSocket(`ws://${location.host}PATH`);
socket.binaryType = 'arraybuffer';
const texts = [10, 300, 5000, 40000].map(size => JSON.stringify({text: 'größe 😀 '.repeat(size / 10)}));
const bytes = [10, 300, 5000, 40000].map(size => Uint8Array.from({length: size}, (_, at) => at % 7));
const sent = [...texts, ...bytes];
let at = 0, wrong = 0;
socket.onopen = () => socket.send(sent[0]);
socket.onmessage = event => {
  const was = sent[at++];
  const same = typeof was === 'string' ? event.data === was
    : event.data.byteLength === was.length && new Uint8Array(event.data).every((one, index) => one === was[index]);
  wrong += !same;
  socket.send(at < sent.length ? sent[at] : JSON.stringify({done: at, wrong, extensions: socket.extensions}));
};
</script>""".replace("PATH", PATH)


async def test_ws_on_node_sends_and_gets_compressed_messages_and_fragments(
    serve: Serve,
    javascript: list[str],  # noqa: F811
) -> None:
    served = await serve(compression=True)
    process = await asyncio.create_subprocess_exec(
        javascript[0],
        str(_HERE / "compression_client.mjs"),
        served.url,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await asyncio.wait_for(process.communicate(), _LIMIT_S)
    assert process.returncode == 0, errors.decode()
    assert out.decode().strip() == "permessage-deflate"
    counters = served.server.counters
    assert counters.messages_received == 16
    assert counters.frames_compressed >= 8
    assert counters.bytes_received < sum(len(message) for message, _ in served.handlers[0].messages) / 2
    assert served.handlers[0].pings == 6


async def test_chromium_sends_and_gets_compressed_messages(
    serve: Serve,
    chromium: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    async def page(request: Request) -> HTMLResponse:
        return HTMLResponse(_PAGE)

    served = await serve(compression=True, app=Starlette(routes=[Route("/", page)]))
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--no-first-run")
    browser = await asyncio.create_subprocess_exec(
        chromium,
        *options,
        f"http://127.0.0.1:{served.port}/",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(_LIMIT_S):
            while not served.handlers or len(served.handlers[0].messages) < 9:
                await asyncio.sleep(0.05)
        counters = served.server.counters
        assert counters.compressed_websockets == 1
        assert counters.frames_compressed == 6
        said = json.loads(served.handlers[0].messages[-1][0])
        assert (said["done"], said["wrong"]) == (8, 0)
        assert said["extensions"].startswith("permessage-deflate")
        assert counters.bytes_received < sum(len(message) for message, _ in served.handlers[0].messages) / 4
    finally:
        if browser.returncode is None:
            browser.terminate()
        await browser.wait()


class _Kept(SubscriptionEventHandler):  # type: ignore[misc]  # the SDK has no types
    def __init__(self) -> None:
        self.data: list[Any] = []

    async def on_publication(self, ctx: Any) -> None:
        self.data.append(ctx.pub.data)


async def test_centrifuge_python_publishes_and_gets_short_and_long_publications() -> None:
    cluster = Cluster(default=OPEN)
    sent = [{"text": "größe 😀 " * count} for count in (1, 40, 500)]
    async with ServedEdge(cluster, options=TransportOptions(compression=True)) as edge:
        clients = [
            Client(f"ws://127.0.0.1:{edge.port}{PATH}", token=cluster.token(user)) for user in ("alice", "bob", "carol")
        ]
        kept = [_Kept() for _ in clients]
        for client, events in zip(clients, kept, strict=True):
            await client.connect()
            await client.ready(timeout=_LIMIT_S)
            subscription = client.new_subscription("room", events=events)
            await subscription.subscribe()
            await subscription.ready(timeout=_LIMIT_S)
        assert edge.server.counters.compressed_websockets == 3
        compressed = edge.server.counters.frames_compressed
        for data in sent:
            await subscription.publish(data)
        async with asyncio.timeout(_LIMIT_S):
            while any(len(events.data) < len(sent) for events in kept):
                await asyncio.sleep(0.01)
        assert all(events.data == sent for events in kept)
        assert edge.server.counters.frames_compressed == compressed + 2  # each long push once for three subscribers
        assert edge.server.counters.compression_saved_bytes > 3 * 5_000
        for client in clients:
            await client.disconnect()
        closing = [task for task in asyncio.all_tasks() if "_close_conn" in repr(task)]
        if closing:
            await asyncio.wait(closing, timeout=_LIMIT_S)
