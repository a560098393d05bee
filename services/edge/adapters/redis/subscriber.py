"""The pub/sub connection of an edge: one socket, parsed in batches, made anew whenever it breaks."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import hiredis
from redis import exceptions

from services.shared.errors import Unavailable
from services.shared.incarnation.gate import ASK, is_replica, run_id_of
from services.shared.process.cancellation import end_task
from services.shared.redis.address import parse_redis_url
from services.shared.redis.client import CONNECT_TIMEOUT_S
from services.shared.redis.socket import connect

logger = logging.getLogger(__name__)

CONFIRM_S = 2.5
PING_S = 2.0
SILENCE_S = 3.0  # without a byte for so long after a ping, the connection is dead
_LOOK_S = 0.25  # how often it is looked whether anything was heard, once something is due
_CHUNK = 500
_PAUSE_S = (0.05, 1.0)


class RedisSubscriber:
    """Subscriptions of this edge. A subscribe returns when Redis has confirmed it."""

    def __init__(
        self,
        url: str,
        *,
        on_message: Callable[[bytes, bytes], None],
        on_connected: Callable[[bool], None],
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_message(channel, payload)`; `on_connected(again)` once all subscriptions are confirmed."""
        self._address = parse_redis_url(url)
        self._on_message = on_message
        self._on_connected = on_connected
        self._on_lost = on_lost
        self._wanted: set[str] = set()
        self._waiting: dict[bytes, asyncio.Future[None]] = {}
        self._connection: _Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._connections = 0
        self._restoring: set[bytes] | None = None
        self._down_since: float | None = None
        self.connected = False
        self.run_id = ""  # of the server that the present connection leads to

    async def start(self) -> None:
        """Connect in the background, again and again."""
        self._down_since = asyncio.get_running_loop().time()
        self._task = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """Stop listening."""
        if self._task is not None:
            await end_task(self._task)
        self._fail_waiting()

    def want(self, channel: str) -> None:
        """Subscribe as soon as there is a connection, and on every later one."""
        self._wanted.add(channel)

    async def subscribe(self, channel: str) -> None:
        """Return once Redis has confirmed.

        Raises:
            Unavailable: no confirmation within 2.5 s; at once while Redis has been away for longer than 1 s.
        """
        loop = asyncio.get_running_loop()
        if self._down_since is not None and loop.time() - self._down_since > 1.0:
            raise Unavailable("Redis pub/sub is not connected")
        name = channel.encode()
        future = self._waiting.get(name)
        if future is None:
            future = self._waiting[name] = loop.create_future()
            self._wanted.add(channel)
            if self._connection is not None:
                self._send("SUBSCRIBE", [channel])
        try:
            async with asyncio.timeout(CONFIRM_S):
                await asyncio.shield(future)
        except TimeoutError:
            raise Unavailable("Redis did not confirm a subscription") from None

    async def unsubscribe(self, channel: str) -> None:
        """No effect where not subscribed."""
        self._wanted.discard(channel)
        waiting = self._waiting.pop(channel.encode(), None)
        if waiting is not None:
            _give_up(waiting)  # a later subscribe must ask anew
        if self._connection is not None:
            self._send("UNSUBSCRIBE", [channel])

    @property
    def has_connection(self) -> bool:
        """Logged in; `connected` says that all subscriptions are confirmed, too."""
        return self._connection is not None

    def drop(self) -> None:
        """Give up the present connection: it is of no use."""
        if self._connection is not None:
            self._connection.abort()

    def _send(self, command: str, arguments: Iterable[str]) -> None:
        if self._connection is not None:
            self._connection.write((command, *arguments))

    async def _keep(self) -> None:
        pause_s = _PAUSE_S[0]
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            try:
                await self._run()
            except (OSError, TimeoutError, hiredis.HiredisError, EOFError) as error:
                logger.warning("Redis pub/sub connection ended", extra={"error": repr(error)})
            finally:
                self._lost()
            if loop.time() - started > _PAUSE_S[1]:
                pause_s = _PAUSE_S[0]
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(pause_s * 2, _PAUSE_S[1])

    async def _run(self) -> None:
        """One connection, from connect to its end."""
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            connection = await connect(_Connection, self._address)
        try:
            self.run_id = await self._log_in(connection)
            connection.on_reply = self._dispatch
            self._connection = connection
            wanted = sorted(self._wanted)
            self._restoring = {name.encode() for name in wanted}
            for start in range(0, len(wanted), _CHUNK):
                self._send("SUBSCRIBE", wanted[start : start + _CHUNK])
            self._restored()
            await self._watch(connection)
        finally:
            connection.abort()

    def follow(self, run_id: str) -> None:
        """The commands of this edge go to that run of the server: what hears another one is of no use."""
        if self._connection is not None and self.run_id != run_id:
            self.drop()

    async def _log_in(self, connection: _Connection) -> str:
        """Returns the run id of the server.

        Raises:
            OSError: it refuses us, or is a replica.
        """
        commands = [self._address.auth] if self._address.auth else []
        answers = [await self._answer(connection, command) for command in (*commands, ASK)]
        if is_replica(answers[-1]):
            raise OSError("this server is a replica")
        try:
            return run_id_of(answers[-1])
        except exceptions.ConnectionError as error:
            raise OSError(str(error)) from error

    async def _answer(self, connection: _Connection, command: Sequence[str]) -> Any:
        said: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        connection.on_reply = said.set_result
        connection.write(command)
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await asyncio.wait([said, connection.ended], return_when=asyncio.FIRST_COMPLETED)
        if not said.done():
            await connection.ended
            raise EOFError("closed by Redis")
        if isinstance(said.result(), hiredis.ReplyError):
            raise OSError(f"Redis refused: {said.result()}")
        return said.result()

    async def _watch(self, connection: _Connection) -> None:
        """Until its end: raises what ended it, or TimeoutError where Redis says nothing although it was asked to."""
        loop = asyncio.get_running_loop()
        asked_at: float | None = None
        while not connection.ended.done():
            quiet_s = loop.time() - connection.heard_at
            if asked_at is not None and connection.heard_at >= asked_at:
                asked_at = None
            if asked_at is not None and loop.time() - asked_at >= SILENCE_S:
                raise TimeoutError("Redis is silent")
            if asked_at is None and quiet_s >= PING_S:
                asked_at = loop.time()
                self._send("PING", ())
            due = connection.heard_at + PING_S
            await asyncio.wait([connection.ended], timeout=max(0.0, due - loop.time()) + _LOOK_S)
        await connection.ended
        raise EOFError("closed by Redis")

    def _dispatch(self, reply: Any) -> None:
        kind = reply[0] if isinstance(reply, list) else b""
        if kind == b"message":
            self._on_message(reply[1], reply[2])
        elif kind == b"subscribe":
            future = self._waiting.pop(reply[1], None)
            if future is not None and not future.done():
                future.set_result(None)
            if self._restoring is not None:
                self._restoring.discard(reply[1])
                self._restored()
        elif isinstance(reply, hiredis.ReplyError):
            raise OSError(f"Redis refused: {reply}")

    def _restored(self) -> None:
        if self._restoring:
            return
        self._restoring = None
        self.connected = True
        self._down_since = None
        self._connections += 1
        self._on_connected(self._connections > 1)

    def _lost(self) -> None:
        self._connection = None
        self._restoring = None
        self.connected = False
        if self._down_since is None:
            self._down_since = asyncio.get_running_loop().time()
        self._on_lost()

    def _fail_waiting(self) -> None:
        for future in self._waiting.values():
            _give_up(future)
        self._waiting.clear()


