"""Redis connection for many callers: sent at once, answered in order.

Purpose. Callers share one connection without waiting for each other's replies. hiredis packs and parses.

Rules.

* It connects when it is needed, and again after the connection broke. All who wait share one attempt.
* Nothing is retried. `NotSent`: nothing has reached the server. `Unavailable`: the outcome is unknown.
* A gate sees each new connection before it is used, and may refuse it (see `services/shared/incarnation`). Then
  `before_use` may ask it something, before anybody else does.
* A connection is given up when its server can't serve us: a refusal such as READONLY, a replica (asked once a second
  while the connection is used), or a run that no longer fits the gate. Nothing more is sent on it; what is under way is
  answered, for 2.5 s at most. The next call connects again.
* A call that gets no reply in time closes the connection only if nothing at all was received since it began. Otherwise
  others are being answered, and its own reply will be dropped.

Example. Callers A and B send 3 and 2 commands. All five are under way at once, and the first three replies are those of
A. If the connection breaks after the fourth, A has its result, and B gets `Unavailable`, though one of its commands
ran.

Trade-offs. One connection and no pool: fewer system calls, and commands run in the order in which they were sent. A
slow script delays all callers. Commands that block, and pub/sub, need connections of their own. Nothing waits here to
be sent with more, so this is no `Batcher` (`services/shared/batching`); the edge's broker has one. See
docs/decisions/0023.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, cast

import hiredis
from redis import exceptions

from services.shared.errors import CONNECTION_LOST, Unavailable
from services.shared.hotlog.scripts import Call, Command, run_through
from services.shared.incarnation.gate import IncarnationGate, RunTracker, is_replica
from services.shared.process.cancellation import is_being_cancelled
from services.shared.redis.address import RedisAddress, parse_redis_url
from services.shared.redis.client import CONNECT_TIMEOUT_S
from services.shared.redis.socket import connect

ROLE_S = 1.0  # seconds between questions whether the server has become a replica
_RECONNECT_S = 0.1  # shortest time from one connection to the next while a server refuses, seconds
_FINISH_S = 2.5  # seconds for what is under way on a connection that is given up
# Error codes of a server that can't serve us: a replica, one without its master or its replicas, one that is loading,
# part of a cluster, or one where we are not logged in. A new connection may lead to another server.
_OF_NO_USE = frozenset(
    {"READONLY", "MASTERDOWN", "NOREPLICAS", "LOADING", "CLUSTERDOWN", "MOVED", "ASK", "TRYAGAIN", "NOAUTH"}
)

Ask = Callable[[Sequence[Command]], Awaitable[list[Any]]]  # sends commands, returns their answers


class NotSent(Unavailable):
    """Nothing of the call has reached the server, nor will it: a retry is safe."""


class RedisPipeline:
    """Connection to Redis for many callers; see the module."""

    def __init__(
        self,
        url: str,
        *,
        gate: IncarnationGate | RunTracker | None = None,
        before_use: Callable[[Ask], Awaitable[None]] | None = None,
    ) -> None:
        """Create it; connects when it is used.

        Args:
            url: Address of the server.
            gate: Sees each new connection, and may refuse it.
            before_use: Called with each new connection, to ask something before anybody else does. It raises
                `redis.ConnectionError` if the connection must not be used.

        Raises:
            ConfigError: `url` is not a `redis://`, `rediss://` or `unix://` address.
        """
        self._address = parse_redis_url(url)
        self._gate = gate
        self._before_use = before_use
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[_Connection] | None = None

    async def run(self, calls: Sequence[Call], *, timeout_s: float) -> list[Any]:
        """Run scripts in order, in one round trip; in three if a script was unknown.

        Returns one result per call; a result that is a `redis.RedisError` was refused by the server.

        Raises:
            NotSent: there is no connection.
            Unavailable: no reply in time; which calls ran is unknown.
        """
        return await self._within(timeout_s, self._run(calls))

    async def execute(self, commands: Sequence[Command], *, timeout_s: float) -> list[Any]:
        """Run commands in the same way."""
        return await self._within(timeout_s, self._send(commands))

    async def aclose(self) -> None:
        """Close the connection; callers that wait for a reply get `Unavailable`."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._connection is not None:
            self._connection.abort()
            self._connection = None

    async def _within(self, timeout_s: float, sending: Awaitable[list[Any]]) -> list[Any]:
        """Await answers for at most `timeout_s`; failures become `Unavailable`."""
        started = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(timeout_s):
                return await sending
        except TimeoutError as error:
            if self._connection is not None and self._connection.received_at < started:
                self._connection.abort()  # else others are served, and this reply will be dropped
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
                if sent:  # only the scripts that the server did not know were not sent again: the others ran
                    raise Unavailable(str(error)) from error
                raise
            finally:
                sent = True

        return await run_through(send, calls)

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands, over a new connection if the present one is of no use."""
        connection = self._connection
        if connection is not None and not connection.is_usable(self._gate):
            connection.give_up()
            connection = None
        if connection is None or connection.is_lost:
            try:
                connection = await self._connected()
            except (exceptions.ConnectionError, *CONNECTION_LOST) as error:
                raise NotSent(f"Redis does not answer: {error}") from error
        return await connection.ask(commands)

    async def _connected(self) -> _Connection:
        """Return a new connection; all who wait share one attempt."""
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
        """Connect, and pass the gate."""
        if self._connection is not None and self._connection.refusals:
            await asyncio.sleep(self._connection.made_at + _RECONNECT_S - asyncio.get_running_loop().time())
        connection = _Connection(self._address)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await connect(lambda: connection, self._address)
                await (self._gate.admit(connection) if self._gate is not None else connection.on_connect())
                if self._before_use is not None:
                    await self._before_use(connection.ask)
        except BaseException:
            connection.abort()
            raise
        return connection


class _Asked:
    """Commands that were sent together, with the replies so far."""

    __slots__ = ("future", "left", "replies")

    def __init__(self, left: int, future: asyncio.Future[list[Any]]) -> None:
        self.left = left
        self.future = future
        self.replies: list[Any] = []


class _Connection(asyncio.Protocol):
    """One socket.

    `on_connect`, `send_command` and `read_response` are named as in redis-py's connections, which gates know.
    """

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        self._transport: asyncio.Transport | None = None
        self.refusals: list[str] = []  # error codes by which this server can't serve us
        self._reader = hiredis.Reader(replyError=partial(_refusal, self.refusals))
        self._asked: deque[_Asked] = deque()
        self._said: asyncio.Future[list[Any]] | None = None
        self._loop = asyncio.get_running_loop()
        self.made_at = self._asked_role_at = self._loop.time()
        self.run_id = ""  # of the server, if a gate asked
        self.received_at = 0.0  # when data was last received, by the clock of the loop
        self.is_lost = False

    def ask(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]]:
        """Send commands now; the future gets their replies, in order."""
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

    def is_usable(self, gate: IncarnationGate | RunTracker | None) -> bool:
        """Whether more may be sent.

        Asks at most once a second whether the server has become a replica.
        """
        if self.refusals or (gate is not None and not gate.still_accepts(self.run_id)):
            return False
        now = self._loop.time()
        if now - self._asked_role_at >= ROLE_S and not self.is_lost:
            self._asked_role_at = now
            self.ask([("INFO", "replication")]).add_done_callback(self._check_role)
        return True

    def _check_role(self, asked: asyncio.Future[list[Any]]) -> None:
        """Take the reply about the role of the server."""
        if asked.cancelled() or asked.exception() is not None:
            return
        (said,) = asked.result()
        if isinstance(said, exceptions.RedisError):
            if str(said).startswith("NOPERM"):
                self._asked_role_at = math.inf  # no right to ask: the refusals of commands have to do
        elif is_replica(said):
            self.refusals.append("READONLY")

    def give_up(self) -> None:
        """Send nothing more; close now if all is answered, otherwise after 2.5 s."""
        if self._asked and not self.is_lost:
            self._loop.call_later(_FINISH_S, self.abort)
        else:
            self.abort()

    def abort(self) -> None:
        """Close the connection now."""
        if self._transport is not None:
            self._transport.abort()
        self._lost(None)

    # Interface of redis-py's connections, for gates.

    async def on_connect(self) -> None:
        """Log in, and select the database."""
        commands: list[Command] = [self._address.auth] if self._address.auth else []
        if self._address.db:
            commands.append(("SELECT", self._address.db))
        for reply in await self.ask(commands):
            _check(reply)

    async def send_command(self, *words: str) -> None:
        """Send one command; `read_response` returns its reply."""
        self._said = self.ask([words])

    async def read_response(self) -> Any:
        """Return the reply to the command sent last.

        Raises:
            redis.ConnectionError: the server refused it.
        """
        assert self._said is not None
        (reply,) = await self._said
        return _check(reply)

    # asyncio.Protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.received_at = self._loop.time()

    def data_received(self, data: bytes) -> None:
        self.received_at = self._loop.time()
        reader, asked = self._reader, self._asked
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                first = asked[0]  # every reply was asked for: there is no pub/sub here
                first.replies.append(reply)
                first.left -= 1
                if not first.left:
                    asked.popleft()
                    if not first.future.done():
                        first.future.set_result(first.replies)
        except (hiredis.HiredisError, IndexError):
            self.abort()
        if self.refusals and not asked:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(exc)

    def _lost(self, why: Exception | None) -> None:
        """Fail everything that waits for a reply."""
        self.is_lost = True
        while self._asked:
            future = self._asked.popleft().future
            if not future.done():
                future.set_exception(ConnectionError(f"the connection broke: {why or 'closed'}"))


def _refusal(of_no_use: list[str], text: str) -> exceptions.RedisError:
    """Convert an error of the server; note codes that say that it can't serve us."""
    code = text.partition(" ")[0]
    if code in _OF_NO_USE:
        of_no_use.append(code)
    return exceptions.NoScriptError(text) if text.startswith("NOSCRIPT") else exceptions.ResponseError(text)


def _check(reply: Any) -> Any:
    """Return the reply to one of the first commands.

    Raises:
        redis.ConnectionError: the server refused it, so the connection can't be used.
    """
    if isinstance(reply, exceptions.RedisError):
        raise exceptions.ConnectionError(f"refused: {reply}") from reply
    return reply
