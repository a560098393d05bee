"""Publishing faster than a stack can take: connections that send on a schedule and wait for nobody."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import msgspec

from tests.support.stack import Stack
from verify import events as e
from verify.context import Run
from verify.measure import percentile
from verify.socket import Socket, open_socket

_CONNECTIONS = 100
_MEASURE_S = 4.0
_OVERLOAD_S = 30.0
_FACTOR = 3
_TICK_S = 0.05
_CHANNELS = 10
_encode = msgspec.json.encode


class Overload:
    """Finds out what the stack can take, then offers three times as much for 30 s."""

    def __init__(self, run: Run, stack: Stack) -> None:
        self._run, self._stack = run, stack
        self._channels = [f"chat:overload-{stack.secret[:6]}-{number}" for number in range(_CHANNELS)]
        self._sockets: list[_Pipelined] = []
        self.findings: list[str] = []
        self.remarks: list[str] = []

    async def run(self) -> None:
        """All of it; what is wrong is in `findings`."""
        for number in range(_CONNECTIONS):
            url = self._run.edge(number)
            self._sockets.append(
                await _Pipelined.connect(url, self._stack.token(f"o{number}"), self._channels[number % _CHANNELS])
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
        self.remarks.append(
            f"capacity {capacity:.0f}/s (p99 {percentile(base, 0.99) * 1000:.0f} ms); "
            f"offered {offered / _OVERLOAD_S:.0f}/s, acked {acked / _OVERLOAD_S:.0f}/s with p99 {p99 * 1000:.0f} ms, "
            f"refused {dict(refused)}"
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
        tops = 0
        for channel in self._channels:
            one = next(one for one in self._sockets if one.channel == channel)
            tops += (await one.socket.call(history={"channel": channel, "limit": 0})).get("offset", 0)
        everything = acked + sum(one.acked_before for one in self._sockets)
        if tops < everything:
            self.findings.append(f"{everything} acknowledged, {tops} kept")
        self._run.note(e.Fault(at=self._run.now(), name=f"{tops} kept of {everything} acknowledged", on=False))


class _Pipelined:
    """A connection that publishes without waiting."""

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.socket: Socket
        self.sent: dict[int, float] = {}
        self.latencies: list[float] = []
        self.errors: Counter[int] = Counter()
        self.acked = 0
        self.acked_before = 0
        self._next = 1_000
        self._until = 0.0

    @classmethod
    async def connect(cls, url: str, token: str, channel: str) -> _Pipelined:
        made = cls(channel)
        made.socket = await open_socket(url, lambda push: None, lambda code: None)
        made.socket.on_other_reply = made._reply
        await made.socket.call(connect={"token": token})
        await made.socket.call(subscribe={"channel": channel})
        return made

    def forget(self) -> None:
        """Begin to count anew."""
        self.acked_before += self.acked
        self.acked = 0
        self.latencies.clear()
        self.errors.clear()

    def keep_going(self, *, until: float, under_way: int) -> None:
        self._until = until
        self.publish(under_way)

    def publish(self, count: int) -> None:
        """So many in one frame."""
        now = time.monotonic()
        lines = []
        for _ in range(count):
            self._next += 1
            self.sent[self._next] = now
            lines.append(_encode({"id": self._next, "publish": {"channel": self.channel, "data": {"n": self._next}}}))
        self.socket.send_text(b"\n".join(lines))

    def _reply(self, reply: dict[str, Any]) -> None:
        began = self.sent.pop(reply.get("id", 0), None)
        if began is None:
            return
        now = time.monotonic()
        if "error" in reply:
            self.errors[reply["error"].get("code", 0)] += 1
        else:
            self.acked += 1
            self.latencies.append(now - began)
        if now < self._until:
            self.publish(1)