def _give_up(future: asyncio.Future[None]) -> None:
    """Nobody will confirm it; whoever waits is told, and it is no error if nobody does."""
    if not future.done():
        future.set_exception(Unavailable("the subscription was given up"))
        future.exception()


class _Connection(asyncio.Protocol):
    """One socket: what comes is parsed a read at a time. `ended` has what ended it, or None where Redis closed."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._clock = loop.time
        self._transport: asyncio.Transport | None = None
        self._parser = hiredis.Reader()
        self.on_reply: Callable[[Any], None] = lambda reply: None
        self.heard_at = loop.time()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.ended.add_done_callback(lambda ended: ended.exception())  # nobody may be waiting for it

    def write(self, words: Sequence[str]) -> None:
        """Send one command."""
        if self._transport is not None:
            self._transport.write(hiredis.pack_command(words))  # type: ignore[arg-type]  # its stub says one word

    def abort(self) -> None:
        """End it now."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._clock()
        parser = self._parser
        try:
            parser.feed(data)
            while (reply := parser.gets()) is not False:
                self.on_reply(reply)
        except Exception as error:  # it can't be read, Redis refused something, or whoever listens failed
            if not isinstance(error, OSError | hiredis.HiredisError):
                logger.exception("a reply of Redis could not be handled")
            self._end(OSError(f"unusable: {error!r}"))
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc)

    def _end(self, why: Exception | None) -> None:
        if self.ended.done():
            return
        if why is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(why)
