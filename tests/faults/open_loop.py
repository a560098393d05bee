"""Publishing faster than a stack can take.

Connections that send on a schedule and wait for nobody.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from tests.support.pipelined import Pipelined
from tests.support.stack import Stack
from verify.context import Run
from verify.measure import percentile

_CONNECTIONS = 100
_MEASURE_S = 4.0
_OVERLOAD_S = 30.0
_FACTOR = 3
_TICK_S = 0.05
_CHANNELS = 50
_DELIVERED_S = 10.0


class Overload:
    """Finds out what the stack can take, then offers three times as much for 30 s."""

    def __init__(self, run: Run, stack: Stack) -> None:
        self._run, self._stack = run, stack
        self._channels = [f"chat:overload-{stack.secret[:6]}-{number}" for number in range(_CHANNELS)]
        self._sockets: list[Pipelined] = []
        self.findings: list[str] = []
        self.remarks: list[str] = []

    async def run(self) -> None:
        """All of it; what is wrong is in `findings`."""
        for number in range(_CONNECTIONS):
            url = self._run.edge(number)
            self._sockets.append(
                await Pipelined.connect(url, self._stack.token(f"o{number}"), self._channels[number % _CHANNELS])
            )
        capacity = await self._closed_loop()
        base = self._latencies()
        for one in self._sockets:
            one.forget()
        offered = await self._open_loop(capacity * _FACTOR)
        await asyncio.sleep(6.0)
        acked = sum(one.acked for one in self._sockets)
        refused: Counter[int] = sum((one.errors for one in self._sockets), Counter())
        silent = sum(len(one.sent) for one in self._sockets)
        p99 = percentile(self._latencies(), 0.99)
        refusal_ms = percentile([took for one in self._sockets for took in one.refusals], 0.99) * 1000
        self.remarks.append(
            f"capacity {capacity:.0f}/s (p99 {percentile(base, 0.99) * 1000:.0f} ms); "
            f"offered {offered / _OVERLOAD_S:.0f}/s, acked {acked / _OVERLOAD_S:.0f}/s with p99 {p99 * 1000:.0f} ms, "
            f"refused {dict(refused)} after p99 {refusal_ms:.0f} ms"
        )
        if not refused.get(111):
            self.findings.append("nothing was refused by name")
        if set(refused) - {111, 100}:
            self.findings.append(f"refused as {dict(refused)}")
        if silent:
            self.findings.append(f"{silent} publications were never answered")
        if p99 > 2.0:
            self.findings.append(f"p99 of what was acknowledged is {p99:.2f} s")
        await self._all_delivered(acked)
        for one in self._sockets:
            one.socket.close()

    async def _closed_loop(self) -> float:
        """Publications a second with eight under way per connection."""
        end = time.monotonic() + _MEASURE_S
        for one in self._sockets:
            one.keep_going(until=end, under_way=8)
        await asyncio.sleep(_MEASURE_S + 1.0)
        return sum(one.acked for one in self._sockets) / _MEASURE_S

    async def _open_loop(self, rate: float) -> int:
        began, sent = time.monotonic(), 0
        while (passed := time.monotonic() - began) < _OVERLOAD_S:
            due = int(rate * passed) - sent
            share = -(-due // _CONNECTIONS)
            for one in self._sockets:
                if share > 0:
                    one.publish(share)
                    sent += share
            await asyncio.sleep(_TICK_S)
        return sent

    def _latencies(self) -> list[float]:
        return [took for one in self._sockets for took in one.latencies]

    async def _all_delivered(self, acked: int) -> None:
        """What was acknowledged is in the logs: their tops count it."""
        gone = sum(one.closed is not None for one in self._sockets)
        if gone:
            self.findings.append(
                f"{gone} connections were ended: {[one.closed for one in self._sockets if one.closed]}"
            )
            return
        tops: dict[str, int] = {}
        for one in self._sockets:
            if one.channel not in tops:
                found = await one.socket.call(30.0, history={"channel": one.channel, "limit": 0})
                tops[one.channel] = found.get("offset", 0)
        everything = acked + sum(one.acked_before for one in self._sockets)
        if sum(tops.values()) < everything:
            self.findings.append(f"{everything} acknowledged, {sum(tops.values())} kept")
        deadline = time.monotonic() + _DELIVERED_S
        while any(one.last < tops[one.channel] for one in self._sockets) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        behind = sum(tops[one.channel] - one.last for one in self._sockets)
        holes = sum(one.holes for one in self._sockets)
        if behind or holes:
            self.findings.append(f"{behind} not delivered, {holes} holes")
