"""`python -m bench.compression`: what permessage-deflate costs and saves.

One edge with `EDGE_COMPRESSION`, and two groups of clients on it: one offers compression, the other does not. Each
round publishes to one group and then to the other, so that what disturbs the machine disturbs both.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from statistics import median
from urllib.parse import urlsplit

import click

from bench.load.frames import sign_token, text_frame, upgrade_request
from bench.measure.usage import usage
from bench.servers.platform import platform
from bench.servers.target import Target

_OFFER = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
_SETTINGS = {"EDGE_COMPRESSION": "true", "EDGE_PING_INTERVAL_S": "0", "EDGE_COMMANDS_PER_S": "0"}
_PAUSE_S = 0.01  # between publications
_WITHIN_S = 60.0
_WORDS = ["the", "order", "room", "changed", "by", "alice", "now", "open", "for", "bids", "until", "noon", "friday"]


class _Client(asyncio.Protocol):
    """Counts the frames and bytes that come.

    It inflates nothing: that would cost the machine more than the edge.
    """

    def __init__(self, *, compresses: bool) -> None:
        self.compresses = compresses
        self.frames = self.bytes = 0
        self.received, self.opened = asyncio.Event(), asyncio.Event()
        self._buffer = b""
        self._open = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # TCP
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._open:
            head, separator, rest = self._buffer.partition(b"\r\n\r\n")
            if not separator:
                return
            if b" 101 " not in head or (b"permessage-deflate" in head) != self.compresses:
                raise ValueError(f"not what was asked for: {head!r}")
            self.opened.set()
            self._open, self._buffer = True, rest
        at, buffer = 0, self._buffer
        while len(buffer) - at >= 2:
            size, start = buffer[at + 1], at + 2
            if size == 126:
                size, start = int.from_bytes(buffer[at + 2 : at + 4], "big"), at + 4
            elif size == 127:
                size, start = int.from_bytes(buffer[at + 2 : at + 10], "big"), at + 10
            if start + size > len(buffer):
                break
            self.frames += 1
            self.bytes += start + size - at
            at = start + size
        self._buffer = buffer[at:]
        self.received.set()

    async def until(self, frames: int) -> None:
        async with asyncio.timeout(_WITHIN_S):
            while self.frames < frames:
                self.received.clear()
                await self.received.wait()

    def command(self, **request: object) -> None:
        self.transport.write(text_frame(json.dumps({"id": 1, **request}).encode()))


async def _group(target: Target, count: int, channel: str, *, compresses: bool) -> list[_Client]:
    url = urlsplit(target.where.urls[0])
    request = upgrade_request(url.netloc, url.path)
    if compresses:
        request = request[:-2] + _OFFER
    clients = []
    for number in range(count):
        _, client = await asyncio.get_running_loop().create_connection(
            lambda: _Client(compresses=compresses), url.hostname or "", url.port or 0
        )
        client.transport.write(request)
        await asyncio.wait_for(client.opened.wait(), _WITHIN_S)
        client.command(connect={"token": sign_token(target.where.secret, f"{channel}-{number}")})
        client.command(subscribe={"channel": channel})
        await client.until(2)
        clients.append(client)
    return clients


def _data(size: int, chance: random.Random) -> dict[str, object]:
    """Orders with a text, as an application might send them, of about so many bytes."""
    orders: list[dict[str, object]] = []
    while len(json.dumps(orders)) < size - 60:
        text = " ".join(chance.choices(_WORDS, k=6))
        orders.append({"id": chance.getrandbits(32), "price": chance.randrange(10_000) / 100, "text": text})
    return {"orders": orders}


class _Figures:
    """CPU and bytes of one group."""

    def __init__(self) -> None:
        self.cpu_us: list[float] = []
        self.bytes: list[float] = []


async def _round(
    target: Target, clients: Sequence[_Client], channel: str, data: Sequence[object], figures: _Figures
) -> None:
    """Publish the data; note CPU for each publication and bytes for each delivery."""
    was = [(client.frames, client.bytes) for client in clients]
    before = usage(target.pids())
    for each in data:
        clients[0].command(publish={"channel": channel, "data": each})
        await asyncio.sleep(_PAUSE_S)
    for number, client in enumerate(clients):
        await client.until(was[number][0] + len(data) * (1 if number else 2))  # the publisher hears a reply, too
    cpu_s = usage(target.pids()).cpu_since(before)
    figures.cpu_us.append(cpu_s * 1e6 / len(data))
    received = clients[1:] or clients
    figures.bytes.append(
        sum(client.bytes - then for client, (_, then) in zip(received, was[-len(received) :], strict=True))
        / (len(data) * len(received))
    )


def _edge_rss_kib(target: Target) -> int:
    return next(kib for name, kib in usage(target.pids()).rss.items() if name.startswith("edge"))


async def measure(sizes: Sequence[int], subscribers: int, publications: int, rounds: int) -> str:
    """Return the table, with medians of the rounds."""
    lines = [
        "| bytes of data | bytes of a delivery, off | on | CPU of a publication to 2, µs, off | on | of a delivery "
        f"of {subscribers:,}, µs, off | on |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    async with platform(edges=1, environment=_SETTINGS) as target:
        groups, rss = {}, {}
        for compresses in (False, True):
            for count in (2, subscribers):
                channel = f"live:compression-{compresses}-{count}"
                before = _edge_rss_kib(target)
                groups[compresses, count] = await _group(target, count, channel, compresses=compresses), channel
                rss[compresses, count] = (_edge_rss_kib(target) - before) / count
        for size in sizes:
            chance = random.Random(size)
            figures = {key: _Figures() for key in groups}
            for _ in range(rounds):
                data = [_data(size, chance) for _ in range(publications)]
                for key, (clients, channel) in groups.items():
                    await _round(target, clients, channel, data, figures[key])
            off, on = ([figures[compresses, count] for count in (2, subscribers)] for compresses in (False, True))
            cells = [f"{size:,}"]
            cells += [f"{median(side[1].bytes):,.0f}" for side in (off, on)]
            cells += [f"{median(side[0].cpu_us):,.0f}" for side in (off, on)]
            cells += [f"{median(side[1].cpu_us) / subscribers:.2f}" for side in (off, on)]
            lines.append("| " + " | ".join(cells) + " |")
            click.echo(lines[-1], err=True)
        lines.append("")
        for compresses in (False, True):
            what = "with" if compresses else "without"
            lines.append(f"RSS of a connection {what} compression: {rss[compresses, subscribers]:.1f} KiB.")
        after = _edge_rss_kib(target)
        lines.append(f"RSS of the edge with {2 * subscribers + 4:,} connections at the end: {after / 1024:.0f} MiB.")
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--sizes", default="200,500,2000,8000", show_default=True, help="Bytes of data, with commas between.")
@click.option("--subscribers", default=500, show_default=True)
@click.option("--publications", default=50, show_default=True, help="In a round.")
@click.option("--rounds", default=5, show_default=True)
def main(sizes: str, subscribers: int, publications: int, rounds: int) -> None:
    """Print CPU of a publication and a delivery, and bytes of a delivery.

    CPU is that of all processes. RSS of the edge at the end is printed, too.
    """
    click.echo(asyncio.run(measure(list(map(int, sizes.split(","))), subscribers, publications, rounds)))


if __name__ == "__main__":
    main()
