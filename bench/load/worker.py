"""A process of the load generator: commands are lines on stdin, replies on stdout."""

from __future__ import annotations

import asyncio
import re
import sys
import time

import msgspec
import uvloop

from bench.load.churn import churn
from bench.load.client import Client, Tally
from bench.load.clock import clock_from
from bench.load.commands import Burst, Churn, Close, Command, Connect, Lockstep, Publish, ReadCounters, Report
from bench.load.histogram import Histogram
from bench.load.opening import channel_of, open_client

_TICK_S = 0.001
_FOLD_EVERY_S = 0.1
_BATCH_WITHIN_S = 15.0
_OFFSET, _EPOCH = re.compile(rb'"offset":(\d+)'), re.compile(rb'"epoch":"([^"]+)"')


class Worker:
    """The clients of one process."""

    def __init__(self, base_ns: int) -> None:
        self._clock = clock_from(base_ns)
        self._tally = Tally(self._clock)
        self._clients: list[Client] = []
        self._sent = 0
        self._failures: list[str] = []
        self._positions: dict[str, tuple[int, str]] = {}
        self._opened = Histogram()
        self._gone = 0

    async def fold(self) -> None:
        """Keep the lists of latencies short, for ever."""
        while True:
            await asyncio.sleep(_FOLD_EVERY_S)
            self._tally.fold()

    async def run(self, command: Command) -> Report:
        """Carry out an command."""
        started = time.perf_counter()
        match command:
            case Connect():
                await self._connect(command)
            case Churn():
                await self._churn(command)
            case Publish():
                await self._publish(command)
            case Burst():
                await self._burst(command)
            case Lockstep():
                await self._lockstep(command)
            case Close():
                self._close(command)
            case ReadCounters():
                pass
        report = self._report(
            with_histograms=isinstance(command, Connect | Churn)
            or (isinstance(command, ReadCounters) and command.reset)
        )
        report.took_s = time.perf_counter() - started
        if isinstance(command, ReadCounters) and command.reset:
            self._tally.reset()
            self._sent = 0
        return report

    def _report(self, *, with_histograms: bool) -> Report:
        tally = self._tally
        report = Report(
            sent=self._sent,
            open=len(self._clients),
            failed=len(self._failures),
            gone=self._gone,
            trouble=self._failures[0] if self._failures else "",
            lost=tally.lost,
            acked=tally.acked,
            refused=tally.refused,
            delivered=tally.delivered,
            joins=tally.joins,
            bytes_received=tally.bytes_received,
            cpu_s=time.process_time(),
            positions=self._positions,
        )
        if with_histograms:
            acks, deliveries = tally.histograms()
            report.ack_us, report.delivery_us = dict(acks.counts), dict(deliveries.counts)
            report.connect_us = dict(self._opened.folded().counts)
        return report

    async def _connect(self, command: Connect) -> None:
        self._failures.clear()
        self._opened = Histogram()
        waiting = iter(range(command.first, command.first + command.count))

        async def open_some() -> None:
            for number in waiting:
                started = self._clock()
                try:
                    await self._open(command, number)
                except (OSError, TimeoutError) as error:
                    self._failures.append(f"client {number}: {error or type(error).__name__}")
                self._opened.record_all([self._clock() - started])

        await asyncio.gather(*(open_some() for _ in range(command.at_a_time)))

    async def _churn(self, command: Churn) -> None:
        seen = await churn(command, self._tally)
        self._failures, self._opened, self._gone = seen.failures, seen.opened, seen.gone

    async def _open(self, command: Connect, number: int) -> None:
        channel = channel_of(command.channels, number)
        client, said = await open_client(
            command.where,
            command.channels,
            number,
            self._tally,
            join_leave=command.join_leave,
            position=command.positions.get(channel),
            payload_bytes=command.payload_bytes,
            payload=command.payload,
        )
        self._clients.append(client)
        if epoch := _EPOCH.search(said):
            offset = _OFFSET.search(said)
            self._positions[channel] = (int(offset[1]) if offset else 0, epoch[1].decode())

    async def _publish(self, command: Publish) -> None:
        total = int(command.per_s * command.seconds)
        between = 1_000_000 / command.per_s
        number = 0
        while number < total:
            due = min(total, int((self._clock() - command.start) / between) + 1)
            for each in range(number, due):
                self._clients[self._sent % len(self._clients)].publish(int(command.start + each * between))
                self._sent += 1
            number = max(number, due)
            await asyncio.sleep(_TICK_S)

    async def _burst(self, command: Burst) -> None:
        loop = asyncio.get_running_loop()
        ends = loop.time() + command.seconds
        clients, tally = self._clients, self._tally
        last = 0
        while loop.time() < ends:
            waiting = self._sent * len(clients) - tally.delivered
            for _ in range(command.window - waiting // len(clients)):
                last = max(self._clock(), last + 1)  # an id of its own for each
                clients[self._sent % len(clients)].publish(last)
                self._sent += 1
            await asyncio.sleep(_TICK_S)

    async def _lockstep(self, command: Lockstep) -> None:
        clients, tally = self._clients, self._tally
        last = 0
        for _ in range(command.batches):
            for _ in range(command.batch):
                last = max(self._clock(), last + 1)
                clients[self._sent % len(clients)].publish(last)
                self._sent += 1
            async with asyncio.timeout(_BATCH_WITHIN_S):
                while tally.acked < self._sent or tally.delivered < self._sent * command.members:
                    await asyncio.sleep(_TICK_S)

    def _close(self, command: Close) -> None:
        for client in self._clients:
            if command.abruptly:
                client.abort()
            else:
                client.close()
        self._clients.clear()


async def _main(base_ns: int) -> None:
    worker = Worker(base_ns)
    reader = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    decoder = msgspec.json.Decoder(Command)
    async with asyncio.TaskGroup() as group:
        folding = group.create_task(worker.fold())
        while line := await reader.readline():
            try:
                report = await worker.run(decoder.decode(line))
            except Exception as error:
                report = Report(trouble=f"{type(error).__name__}: {error}", failed=1)
            sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
            sys.stdout.buffer.flush()
        folding.cancel()


if __name__ == "__main__":
    uvloop.run(_main(int(sys.argv[1])))
