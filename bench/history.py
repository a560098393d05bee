"""`python -m bench.history`: how long a page of a long history takes.

A file of SQLite gets a channel with a million publications, before the platform starts on it. Then one client asks an
edge for pages of it, one after the other: the newest, and pages from anywhere, forwards and backwards. Redis has none
of them, so all come from the store. Each page is checked: it has the offsets that it must have, without a hole.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles
from typing import Any

import click

from bench.callers import Caller, caller
from bench.servers.platform import platform
from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.domain.ports import Row
from services.shared.hotlog.keys import pair
from thalamus.common.v1 import common_pb2

_CHANNEL = "kept:history"
_CHANNELS = '\n[namespaces.kept]\ndurability = "stored"\nsubscribe = ["authenticated"]\nhistory = ["authenticated"]\n'
_SETTINGS = {"EDGE_COMMANDS_PER_S": "0"}
_AT_ONCE = 2_000  # rows of one transaction
_DAYS = 400.0  # over which the publications are spread
_WARM = 20  # pages before the first one that counts
_SEED = 1


async def _fill(data: Path, publications: int, size: int) -> None:
    """Write the publications into the file that persistence will open."""
    began = time.time() - _DAYS * 86_400
    now = began
    store = SqliteLogStore(data / "persistence.sqlite3", clock=lambda: now)
    chance = random.Random(_SEED)
    await store.open(_CHANNEL)
    for first in range(1, publications + 1, _AT_ONCE):
        rows = []
        for offset in range(first, min(first + _AT_ONCE, publications + 1)):
            now = began + _DAYS * 86_400 * offset / publications
            one = common_pb2.Publication(
                id=chance.randbytes(16), data=b'{"text":"%s"}' % (b"x" * size), time_ms=int(now * 1_000)
            )
            rows.append(Row(_CHANNEL, offset, one.id, one.SerializeToString(), pair("bench", str(offset))))
        await store.write(rows)
    await store.close()


async def _pages(client: Caller, count: int, ask: Callable[[], tuple[dict[str, Any], list[int]]]) -> list[float]:
    """Ask for pages; return how long each took, ms."""
    took = []
    for number in range(_WARM + count):
        request, wanted = ask()
        began = time.perf_counter()
        found = await client.ask(history={"channel": _CHANNEL, **request})
        if number >= _WARM:
            took.append(1e3 * (time.perf_counter() - began))
        offsets = [one["offset"] for one in found["publications"]]
        if offsets != wanted:
            raise click.ClickException(f"{request}: offsets {offsets[:3]} … in place of {wanted[:3]} …")
    return took


async def measure(*, publications: int, size: int, page: int, pages: int) -> str:
    """Return a table with a row for each kind of page."""
    chance = random.Random(_SEED)
    lines = ["| page | p50, ms | p99, ms | longest, ms |", "|---|---:|---:|---:|"]

    def newest() -> tuple[dict[str, Any], list[int]]:
        return {"limit": page, "reverse": True}, [*range(publications, publications - page, -1)]

    def forwards() -> tuple[dict[str, Any], list[int]]:
        offset = chance.randrange(1, publications - page)
        since = {"offset": offset, "epoch": epoch}
        return {"limit": page, "since": since}, [*range(offset + 1, offset + page + 1)]

    def backwards() -> tuple[dict[str, Any], list[int]]:
        offset = chance.randrange(page + 1, publications)
        since = {"offset": offset, "epoch": epoch}
        return {"limit": page, "since": since, "reverse": True}, [*range(offset - 1, offset - page - 1, -1)]

    async def prepare(data: Path) -> None:
        await _fill(data, publications, size)

    running = platform(edges=1, environment=_SETTINGS, channels=_CHANNELS, prepare=prepare)
    async with running as target, caller(target, "reader") as client:
        epoch = (await client.ask(history={"channel": _CHANNEL, "limit": 0}))["epoch"]
        kinds = {"newest": newest, "from anywhere, forwards": forwards, "from anywhere, backwards": backwards}
        for name, ask in kinds.items():
            took = await _pages(client, pages, ask)
            cuts = quantiles(took, n=100, method="inclusive")
            lines.append(f"| {name} | {cuts[49]:.1f} | {cuts[98]:.1f} | {max(took):.1f} |")
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--publications", default=1_000_000, show_default=True, help="Of the channel.")
@click.option("--size", default=80, show_default=True, help="Characters of each.")
@click.option("--page", default=100, show_default=True, help="Publications of a page.")
@click.option("--pages", default=1_000, show_default=True, help="Of each kind.")
def main(publications: int, size: int, page: int, pages: int) -> None:
    """Measure how long a page of a long history takes."""
    click.echo(asyncio.run(measure(publications=publications, size=size, page=page, pages=pages)))


if __name__ == "__main__":
    main()
