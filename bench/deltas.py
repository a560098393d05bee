"""`python -m bench.deltas`: what deltas cost and save, as a Markdown table.

One platform, and for each of JSON, JSON with deltas, Protobuf and Protobuf with deltas two channels: one with a single
subscriber, one with many. Each round publishes to all of them in turn, so that what disturbs the machine disturbs all.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

import click

from bench.load.counting import CountingClient, opened
from bench.load.frames import binary_frame, sign_token, text_frame
from bench.measure.usage import usage
from bench.servers.platform import platform
from bench.servers.target import Target
from thalamus.client.v1 import client_pb2 as pb

_CHANNELS = """
[namespaces.states]
delta = "fossil"
subscribe = ["authenticated"]
publish = ["authenticated"]
"""
_SETTINGS = {"EDGE_PING_INTERVAL_S": "0", "EDGE_COMMANDS_PER_S": "0"}
_PAUSE_S = 0.01  # between publications
_SILENCE_S = 2.0
_CHANGED = 20  # one row in so many changes with each publication, at least one
KINDS = (("JSON", ""), ("JSON", "fossil"), ("Protobuf", ""), ("Protobuf", "fossil"))


@dataclass
class Group:
    """The subscribers of a channel, and what was measured of them."""

    channel: str
    clients: list[CountingClient]
    cpu_us: list[float] = field(default_factory=list)  # of a publication, by round
    bytes: list[float] = field(default_factory=list)  # of a delivery, by round


def states(size: int, rng: random.Random) -> Iterator[dict[str, object]]:
    """Yield states of about `size` bytes; a few values change from one to the next."""
    rows: list[dict[str, object]] = []
    while not rows or len(json.dumps(rows, separators=(",", ":"))) < size - 20:
        rows.append(
            {"name": f"item-{len(rows):04}", "price": rng.randrange(10_000) / 100, "amount": rng.randrange(500)}
        )
    while True:
        for row in rng.sample(rows, max(1, len(rows) // _CHANGED)):
            row["price"] = rng.randrange(10_000) / 100
        yield {"rows": rows}


def _command(encoding: str, request: dict[str, object]) -> bytes:
    if encoding == "JSON":
        return text_frame(json.dumps(request).encode())
    command = pb.Command(id=request["id"])  # type: ignore[arg-type]
    for name in ("connect", "subscribe"):
        if name in request:
            for member, value in request[name].items():  # type: ignore[attr-defined]
                setattr(getattr(command, name), member, value)
    body = command.SerializeToString()
    assert len(body) < 1 << 14
    length = bytes([len(body)]) if len(body) < 0x80 else bytes([len(body) & 0x7F | 0x80, len(body) >> 7])
    return binary_frame(length + body)


async def _group(target: Target, encoding: str, delta: str, count: int) -> Group:
    channel = f"states:{encoding}-{delta}-{count}"
    url = target.where.urls[0] + ("?format=protobuf" if encoding == "Protobuf" else "")
    clients = []
    for number in range(count):
        client = await opened(url)
        token = sign_token(target.where.secret, f"{channel}-{number}")
        client.transport.write(_command(encoding, {"id": 1, "connect": {"token": token}}))
        await client.until(2)
        client.transport.write(_command(encoding, {"id": 2, "subscribe": {"channel": channel, "delta": delta}}))
        await client.until(3)
        clients.append(client)
    return Group(channel, clients)


async def _silence(target: Target) -> float:
    """Seconds of CPU for each second, while nothing is published."""
    before = usage(target.pids())
    await asyncio.sleep(_SILENCE_S)
    after = usage(target.pids())
    return after.cpu_since(before) / (after.at_s - before.at_s)


async def _round(target: Target, publisher: CountingClient, group: Group, data: list[str], silence: float) -> None:
    """Publish the data; note CPU of each publication and bytes of each delivery.

    CPU is that beyond silence.
    """
    was = [(client.messages, client.bytes) for client in group.clients]
    before = usage(target.pids())
    for text in data:
        command = f'{{"id":1,"publish":{{"channel":"{group.channel}","data":{text}}}}}'
        publisher.transport.write(text_frame(command.encode()))
        await asyncio.sleep(_PAUSE_S)
    for client, (messages, _) in zip(group.clients, was, strict=True):
        await client.until(messages + len(data))
    deliveries = len(data) * len(group.clients)
    after = usage(target.pids())
    group.cpu_us.append((after.cpu_since(before) - silence * (after.at_s - before.at_s)) * 1e6 / len(data))
    received = sum(client.bytes - then for client, (_, then) in zip(group.clients, was, strict=True))
    group.bytes.append(received / deliveries)


async def measure(sizes: list[int], subscribers: int, publications: int, rounds: int) -> str:
    """Return the table, with medians of the rounds."""
    head = ["bytes of data", "encoding", "bytes of a delivery", "CPU of a publication to one subscriber, µs"]
    head.append(f"CPU of a delivery, of {subscribers:,} for each publication, µs")
    lines = ["| " + " | ".join(head) + " |", "|---:|---|---:|---:|---:|"]
    async with platform(edges=1, environment=_SETTINGS, channels=_CHANNELS) as target:
        publisher = await opened(target.where.urls[0])
        publisher.transport.write(
            _command("JSON", {"id": 1, "connect": {"token": sign_token(target.where.secret, "p")}})
        )
        await publisher.until(2)
        groups = {(kind, count): await _group(target, *kind, count) for kind in KINDS for count in (1, subscribers)}
        silence = await _silence(target)
        for size in sizes:
            source = states(size, random.Random(size))
            for group in groups.values():
                group.cpu_us.clear()
                group.bytes.clear()
            for _ in range(rounds):
                data = [json.dumps(next(source), separators=(",", ":")) for _ in range(publications)]
                for group in groups.values():
                    await _round(target, publisher, group, data, silence)
            for kind in KINDS:
                one, many = groups[kind, 1], groups[kind, subscribers]
                name = kind[0] + (" with deltas" if kind[1] else "")
                cells = [f"{size:,}", name, f"{median(many.bytes):,.0f}", f"{median(one.cpu_us):,.0f}"]
                lines.append("| " + " | ".join([*cells, f"{median(many.cpu_us) / subscribers:.2f}"]) + " |")
                click.echo(lines[-1], err=True)
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--sizes", default="200,1000,4000,16000", show_default=True, help="Bytes of data, with commas between.")
@click.option("--subscribers", default=500, show_default=True)
@click.option("--publications", default=50, show_default=True, help="In a round.")
@click.option("--rounds", default=5, show_default=True)
def main(sizes: str, subscribers: int, publications: int, rounds: int) -> None:
    """CPU of all processes for a publication and a delivery, and bytes of a delivery."""
    click.echo(asyncio.run(measure(list(map(int, sizes.split(","))), subscribers, publications, rounds)))


if __name__ == "__main__":
    main()
