"""The pub/sub connection of an edge: one socket, replaced whenever it breaks.

**Purpose.** Everything that other edges publish reaches this edge over one connection. It must be cheap, so what one
read brought is parsed in one go, without a task per message. It must notice its own death. And a subscription must not
count before Redis has confirmed it, or a publication could be missed between a client's recovery and its first push.

**Rules.**

1. `subscribe` returns after the confirmation of Redis. Callers that wait for the same channel share one confirmation.
   It fails after 2.5 s, and at once if pub/sub has been disconnected for more than 1 s.
2. Before it subscribes, a connection logs in and asks for run id and role. A replica is refused.
3. After a reconnect all wanted channels are subscribed again, 500 per command. `connected` is true, and `on_connected`
   is called, when the last of them is confirmed. `on_connected(True)` means that messages may have been missed.
4. If nothing has come for 2 s, a PING is sent. If nothing comes for 3 s after it, the connection is dead.
5. The connection follows the commands of the edge: if those go to another run of Redis, it is dropped (`follow`).
6. Between two connections there is a pause of 50 ms at first, doubled up to 1 s, with jitter. A connection that lasted
   a second counts as a success.

**Example.** An edge has 1,200 channels when Redis restarts. After the reconnect it sends three SUBSCRIBE commands. When
the 1,200th confirmation has come, it compares all channels with their logs and reads what it missed.

**Trade-offs.** One connection keeps the order of all messages, but a large message delays those behind it. What is
published while it is down is not delivered; the edge reads it from the logs (docs/architecture.md, "An edge's view").
A server that answers PING but delivers nothing is found by `self_check.py`. See docs/decisions/0023.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, cast

import hiredis
from redis import exceptions

from services.shared.errors import Unavailable
from services.shared.incarnation.gate import ASK, is_replica, run_id_of
from services.shared.process.backoff import Backoff
from services.shared.process.cancellation import end_task
from services.shared.redis.address import parse_redis_url
from services.shared.redis.client import CONNECT_TIMEOUT_S
from services.shared.redis.socket import connect

logger = logging.getLogger(__name__)

CONFIRM_S = 2.5  # longest wait for the confirmation of a subscription, seconds
PING_S = 2.0  # without a byte for so long a PING is sent, seconds
SILENCE_S = 3.0  # without a byte for so long after a PING the connection is dead, seconds
_CHECK_S = 0.25  # how often silence is checked once a PING is due, seconds
_CHUNK = 500  # channels per SUBSCRIBE after a reconnect
_PAUSE_S = (0.05, 1.0)  # first and longest pause between two connections, seconds


class RedisSubscriber:
    """The pub/sub subscriptions of this edge."""

    def __init__(
        self,
        url: str,
        *,
        on_message: Callable[[bytes, bytes], None],
        on_connected: Callable[[bool], None],
        on_lost: Callable[[], None] = lambda: None,
        before_restore: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Make the subscriber; `start` connects it.

        Args:
            on_message: Called with channel and payload of each message.
            on_connected: Called when all subscriptions are confirmed; with True from the second connection on.
            on_lost: Called after every connection and every failed attempt.
            before_restore: Awaited before channels are subscribed again. If it raises, the connection is given up.
        """
        self._address = parse_redis_url(url)
        self._on_message = on_message
        self._on_connected = on_connected
        self._on_lost = on_lost
        self._before_restore = before_restore
        self._wanted: set[str] = set()
        self._waiting: dict[bytes, asyncio.Future[None]] = {}
        self._connection: _Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._connections = 0
        self._restoring: set[bytes] | None = None
        self._down_since: float | None = None
        self.connected = False
        self.run_id = ""  # run id of the server of the present connection

    async def start(self) -> None:
        """Connect in the background, and again after each loss."""
        self._down_since = asyncio.get_running_loop().time()
        self._task = asyncio.create_task(self._keep_connected())

    async def close(self) -> None:
        """Close the connection, and fail the subscribes that wait."""
        if self._task is not None:
            await end_task(self._task)
        self._fail_waiting()

    def want(self, channel: str) -> None:
        """Subscribe on the next connection and on every later one, without waiting."""
        self._wanted.add(channel)

    async def subscribe(self, channel: str) -> None:
        """Subscribe, and return when Redis has confirmed it.

        Raises:
            Unavailable: Redis did not confirm within 2.5 s, or pub/sub has been disconnected for more than 1 s.
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
        """Unsubscribe, without waiting; no effect if not subscribed."""
        self._wanted.discard(channel)
        waiting = self._waiting.pop(channel.encode(), None)
        if waiting is not None:
            _give_up(waiting)  # a later subscribe must ask again
        if self._connection is not None:
            self._send("UNSUBSCRIBE", [channel])

    @property
    def has_connection(self) -> bool:
        """Whether a connection is logged in, with subscriptions confirmed or not."""
        return self._connection is not None

    def drop(self) -> None:
        """Cut the present connection, so that a new one is made."""
        if self._connection is not None:
            self._connection.abort()

    def _send(self, command: str, arguments: Iterable[str]) -> None:
        if self._connection is not None:
            self._connection.write((command, *arguments))

    async def _keep_connected(self) -> None:
        """Connect again and again, until cancelled."""
        backoff = Backoff(*_PAUSE_S, healthy_after_s=_PAUSE_S[1])
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            try:
                await self._run()
            except (OSError, TimeoutError, hiredis.HiredisError, EOFError, Unavailable) as error:
                logger.warning("Redis pub/sub connection ended", extra={"error": repr(error)})
            finally:
                self._lost()
            await asyncio.sleep(backoff.next_s(loop.time() - started))

    async def _run(self) -> None:
        """Make one connection, and return or raise when it has ended."""
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            connection = await connect(_Connection, self._address)
        try:
            self.run_id = await self._log_in(connection)
            if self._before_restore is not None and self._connections:
                await self._before_restore()
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
        """Drop the connection if it leads to another run of the server than commands do."""
        if self._connection is not None and self.run_id != run_id:
            self.drop()

    async def _log_in(self, connection: _Connection) -> str:
        """Log in, and return the run id of the server.

        Raises:
            OSError: the server refuses the login, or is a replica.
        """
        commands = [self._address.auth] if self._address.auth else []
        replies = [await self._ask(connection, command) for command in (*commands, ASK)]
        if is_replica(replies[-1]):
            raise OSError("this server is a replica")
        try:
            return run_id_of(replies[-1])
        except exceptions.ConnectionError as error:
            raise OSError(str(error)) from error

    async def _ask(self, connection: _Connection, command: Sequence[str]) -> Any:
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
        """Watch for silence until the connection ends.

        Raises:
            TimeoutError: Redis did not answer a PING in time.
            EOFError: Redis closed the connection.
            OSError: it broke.
        """
        loop = asyncio.get_running_loop()
        asked_at: float | None = None
        while not connection.ended.done():
            quiet_s = loop.time() - connection.received_at
            if asked_at is not None and connection.received_at >= asked_at:
                asked_at = None
            if asked_at is not None and loop.time() - asked_at >= SILENCE_S:
                raise TimeoutError("Redis is silent")
            if asked_at is None and quiet_s >= PING_S:
                asked_at = loop.time()
                self._send("PING", ())
            due = connection.received_at + PING_S
            await asyncio.wait([connection.ended], timeout=max(0.0, due - loop.time()) + _CHECK_S)
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
    """Fail a subscribe that will not be confirmed; nobody need be waiting for it."""
    if not future.done():
        future.set_exception(Unavailable("the subscription was given up"))
        future.exception()


class _Connection(asyncio.Protocol):
    """One socket; all replies of a read are parsed at once.

    The future `ended` is done when the connection has ended, with an exception if it broke.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._clock = loop.time
        self._transport: asyncio.Transport | None = None
        self._parser = hiredis.Reader()
        self.on_reply: Callable[[Any], None] = lambda reply: None
        self.received_at = loop.time()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.ended.add_done_callback(lambda ended: ended.exception())  # no warning if nobody awaits it

    def write(self, words: Sequence[str]) -> None:
        """Send one command."""
        if self._transport is not None:
            self._transport.write(hiredis.pack_command(words))  # type: ignore[arg-type]  # its stub says one word

    def abort(self) -> None:
        """Cut the connection now."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.received_at = self._clock()
        parser = self._parser
        try:
            parser.feed(data)
            while (reply := parser.gets()) is not False:
                self.on_reply(reply)
        except Exception as error:  # a malformed reply, a refusal of Redis, or a listener that failed
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
