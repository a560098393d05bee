"""Clients that come and go, each for a moment."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from bench.load.client import Tally
from bench.load.commands import Churn
from bench.load.histogram import Histogram
from bench.load.opening import open_client
from bench.load.visits import visit

_LEAVES_WITHIN_S = 10.0
_SOURCES = 16  # a port waits for a minute after a proper end; 16 addresses of this machine have 16 times as many


@dataclass(slots=True)
class Seen:
    """What became of them."""

    gone: int = 0
    failures: list[str] = field(default_factory=list)
    opened: Histogram = field(default_factory=Histogram)  # µs from when it was to come, to subscribed


async def churn(command: Churn, tally: Tally) -> Seen:
    """Have all of the command's clients come and go."""
    loop = asyncio.get_running_loop()
    seen = Seen()
    waiting = iter(range(command.count))
    began = loop.time()

    async def come_and_go() -> None:
        for index in waiting:
            due = loop.time()
            if command.per_s:
                due = began + index / command.per_s
                await asyncio.sleep(max(0.0, due - loop.time()))
            try:
                await _visit(command, command.first + index, tally, seen, due)
                seen.gone += 1
            except (OSError, TimeoutError) as error:
                seen.failures.append(f"client {command.first + index}: {error or type(error).__name__}")

    await asyncio.gather(*(come_and_go() for _ in range(command.at_a_time)))
    seen.opened = seen.opened.folded()
    return seen


async def _visit(command: Churn, number: int, tally: Tally, seen: Seen, due: float) -> None:
    source = f"127.0.0.{2 + number % _SOURCES}"
    if command.kind:
        await visit(command.kind, command.where, number, source)
        seen.opened.record_all([round((asyncio.get_running_loop().time() - due) * 1_000_000)])
        return
    client, _ = await open_client(command.where, command.channels, number, tally, source=source)
    seen.opened.record_all([round((asyncio.get_running_loop().time() - due) * 1_000_000)])
    await asyncio.sleep(command.stays_s)
    if number % 2:
        client.reset()
    else:
        async with asyncio.timeout(_LEAVES_WITHIN_S):
            await client.leave()
