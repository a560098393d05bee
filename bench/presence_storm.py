"""`python -m bench.presence_storm`: thousands of members, on processes.

They join one channel at once, with and without `presence_event_rate`, and then do nothing: CPU of each process,
commands of Redis. A roster of 100,000 is read in pages by `presence.members` over a WebSocket.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import click
import redis.asyncio

from bench.load.fleet import Fleet
from bench.load.frames import sign_token
from bench.measure.proc import cpu_s
from bench.presence import fill
from bench.servers.platform import platform
from bench.servers.target import Target
from services.shared.redis.client import redis_client
from verify.socket import open_socket

_CHANNELS = """
[namespaces.crowd]
durability = "hot"
presence = true
join_leave = "force"
subscribe = ["authenticated"]
presence_read = ["authenticated"]

[namespaces.calm]
durability = "hot"
presence = true
join_leave = "force"
presence_event_rate = RATE
subscribe = ["authenticated"]
presence_read = ["authenticated"]
"""
_AT_A_TIME = 200
_WARM = 250
_SETTLES_S = 3.0
_IDLE_S = 20.0
_QUIET_S = 1.5
_QUIET_WITHIN_S = 180.0
_PAGE = 1_000


async def measure(clients: int, members: int, rate: int) -> dict[str, str]:
    """Return the figures, by what they measure."""
    figures: dict[str, str] = {}
    channels = _CHANNELS.replace("RATE", str(rate))
    async with platform(edges=2, channels=channels, environment={"EDGE_CONNECTIONS_PER_USER": "0"}) as target:
        conn = redis_client(_redis_url(target))
        async with Fleet(2) as fleet:
            await fleet.connect(_WARM, target.where, ["crowd:warm", "calm:warm"])
            await fleet.close()
            await asyncio.sleep(_SETTLES_S)
            figures |= await _idle(target, conn, "nobody")
            for name, text in (("crowd", "storm"), ("calm", f"storm, presence_event_rate = {rate}")):
                figures |= await _storm(fleet, target, conn, f"{name}:storm", clients, text)
                if name == "crowd":
                    figures |= await _idle(target, conn, f"{clients:,} members")
                await fleet.close()
                await asyncio.sleep(_SETTLES_S)
        await fill(_redis_url(target), "crowd:large", members)
        figures |= await _pages(target, "crowd:large", members)
        await conn.aclose()
    return figures


async def _storm(
    fleet: Fleet, target: Target, conn: redis.asyncio.Redis, channel: str, clients: int, text: str
) -> dict[str, str]:
    await fleet.counters(reset=True)
    before, commands, began = _cpu(target), await _commands(conn), time.monotonic()
    report = await fleet.connect(clients, target.where, [channel], at_a_time=_AT_A_TIME, join_leave=True)
    seen = await _quiet(fleet)
    told_s = time.monotonic() - began - _QUIET_S
    commands = await _commands(conn) - commands
    used = _cpu(target)
    counters = await fleet.counters()
    return {
        f"{text}: until all were in, s": f"{report.took_s:.1f}",
        f"{text}: until the last join was told, s": f"{told_s:.0f}",
        f"{text}: joins told per client": f"{seen / clients:,.0f}",
        f"{text}: bytes per client": f"{counters.bytes_received / clients:,.0f}",
        f"{text}: commands of Redis per client": f"{commands / clients:.1f}",
        f"{text}: CPU per client, µs": _by_process(before, used, 1e6 / clients, 0),
    }


async def _idle(target: Target, conn: redis.asyncio.Redis, text: str) -> dict[str, str]:
    await asyncio.sleep(_SETTLES_S)
    before, commands, began = _cpu(target), await _commands(conn), time.monotonic()
    await asyncio.sleep(_IDLE_S)
    commands, took = await _commands(conn) - commands, time.monotonic() - began
    return {
        f"idle, {text}: commands of Redis per second": f"{commands / took:.1f}",
        f"idle, {text}: CPU, % of a core": _by_process(before, _cpu(target), 100 / took, 2),
    }


async def _pages(target: Target, channel: str, members: int) -> dict[str, str]:
    socket = await open_socket(target.where.urls[0], lambda push: None, lambda code: None)
    await socket.call(connect={"token": sign_token(target.where.secret, "reader")})
    took, cursor, seen = list[float](), "", set[str]()
    before = _cpu(target)
    while True:
        began = time.perf_counter()
        data = {"channel": channel, "limit": _PAGE, "cursor": cursor}
        page = (await socket.call(rpc={"method": "presence.members", "data": data}))["data"]
        took.append(1e3 * (time.perf_counter() - began))
        seen |= {one["client"] for one in page["members"]}
        cursor = page.get("cursor", "")
        if not cursor:
            break
    socket.close()
    assert len(seen) == members
    used = _by_process(before, _cpu(target), 1e3 / len(took), 1)
    return {
        f"a page of {_PAGE:,} of {members:,} members by rpc, ms: first, median, longest": (
            f"{took[0]:.1f}, {median(took):.1f}, {max(took):.1f}"
        ),
        "CPU of a page, ms": used,
    }


def _cpu(target: Target) -> dict[str, float]:
    return {name: cpu_s(pid) for name, pid in target.pids().items()}


def _by_process(before: Mapping[str, float], after: Mapping[str, float], factor: float, digits: int) -> str:
    used = {name: factor * (after[name] - before[name]) for name in before}
    edges = sum(figure for name, figure in used.items() if name.startswith("edge"))
    return f"edges {edges:,.{digits}f}, presence {used['presence']:,.{digits}f}, Redis {used['redis']:,.{digits}f}"


async def _commands(conn: redis.asyncio.Redis) -> int:
    return int((await conn.info("stats"))["total_commands_processed"])


async def _quiet(fleet: Fleet) -> int:
    """Wait until no more joins come; return how many came."""
    deadline, seen = time.monotonic() + _QUIET_WITHIN_S, -1
    while (now := (await fleet.counters()).joins) != seen and time.monotonic() < deadline:
        seen = now
        await asyncio.sleep(_QUIET_S)
    return now


def _redis_url(target: Target) -> str:
    words = Path(f"/proc/{target.pids()['redis']}/cmdline").read_text()
    address = next(word for word in words.replace("\0", " ").split() if word.startswith("127.0.0.1:"))
    return f"redis://{address}/0"


@click.command()
@click.option("--clients", default=5_000, show_default=True, help="clients of two edges that come at once")
@click.option("--members", default=100_000, show_default=True, help="members of the roster that is read in pages")
@click.option("--rate", default=50, show_default=True, help="`presence_event_rate` of the second storm")
def main(clients: int, members: int, rate: int) -> None:
    """Print a table of figures."""
    click.echo("| | |\n|---|---|")
    for what, figure in asyncio.run(measure(clients, members, rate)).items():
        click.echo(f"| {what} | {figure} |")


if __name__ == "__main__":
    main()
