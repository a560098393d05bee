"""Clients whose tokens a fault is about.

They note what the server did with them, and when.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Self

import httpx

from tests.faults.scenario import World
from verify.socket import Closed, CommandError, Socket, open_socket

BASE_S = 8.0  # nothing happens before, seconds
ANSWER_S = 5.0  # longest wait for an answer, seconds
EXPIRED_TOKEN = 109
INVALID_TOKEN, EXPIRED_CLOSE, REVOKED_CLOSE = 3500, 3005, 3503
_BETWEEN_S = 0.1  # two publications of `publish_numbers`


class Member:
    """One connection. Nothing brings it back when it ends."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.connected: dict[str, Any] = {}  # the result of connect
        self.began = time.monotonic()
        self.received: list[Any] = []  # data of publications, in order
        self.closed_at = 0.0  # monotonic seconds; 0: it is open
        self.code = 0  # of its close frame
        self.ended = asyncio.Event()
        self._socket: Socket | None = None

    @classmethod
    async def join(cls, url: str, token: str, *channels: str) -> Self:
        """Connect and subscribe.

        Raises:
            Closed: the server closed the connection, or refused it.
            CommandError: an error reply.
            TimeoutError: no reply.
        """
        made = cls(url)
        made._socket = await open_socket(url, made._on_push, made._on_closed)
        try:
            made.connected = await made.call(connect={"token": token})
            for channel in channels:
                await made.call(subscribe={"channel": channel})
        except BaseException:
            made.leave()
            raise
        return made

    @property
    def is_open(self) -> bool:
        return self._socket is not None and not self.ended.is_set()

    async def call(self, **request: Any) -> dict[str, Any]:
        """Return the result of one command; raise as `join`."""
        assert self._socket is not None
        return await self._socket.call(ANSWER_S, **request)

    def leave(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def _on_push(self, push: dict[str, Any]) -> None:
        if "pub" in push:
            self.received.append(push["pub"].get("data"))

    def _on_closed(self, code: int) -> None:
        self.closed_at, self.code = time.monotonic(), code
        self.ended.set()


async def outcome(url: str, token: str) -> int:
    """Connect with a token; return 0, or the code of the close or the error.

    1: the server did not answer as it should.
    """
    try:
        member = await Member.join(url, token)
    except Closed as closed:
        return closed.code or 1
    except CommandError as error:
        return error.code
    except TimeoutError:
        return 1
    member.leave()
    return 0


async def publish_numbers(world: World, channel: str, until: float, *, edge: int = 0) -> int:
    """Publish 0, 1, 2 and so on until then, in monotonic seconds; return how many.

    Raises:
        httpx.HTTPError, AssertionError: one was not acknowledged.
    """
    count = 0
    headers = {"X-API-Key": world.stack.api_key}
    async with httpx.AsyncClient(base_url=world.stack.http_urls[edge], headers=headers, timeout=ANSWER_S) as http:
        while time.monotonic() < until:
            response = (await http.post("/api/publish", json={"channel": channel, "data": count})).json()
            assert "error" not in response, response
            count += 1
            await asyncio.sleep(_BETWEEN_S)
    return count
