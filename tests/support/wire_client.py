"""A client by hand: sends exact frames, checks and keeps every reply.

In Protobuf it says and hears the same: it converts JSON lines by `protobuf_by_hand`, which is strict.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Origin, Subprotocol

from tests.support import protobuf_by_hand as by_hand

JsonObject = dict[str, Any]
T = TypeVar("T")
_MAX_LINES = 1_000_000
_CLOSE_S = 5.0  # longest wait for a server that does not close in turn
_LONGEST_INT = 4_000  # Python itself reads no integer of more than 4,300 digits: longer ones stay texts


class WireError(AssertionError):
    """The server broke the protocol, or did not do what the test waited for.

    The text says what came instead.
    """


class WireClient:
    """One connection; `async with WireClient(url) as client`.

    Every wait ends within `deadline_s` with a `WireError`. What breaks the framing (a binary frame, an empty line, bad
    JSON, an `error` next to a result, a push with an id) fails every wait from then on.

    Args:
        url: Such as `ws://127.0.0.1:8001/connection/websocket`.
        auto_pong: Answer the server's pings.
        headers, origin, subprotocols: Of the upgrade.
        protobuf: Speak Protobuf, and offer it where `subprotocols` is empty.
    """

    def __init__(
        self,
        url: str,
        *,
        auto_pong: bool = True,
        deadline_s: float = 30.0,
        headers: Mapping[str, str] | None = None,
        origin: str | None = None,
        subprotocols: Sequence[str] = (),
        protobuf: bool = False,
    ) -> None:
        self.url = url
        self.auto_pong = auto_pong
        self.deadline_s = deadline_s
        self._headers = dict(headers or {})
        self._origin = origin
        self._protobuf = protobuf
        self._subprotocols = subprotocols or ("centrifuge-protobuf",) * protobuf
        self._ids = itertools.count(1)
        self._socket: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._broken = ""
        self._replies: defaultdict[int, deque[JsonObject]] = defaultdict(deque)
        self._pushes: defaultdict[str, deque[JsonObject]] = defaultdict(deque)  # not yet taken
        self.frames: list[str | bytes] = []
        self.lines: list[JsonObject] = []
        self.pings = 0
        self.client_id = ""

    async def __aenter__(self) -> Self:
        async with asyncio.timeout(self.deadline_s):
            self._socket = await connect(
                self.url,
                additional_headers=self._headers,
                origin=Origin(self._origin) if self._origin is not None else None,
                subprotocols=[Subprotocol(one) for one in self._subprotocols] or None,
                compression=None,
                ping_interval=None,
                close_timeout=min(self.deadline_s, _CLOSE_S),
                max_size=None,
                max_queue=None,
                proxy=None,
            )
        self._reader = asyncio.create_task(self._read(self._socket))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._reader is not None
        self.resume_reading()
        await self.socket.close()  # within `close_timeout`
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)

    @property
    def socket(self) -> ClientConnection:
        """The WebSocket below, for what this class has no word for."""
        if self._socket is None:
            raise WireError("not connected: use `async with`")
        return self._socket

    @property
    def subprotocol(self) -> str | None:
        """What the server selected."""
        return self.socket.subprotocol

    @property
    def broken(self) -> str:
        """What of the server's broke the framing; "" if nothing did."""
        return self._broken

    # What comes.

    async def _read(self, socket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for frame in socket:
                self.frames.append(frame)
                try:
                    pings = self._handle(frame)
                except ValueError as error:
                    self._broken = f"{error}: {frame[:200]!r}"
                    pings = 0
                self._tell()
                if pings and self.auto_pong:
                    await socket.send(bytes(pings) if self._protobuf else "\n".join(["{}"] * pings))
        self._tell()

    def _handle(self, frame: str | bytes) -> int:
        """Keep the lines of a frame; returns how many of them are pings."""
        if isinstance(frame, bytes) != self._protobuf:
            raise ValueError("a frame of the wrong kind")
        texts = map(by_hand.line_of, by_hand.parts(frame)) if isinstance(frame, bytes) else frame.split("\n")
        pings = 0
        for text in texts:
            line = json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < _LONGEST_INT else digits)
            if not isinstance(line, dict):
                raise ValueError("not an object")
            if len(self.lines) >= _MAX_LINES:
                raise ValueError("too many lines")
            self.lines.append(line)
            pings += self._sort(line)
        return pings

    def _sort(self, line: JsonObject) -> bool:
        """Put a line where it is waited for; True for a ping."""
        if not line:
            self.pings += 1
            return True
        if len(line) != ("id" in line) + 1 or ("id" in line and "push" in line):
            raise ValueError("not exactly one of result, error and push")
        if "id" in line:
            self._replies[line["id"]].append(line)
        elif "push" in line:
            self._pushes[line["push"].get("channel", "")].append(line["push"])
        else:
            raise ValueError("neither reply nor push")
        return False

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def wait_for(self, found: Callable[[], T | None], what: str, deadline_s: float | None = None) -> T:
        """Wait until `found` returns something."""
        try:
            async with asyncio.timeout(self.deadline_s if deadline_s is None else deadline_s):
                while True:
                    news = self._news
                    if (value := found()) is not None:
                        return value
                    if self._broken:
                        raise WireError(f"no {what}: {self._broken}")
                    if self._reader is None or self._reader.done():
                        raise WireError(f"no {what}: closed {self.socket.close_code} {self.socket.close_reason!r}")
                    await news.wait()
        except TimeoutError:
            raise WireError(f"no {what} in time; last lines: {self.lines[-5:]}") from None

    async def reply(self, command_id: int, deadline_s: float | None = None) -> JsonObject:
        """The next reply with this id, whole."""
        replies = self._replies[command_id]
        return await self.wait_for(lambda: replies.popleft() if replies else None, f"reply {command_id}", deadline_s)

    async def push(self, channel: str = "", kind: str = "", deadline_s: float | None = None) -> JsonObject:
        """Return the next push of a channel that was not taken yet.

        With `kind` (`pub`, `join` …) what comes before it is skipped.
        """
        waiting = self._pushes[channel]

        def take() -> JsonObject | None:
            while waiting:
                push = waiting.popleft()
                if not kind or kind in push:
                    return push
            return None

        return await self.wait_for(take, f"push {kind} of {channel!r}", deadline_s)

    async def publication(self, channel: str, deadline_s: float | None = None) -> JsonObject:
        """The next publication of a channel; other pushes before it are skipped."""
        publication: JsonObject = (await self.push(channel, "pub", deadline_s))["pub"]
        return publication

    async def publications(self, channel: str, count: int, deadline_s: float | None = None) -> list[JsonObject]:
        """The next so many, each within the deadline."""
        return [await self.publication(channel, deadline_s) for _ in range(count)]

    def pushes(self, channel: str = "", kind: str = "") -> list[JsonObject]:
        """Pushes of a channel so far, taken or not, in order; nothing is taken."""
        all_pushes = (line["push"] for line in self.lines if "push" in line)
        return [push for push in all_pushes if push.get("channel", "") == channel and (not kind or kind in push)]

    async def ping(self, deadline_s: float | None = None) -> None:
        """Wait for one more ping of the server."""
        seen = self.pings
        await self.wait_for(lambda: True if self.pings > seen else None, "ping", deadline_s)

    async def expect_close(self, deadline_s: float | None = None) -> tuple[int, str]:
        """Wait for the close; return code and reason, 1006 if there was no close frame."""
        reader = self._reader
        if reader is None:
            raise WireError("not connected: use `async with`")
        try:
            await asyncio.wait_for(asyncio.shield(reader), self.deadline_s if deadline_s is None else deadline_s)
        except TimeoutError:
            raise WireError(f"still open; last lines: {self.lines[-5:]}") from None
        return self.socket.close_code or 1006, self.socket.close_reason or ""

    async def expect_silence(self, seconds: float) -> None:
        """Nothing but pings comes for so long, and the connection stays open."""
        before = len(self.lines) - self.pings
        reader = self._reader
        if reader is None:
            raise WireError("not connected: use `async with`")
        done, _ = await asyncio.wait([reader], timeout=seconds)
        if done:
            raise WireError(f"closed {self.socket.close_code} {self.socket.close_reason!r}")
        if len(self.lines) - self.pings != before:
            raise WireError(f"not silent: {self.lines[-5:]}")

    # What goes.

    async def send(self, *commands: JsonObject | str) -> None:
        """Send one frame: objects as JSON, texts as they are, one line each.

        In Protobuf both are converted.
        """
        texts = [one if isinstance(one, str) else json.dumps(one, separators=(",", ":")) for one in commands]
        if self._protobuf:
            await self.send_frame(b"".join(map(by_hand.command_of, texts)))
        else:
            await self.send_frame("\n".join(texts))

    async def send_frame(self, frame: str | bytes) -> None:
        """One frame exactly as given: text or binary."""
        async with asyncio.timeout(self.deadline_s):
            await self.socket.send(frame)

    async def post(self, **request: Any) -> int:
        """One command with the next id, such as `post(publish={…})`; returns the id."""
        command_id = next(self._ids)
        await self.send({"id": command_id, **request})
        return command_id

    async def batch(self, *requests: JsonObject) -> list[int]:
        """Several commands in one frame, with the next ids."""
        commands = [{"id": next(self._ids), **request} for request in requests]
        await self.send(*commands)
        return [int(command["id"]) for command in commands]

    async def call(self, **request: Any) -> Any:
        """The result of one command; an error fails."""
        reply = await self.reply(await self.post(**request))
        (name,) = request
        if name not in reply:
            raise WireError(f"{name} was answered with {reply}")
        return reply[name]

    async def error(self, **request: Any) -> JsonObject:
        """The error of one command; a result fails."""
        reply = await self.reply(await self.post(**request))
        if "error" not in reply:
            raise WireError(f"an error was expected, not {reply}")
        error: JsonObject = reply["error"]
        return error

    async def connect(self, token: str = "", **members: Any) -> JsonObject:
        """The connect result; keeps `client_id`."""
        result: JsonObject = await self.call(connect={**({"token": token} if token else {}), **members})
        self.client_id = result["client"]
        return result

    async def subscribe(self, channel: str, **members: Any) -> JsonObject:
        """The subscribe result."""
        result: JsonObject = await self.call(subscribe={"channel": channel, **members})
        return result

    async def publish(self, channel: str, data: Any, **members: Any) -> JsonObject:
        """The publish result."""
        result: JsonObject = await self.call(publish={"channel": channel, "data": data, **members})
        return result

    async def pong(self) -> None:
        """One pong by hand."""
        await self.send("{}")

    def pause_reading(self) -> None:
        """Take no more bytes from the socket: be a slow client."""
        self.socket.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if not self.socket.transport.is_closing():
            self.socket.transport.resume_reading()

    def abort(self) -> None:
        """Reset TCP without a close frame, as a cut network does."""
        self.socket.transport.abort()
