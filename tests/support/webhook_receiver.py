"""A receiver of webhooks over real HTTP, which may fail in every way.

It checks each signature with the library that receivers use, and keeps the history as docs/webhooks.md advises: sorted
by number, without repeats.
"""

from __future__ import annotations

import asyncio
import enum
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from standardwebhooks import Webhook

from tests.support.http_server import Asked, HttpServer

_HANG_S = 600.0
_LARGE = 10 << 20  # bytes of a large answer


class Manner(enum.Enum):
    """What the receiver does with a request."""

    TAKE = "take"
    FAIL = "fail"  # 500
    BUSY = "busy"  # 503, to be asked again after 1 s
    HANG = "hang"  # no answer
    LOSE = "lose"  # it takes the events, and closes the connection without an answer
    REDIRECT = "redirect"
    GARBAGE = "garbage"  # no HTTP
    LARGE = "large"  # it takes the events, and answers 10 MB


_STATUS = {Manner.TAKE: b"204 OK", Manner.FAIL: b"500 No", Manner.BUSY: b"503 No\r\nRetry-After: 1"}
_TAKEN = {Manner.TAKE, Manner.LOSE, Manner.LARGE}


@dataclass(frozen=True)
class Request:
    """One request: what came, and what was done with it."""

    path: str
    headers: dict[str, str]
    body: bytes
    manner: Manner

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def events(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.body)["events"]
        return found


def at_random(rng: random.Random, shares: dict[Manner, float]) -> Callable[[Request], Manner]:
    """Return a choice: one of each first, then these shares; the rest is taken."""
    first = rng.sample(list(shares), len(shares))  # else a short run lacks the rare ones now and then

    def choose(_: Request) -> Manner:
        if first:
            return first.pop()
        drawn = rng.random()
        for manner, share in shares.items():
            drawn -= share
            if drawn < 0:
                return manner
        return Manner.TAKE

    return choose


class WebhookReceiver(HttpServer):
    """The server.

    `choose` decides what to do with a request; it may be replaced at any time. `wrong` lists bad signatures.
    """

    def __init__(self, secret: str, choose: Callable[[Request], Manner] = lambda _: Manner.TAKE) -> None:
        super().__init__()
        self.secret, self.choose = secret, choose
        self.requests: list[Request] = []
        self.wrong: list[str] = []
        self.events: dict[str, dict[str, Any]] = {}  # taken, by id, in the order of their first arrival
        self.repeats = 0
        self.cut = 0  # answers that the other side did not read to their end

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def of(self, manner: Manner) -> list[Request]:
        return [one for one in self.requests if one.manner is manner]

    def history(self, *, by: str = "user") -> dict[str, list[dict[str, Any]]]:
        """Return events by user or channel, in the order of their numbers.

        Those of users have no channel.
        """
        found: dict[str, list[dict[str, Any]]] = {}
        for event in self.events.values():
            if by in event and event["type"] != "gap":
                found.setdefault(event[by], []).append(event)
        return {name: sorted(events, key=lambda event: int(event["number"])) for name, events in found.items()}

    async def answered(self, asked: Asked, writer: asyncio.StreamWriter) -> bool:
        headers, body = asked.headers, asked.body
        request = Request(asked.path, headers, body, Manner.TAKE)
        manner = self.choose(request)
        self.requests.append(Request(request.path, headers, body, manner))
        self._check(headers, body)
        if manner in _TAKEN:
            self._take(request.events)
        if manner is Manner.HANG:
            await asyncio.sleep(_HANG_S)
        elif manner is Manner.GARBAGE:
            writer.write(bytes(range(256)) * 16)
        elif manner is Manner.LARGE:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % _LARGE + bytes(_LARGE))
        elif manner is Manner.REDIRECT:
            writer.write(b"HTTP/1.1 307 Go\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n")
        elif manner is not Manner.LOSE:
            writer.write(b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n" % _STATUS[manner])
        try:
            await writer.drain()
        except ConnectionError:
            self.cut += 1
            raise
        return manner in (*_STATUS, Manner.REDIRECT)

    def _check(self, headers: dict[str, str], body: bytes) -> None:
        try:
            Webhook(self.secret).verify(body, headers)
        except Exception as error:
            self.wrong.append(f"{error!r} {headers}")

    def _take(self, events: Sequence[dict[str, Any]]) -> None:
        for event in events:
            if event["id"] in self.events:
                assert self.events[event["id"]] == event, "an event changed"
                self.repeats += 1
            self.events[event["id"]] = event
