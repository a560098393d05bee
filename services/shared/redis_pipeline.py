"""A connection to Redis for many at a time: packed and parsed by hiredis, sent at once, answered in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Sequence
from typing import Any, cast

import hiredis
from redis import exceptions

from services.shared.cancellation import is_being_cancelled
from services.shared.errors import CONNECTION_LOST, Unavailable
from services.shared.hotlog.scripts import Call, Command, run_through
from services.shared.redis import CONNECT_TIMEOUT_S
from services.shared.redis_address import RedisAddress, parse_redis_url
from services.shared.redis_life import LifeGate, RunWatch
from services.shared.redis_socket import connect


class NotSent(Unavailable):
    """Nothing of it has reached the server, nor will."""


class RedisPipeline:
    """Connects when it is needed, and again after it broke; what somebody sends waits for nobody else's answer.

    Nothing is repeated: of what was under way when the connection broke, the outcome is unknown.
    """

    def __init__(self, url: str, *, gate: LifeGate | RunWatch | None = None) -> None:
        """A `gate` sees every connection before it is used, and may refuse it.

        Raises:
            ConfigError: `url` is not a `redis://`, `rediss://` or `unix://` address.
        """
        self._address = parse_redis_url(url)
        self._gate = gate
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[_Connection] | None = None

    async def run(self, calls: Sequence[Call], *, timeout_s: float) -> list[Any]:
        """Run the scripts in order, in one round trip (two where the server did not know one).

        Returns one result per call; a result that is a `redis.RedisError` was refused by the server.

        Raises:
            NotSent: there is no connection.
            Unavailable: no answer; which of them ran is unknown.
        """
        return await self._within(timeout_s, self._run(calls))

    async def execute(self, commands: Sequence[Command], *, timeout_s: float) -> list[Any]:
        """The same for commands."""
        return await self._within(timeout_s, self._send(commands))

    async def aclose(self) -> None:
        """End the connection; whoever waits for an answer gets `Unavailable`."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._connection is not None:
            self._connection.abort()
            self._connection = None

    async def _within(self, timeout_s: float, sending: Awaitable[list[Any]]) -> list[Any]:
        started = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(timeout_s):
                return await sending
        except TimeoutError as error:
            if self._connection is not None and self._connection.heard_at < started:
                self._connection.abort()  # else others are being answered, and this will be too, to nobody
            raise Unavailable(f"Redis does not answer: nothing in {timeout_s:g} s") from error
        except (exceptions.ConnectionError, *CONNECTION_LOST) as error:
            raise Unavailable(f"Redis does not answer: {error}") from error

    async def _run(self, calls: Sequence[Call]) -> list[Any]:
        sent = False

        async def send(commands: Sequence[Command]) -> list[Any]:
            nonlocal sent
            try:
                return await self._send(commands)
            except NotSent as error:
                if sent:  # it is what the server did not know that was not sent again: the rest was carried out
                    raise Unavailable(str(error)) from error
                raise
            finally:
                sent = True

        return await run_through(send, calls)

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        connection = self._connection
        if connection is None or connection.is_lost:
            try:
                connection = await self._connected()
            except (exceptions.ConnectionError, *CONNECTION_LOST) as error:
                raise NotSent(f"Redis does not answer: {error}") from error
        return await connection.ask(commands)

    async def _connected(self) -> _Connection:
        """One attempt for all that wait for it."""
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())
            self._connecting.add_done_callback(self._has_connected)
        attempt = self._connecting
        try:
            return await asyncio.shield(attempt)
        except asyncio.CancelledError as error:
            if is_being_cancelled():
                raise
            raise ConnectionError("this client was closed") from error

    def _has_connected(self, attempt: asyncio.Task[_Connection]) -> None:
        self._connecting = None
        if not attempt.cancelled() and attempt.exception() is None:
            self._connection = attempt.result()

    async def _connect(self) -> _Connection:
        connection = _Connection(self._address)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await connect(lambda: connection, self._address)
                await (self._gate.admit(connection) if self._gate is not None else connection.on_connect())
        except BaseException:
            connection.abort()
            raise
        return connection


class _Asked:
    """Commands that were sent together, and the answers so far."""

    __slots__ = ("answers", "future", "left")

    def __init__(self, left: int, future: asyncio.Future[list[Any]]) -> None:
        self.left = left
        self.future = future
        self.answers: list[Any] = []


class _Connection(asyncio.Protocol):
    """One socket. `on_connect`, `send_command` and `read_response` are what gates know of redis-py's connections."""

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(replyError=_refusal)
        self._asked: deque[_Asked] = deque()
        self._said: asyncio.Future[list[Any]] | None = None
        self._loop = asyncio.get_running_loop()
        self.heard_at = 0.0  # by the loop's clock
        self.is_lost = False

    def ask(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]]:
        """Send now; their answers, in order."""
        data = b"".join([hiredis.pack_command(words) for words in commands])  # type: ignore[arg-type]  # its stub says one word
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        if self.is_lost or self._transport is None:
            future.set_exception(ConnectionError("the connection is lost"))
        elif not commands:
            future.set_result([])
        else:
            self._asked.append(_Asked(len(commands), future))
            self._transport.write(data)
        return future

    def abort(self) -> None:
        """End it now."""
        if self._transport is not None:
            self._transport.abort()
        self._lost(None)

    # For gates.

    async def on_connect(self) -> None:
        """Log in, and choose the database."""
        commands: list[Command] = [self._address.auth] if self._address.auth else []
        if self._address.db:
            commands.append(("SELECT", self._address.db))
        for answer in await self.ask(commands):
            _check(answer)

    async def send_command(self, *words: str) -> None:
        self._said = self.ask([words])

    async def read_response(self) -> Any:
        assert self._said is not None
        (answer,) = await self._said
        return _check(answer)

    # asyncio.Protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.heard_at = self._loop.time()

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._loop.time()
        reader, asked = self._reader, self._asked
        try:
            reader.feed(data)
            while (answer := reader.gets()) is not False:
                first = asked[0]  # nothing comes that was not asked for: there is no pub/sub on this connection
                first.answers.append(answer)
                first.left -= 1
                if not first.left:
                    asked.popleft()
                    if not first.future.done():
                        first.future.set_result(first.answers)
        except (hiredis.HiredisError, IndexError):
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(exc)

    def _lost(self, why: Exception | None) -> None:
        self.is_lost = True
        while self._asked:
            future = self._asked.popleft().future
            if not future.done():
                future.set_exception(ConnectionError(f"the connection broke: {why or 'closed'}"))


def _refusal(text: str) -> exceptions.RedisError:
    return exceptions.NoScriptError(text) if text.startswith("NOSCRIPT") else exceptions.ResponseError(text)


def _check(answer: Any) -> Any:
    """A server that refuses what comes first can't be used."""
    if isinstance(answer, exceptions.RedisError):
        raise exceptions.ConnectionError(f"refused: {answer}") from answer
    return answer
