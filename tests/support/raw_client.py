"""A client that speaks the JSON protocol by hand: exact frames out, every reply and push visible."""

from __future__ import annotations

import asyncio
import itertools
import json
from types import TracebackType
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

LIMIT_S = 8.0


class RawClient:
    """One connection. `replies` by id, `pushes` in order; pings are answered unless `pongs` is off."""

    def __init__(self, url: str, *, pongs: bool = True, headers: dict[str, str] | None = None) -> None:
        self._url = url
        self._pongs = pongs
        self._headers = headers
        self._ids = itertools.count(1)
        self._socket: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self.received: list[dict[str, Any]] = []  # everything, in the order it came
        self.frames: list[str | bytes] = []
        self.pings = 0
        self.close_code: int | None = None
        self.close_reason = ""
        self._next_push = 0

    async def __aenter__(self) -> RawClient:
        self._socket = await connect(
            self._url, additional_headers=self._headers, ping_interval=None, compression=None, max_size=None
        )
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._socket is not None
        assert self._reader is not None
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await asyncio.wait_for(self._socket.close(), LIMIT_S)

    @property
    def socket(self) -> ClientConnection:
        assert self._socket is not None
        return self._socket

    async def _read(self) -> None:
        try:
            async for frame in self.socket:
                self.frames.append(frame)
                for line in (frame if isinstance(frame, str) else frame.decode()).split("\n"):
                    reply = json.loads(line)
                    if reply == {}:
                        self.pings += 1
                        if self._pongs:
                            await self.socket.send("{}")
                    else:
                        self.received.append(reply)
                self._news.set()
        except ConnectionClosed:
            pass
        self.close_code = self.socket.close_code
        self.close_reason = self.socket.close_reason or ""
        self._news.set()

    async def _until(self, found: Any, what: str) -> Any:
        try:
            async with asyncio.timeout(LIMIT_S):
                while (value := found()) is None:
                    if self._reader is not None and self._reader.done():
                        value = found()
                        if value is not None:
                            return value
                        raise AssertionError(f"no {what}: closed {self.close_code} {self.close_reason}")
                    self._news.clear()
                    await self._news.wait()
                return value
        except TimeoutError:
            raise AssertionError(f"no {what}; received {self.received[-5:]}") from None

    async def send(self, frame: str | bytes) -> None:
        """One frame as it is."""
        await self.socket.send(frame)

    async def post(self, **request: Any) -> int:
        """One command with the next id; returns the id."""
        command_id = next(self._ids)
        await self.send(json.dumps({"id": command_id, **request}))
        return command_id

    async def reply(self, command_id: int) -> dict[str, Any]:
        """The reply with this id, whole."""

        def found() -> dict[str, Any] | None:
            return next((one for one in self.received if one.get("id") == command_id), None)

        reply: dict[str, Any] = await self._until(found, f"reply {command_id}")
        return reply

    async def call(self, **request: Any) -> Any:
        """The result of one command; fails the test on an error."""
        (name,) = request
        reply = await self.reply(await self.post(**request))
        assert "error" not in reply, reply
        return reply[name]

    async def error(self, **request: Any) -> dict[str, Any]:
        """The error of one command; fails the test on a result."""
        reply = await self.reply(await self.post(**request))
        assert set(reply) == {"id", "error"}, reply
        error: dict[str, Any] = reply["error"]
        return error

    async def connect(self, token: str = "", **members: Any) -> dict[str, Any]:
        """The connect result."""
        result: dict[str, Any] = await self.call(connect={**({"token": token} if token else {}), **members})
        return result

    async def push(self) -> dict[str, Any]:
        """The next push, whole."""

        def found() -> dict[str, Any] | None:
            for index in range(self._next_push, len(self.received)):
                if "push" in self.received[index]:
                    self._next_push = index + 1
                    value: dict[str, Any] = self.received[index]["push"]
                    return value
            return None

        push: dict[str, Any] = await self._until(found, "push")
        return push

    async def publication(self) -> dict[str, Any]:
        """The next publication, skipping other pushes."""
        while True:
            push = await self.push()
            if "pub" in push:
                found: dict[str, Any] = push["pub"]
                return found

    async def closed(self) -> tuple[int | None, str]:
        """Code and reason once the server has closed."""
        assert self._reader is not None
        await asyncio.wait_for(asyncio.shield(self._reader), LIMIT_S)
        return self.close_code, self.close_reason

    def pushes(self, kind: str) -> list[dict[str, Any]]:
        """All pushes of a kind so far."""
        return [one["push"] for one in self.received if kind in one.get("push", {})]
