"""The processes of the load generator, as one."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from bench.load.clock import clock_from
from bench.load.commands import Burst, Churn, Close, Command, Connect, Lockstep, Publish, ReadCounters, Report, Where
from bench.load.dialects import PAYLOAD_BYTES
from bench.load.histogram import Histogram

_ROOT = Path(__file__).resolve().parents[2]
_LONGEST_LINE = 1 << 26
_LOOK_EVERY_S = 0.02
_START_IN_US = 20_000
_ENDS_WITHIN_S = 10.0


class LoadFailed(Exception):
    """The load could not be made as ordered; figures would be of something else."""


class Fleet:
    """So many processes, with the clients spread over them; a context manager."""

    def __init__(self, processes: int) -> None:
        self._count = processes
        self._processes: list[asyncio.subprocess.Process] = []
        self._base_ns = time.monotonic_ns()
        self._clock = clock_from(self._base_ns)

    async def __aenter__(self) -> Self:
        for _ in range(self._count):
            self._processes.append(
                await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "bench.load.worker",
                    str(self._base_ns),
                    cwd=_ROOT,
                    env={**os.environ, "PYTHONPATH": str(_ROOT)},
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    limit=_LONGEST_LINE,
                )
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            try:
                await asyncio.wait_for(process.wait(), _ENDS_WITHIN_S)
            except TimeoutError:
                process.kill()
                await process.wait()

    async def connect(
        self,
        clients: int,
        where: Where,
        channels: Sequence[str],
        *,
        at_a_time: int = 100,
        join_leave: bool = False,
        positions: Mapping[str, tuple[int, str]] | None = None,
        payload_bytes: int = PAYLOAD_BYTES,
        payload: str = "",
        beginning: int = 0,
    ) -> Report:
        """Open and subscribe clients, numbered from `beginning`.

        Raises:
            LoadFailed: not all of them could.
        """
        return await self._send(
            [
                Connect(
                    where=where,
                    channels=list(channels),
                    first=beginning + first,
                    count=count,
                    at_a_time=max(1, at_a_time // self._count),
                    join_leave=join_leave,
                    positions=dict(positions or {}),
                    payload_bytes=payload_bytes,
                    payload=payload,
                )
                for first, count in self._shares(clients)
            ]
        )

    async def churn(
        self,
        clients: int,
        where: Where,
        channels: Sequence[str],
        *,
        at_a_time: int,
        kind: str = "",
        beginning: int = 0,
        per_s: float = 0.0,
        stays_s: float = 0.0,
    ) -> Report:
        """Have clients come and go, from number `beginning` on; count those that failed."""
        return await self._ask_all(
            [
                Churn(
                    where=where,
                    channels=list(channels),
                    first=beginning + first,
                    count=count,
                    kind=kind,
                    at_a_time=max(1, at_a_time // self._count),
                    per_s=per_s / self._count,
                    stays_s=stays_s,
                )
                for first, count in self._shares(clients)
            ]
        )

    def _shares(self, clients: int) -> Iterator[tuple[int, int]]:
        """(first, how many) of each process."""
        for process in range(self._count):
            first, last = (clients * number // self._count for number in (process, process + 1))
            yield first, last - first

    async def publish(self, per_s: float, seconds: float) -> Report:
        """Send on schedule; returns when the last one is sent."""
        start = self._clock() + _START_IN_US
        each = per_s / self._count
        return await self._send(
            [
                Publish(start=start + number * 1_000_000 / per_s, per_s=each, seconds=seconds)
                for number in range(self._count)
            ]
        )

    async def burst(self, window: int, seconds: float) -> Report:
        """The first process sends as fast as it goes, all receive."""
        others: list[Command] = [ReadCounters()] * (self._count - 1)
        return await self._send([Burst(window=window, seconds=seconds), *others])

    async def lockstep(self, *, batch: int, batches: int, members: int) -> Report:
        """The first process sends, and has all clients that are to receive."""
        return await self._send([Lockstep(batch=batch, batches=batches, members=members)])

    async def close(self, *, abruptly: bool = False) -> Report:
        """End all connections."""
        return await self._send([Close(abruptly=abruptly)] * self._count)

    async def counters(self, *, reset: bool = False) -> Report:
        """What was counted so far."""
        return await self._send([ReadCounters(reset=reset)] * self._count)

    async def settled(self, sent: int, *, members: int, within_s: float) -> bool:
        """Wait until all publications have replies and deliveries; return whether they do."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            seen = await self.counters()
            if seen.delivered + seen.refused * members >= sent * members and seen.acked + seen.refused >= sent:
                return True
            await asyncio.sleep(_LOOK_EVERY_S)
        return False

    async def _send(self, commands: Sequence[Command]) -> Report:
        whole = await self._ask_all(commands)
        if whole.trouble:
            raise LoadFailed(f"{whole.failed} of the load generator's clients failed; the first one: {whole.trouble}")
        return whole

    async def _ask_all(self, commands: Sequence[Command]) -> Report:
        return merged(await asyncio.gather(*map(_ask, self._processes, commands)))


async def _ask(process: asyncio.subprocess.Process, command: Command) -> Report:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(msgspec.json.encode(command) + b"\n")
    line = await process.stdout.readline()
    if not line:
        raise LoadFailed("a process of the load generator died")
    return msgspec.json.decode(line, type=Report)


def merged(reports: Sequence[Report]) -> Report:
    """What several processes report, as one."""
    whole = Report(
        trouble=next((report.trouble for report in reports if report.trouble), ""),
        took_s=max(report.took_s for report in reports),
    )
    for name in (
        "sent",
        "open",
        "failed",
        "gone",
        "lost",
        "acked",
        "refused",
        "delivered",
        "joins",
        "bytes_received",
        "cpu_s",
    ):
        setattr(whole, name, sum(getattr(report, name) for report in reports))
    for name in ("connect_us", "ack_us", "delivery_us"):
        histogram = Histogram()
        for report in reports:
            histogram.merge(Histogram(getattr(report, name)))
        setattr(whole, name, dict(histogram.counts))
    for report in reports:
        whole.positions.update(report.positions)
    return whole
