"""A connection that publishes without waiting, for high load."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import msgspec

from verify.socket import Socket, open_socket

_encode = msgspec.json.encode


class Pipelined:
    """A connection that publishes without waiting."""

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.socket: Socket
        self.sent: dict[int, float] = {}
        self.latencies: list[float] = []
        self.refusals: list[float] = []
        self.errors: Counter[int] = Counter()
        self.acked = 0
        self.acked_before = 0
        self.last = 0
        self.holes = 0
        self.closed: int | None = None
        self._next = 1_000
        self._until = 0.0

    @classmethod
    async def connect(cls, url: str, token: str, channel: str) -> Pipelined:
        made = cls(channel)
        made.socket = await open_socket(url, made._pushed, made._closed)
        made.socket.on_other_reply = made._reply
        await made.socket.call(connect={"token": token})
        await made.socket.call(
            subscribe={"channel": channel},
            on_reply=lambda reply: setattr(made, "last", reply["subscribe"].get("offset", 0)),
        )
        return made

    def _pushed(self, push: dict[str, Any]) -> None:
        if "pub" in push:
            offset = push["pub"].get("offset", 0)
            self.holes += offset != self.last + 1
            self.last = offset

    def _closed(self, code: int) -> None:
        self.closed = code

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
            self.refusals.append(now - began)
        else:
            self.acked += 1
            self.latencies.append(now - began)
        if now < self._until:
            self.publish(1)
