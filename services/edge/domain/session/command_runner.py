"""The commands of one client: in the order sent, one at a time, at the pace at which it takes the replies."""

from __future__ import annotations

import asyncio
import enum
import logging
import math
from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from services.edge.domain import commands as c
from services.edge.domain.channels.publisher import Outcome
from services.edge.domain.ports import Connection
from services.edge.domain.replies import ErrorReply, PublishResult, Result
from services.edge.domain.session.command_queue import CommandQueue
from services.edge.domain.session.first_step import run_until_it_waits
from services.edge.domain.session.handlers import handle
from services.edge.domain.session.handlers.publish import begin_publish, may_publish_at_once
from services.edge.domain.session.node import Node
from services.edge.domain.session.timers import NEVER
from services.edge.domain.token_bucket import TokenBucket
from services.shared.errors import CloseCode, Disconnect, ErrorCode, ThalamusError

if TYPE_CHECKING:
    from services.edge.domain.session.session import Session

logger = logging.getLogger(__name__)


class State(enum.Enum):
    """Where a session stands; it only moves down this list."""

    NEW = enum.auto()  # no connect command yet
    CONNECTING = enum.auto()
    OPEN = enum.auto()
    UNUSABLE = enum.auto()  # connect was answered with an error: nothing more is read
    CLOSED = enum.auto()


OVER = (State.UNUSABLE, State.CLOSED)

_SELDOM_WAIT = frozenset((c.Connect, c.Subscribe))  # and use no timeout of asyncio before they do
_AT_ONCE = 16  # of these; then other connections get their turn
_PER_TURN = 32  # commands of any kind; then the same
_REFUSED_PER_REST = 32  # so many are answered "too many requests", then the client's next ones wait
_REST_S = 0.05

_MISUSE = frozenset((c.Malformed, c.Ping))
_UNCOUNTED = frozenset((c.Connect, c.Unsubscribe, c.Send))  # by the limit of commands; send has no reply, and closes
_NAMES = {kind: kind.__name__.lower() for kind in c.Request.__subclasses__()}


class CommandRunner:
    """Of a session, which derives from it. Pongs are the session's own affair: nothing holds them up."""

    __slots__ = (
        "_bucket",
        "_busy",
        "_paused",
        "_queue",
        "_refused",
        "_rest_until",
        "_resting",
        "_turned_away",
        "_unread",
        "_waiters",
        "connection",
        "node",
        "state",
    )

    def __init__(self, node: Node, connection: Connection, now: float) -> None:
        self.node = node
        self.connection = connection
        self.state = State.NEW
        self._queue = CommandQueue(node.publisher)
        self._busy = False
        self._resting = False  # the next turn is already arranged
        self._rest_until = NEVER  # it may as well begin then, if something else wakes us
        self._refused = 0  # since the last rest
        self._turned_away = 0  # publications, on arrival, since it was last not read for that
        self._unread = False  # it is not read for that
        self._paused = False
        self._waiters: list[asyncio.Future[None]] | None = None  # of `until_replies_taken`
        self._bucket = TokenBucket(node.settings.commands_per_s, node.settings.commands_burst, now)

    def answer(self, command_id: int, result: Result) -> None:
        """Queue the reply to a command."""
        raise NotImplementedError

    def disconnect(self, code: int, reason: str) -> None:
        """End the connection with this code."""
        raise NotImplementedError

    def refuse_connect(self, command_id: int, error: ErrorReply) -> None:
        """Answer connect with an error: the connection is of no more use (wire protocol, 5.1)."""
        raise NotImplementedError

    # The pace of the client.

    def replies_taken(self) -> None:
        """From the transport: the client has read so much of what it asked for that it may ask for more."""
        self._wake()
        self._pump()

    async def until_replies_taken(self) -> None:
        """Return once at most 64 KiB of what this client asked for wait for it, or once the session is over.

        For whatever sends a client more than one reply's worth: send a part (`push_publication`, `answer`),
        wait here, see whether the session `is_over`, and go on. Memory then holds one part for each client, and a
        client that reads slowly is not taken for one that does not keep up with what others send (3008).
        """
        while self.connection.replies_wait and self.state not in OVER:
            waiter = asyncio.get_running_loop().create_future()
            if self._waiters is None:
                self._waiters = []
            self._waiters.append(waiter)
            await waiter

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def _forget_commands(self) -> None:
        """The session is over."""
        self._queue.clear()
        self._wake()

    # Commands.

    def _pump(self) -> None:
        stepped = handled = 0
        connection = self.connection
        if self._resting and self.node.clock.monotonic() >= self._rest_until:
            self._resting = False
        while (
            self._queue.commands
            and not (self._busy or self._resting or connection.replies_wait)
            and self.state not in OVER
        ):
            if handled == _PER_TURN:
                self._rest(0.0)
                break
            handled += 1
            command = self._queue.next()
            try:
                self._admit(command)
            except Disconnect as end:
                self.disconnect(end.code, end.reason)
                return
            except ThalamusError as error:
                self.answer(command.id, self._error(error))
                self._refused += 1
                if self._refused >= _REFUSED_PER_REST:
                    self._rest(_REST_S)
                continue
            self._busy = True
            request = command.request
            if type(request) is c.Publish and (
                request.channel in self.node.hub.channels or may_publish_at_once(cast("Session", self), request)
            ):
                self._publish(command, request)
                continue
            at_once = type(request) in _SELDOM_WAIT and stepped < _AT_ONCE
            stepped += at_once
            rest = run_until_it_waits(self._run(command)) if at_once else self._run(command)
            if rest is not None:
                self.node.spawn(self._run_and_go_on(rest))
        if self._queue.commands or self._paused or self._turned_away or connection.replies_wait:
            self._pause_or_resume()

    def _pause_or_resume(self) -> None:
        queue, most = self._queue, self.node.settings.max_pending_commands
        # What admission lets in it also bounds. But who is over its limit of commands would fill the queue with them.
        waiting = len(queue.commands)
        if waiting and not self._resting:
            waiting = queue.others
        held = self.connection.replies_wait
        queue.hold(held)
        if self._turned_away >= _REFUSED_PER_REST and not self._unread:
            self._unread = True
            rest_s = _REST_S * self._turned_away / _REFUSED_PER_REST
            asyncio.get_running_loop().call_later(rest_s, self._read_again)
        if (held or self._unread or waiting > most) and not self._paused:
            self._paused = True
            self.connection.pause_reading()
        elif self._paused and not (held or self._unread) and waiting <= most // 2:
            self._paused = False
            self.connection.resume_reading()

    def _rest(self, delay_s: float) -> None:
        """Others get their turn; a client over its limit of commands waits, too: refusing costs something."""
        self._resting = True
        self._refused = 0
        loop = asyncio.get_running_loop()
        if delay_s:
            self._rest_until = self.node.clock.monotonic() + delay_s
            loop.call_later(delay_s, self._go_on)
        else:
            self._rest_until = NEVER
            loop.call_soon(self._go_on)

    def _read_again(self) -> None:
        self._unread = False
        self._turned_away = 0
        self._pause_or_resume()

    def _go_on(self) -> None:
        self._resting = False
        self._pump()

    def _admit(self, command: c.Command) -> None:
        """Whether the command may run now; raises what it is answered with instead."""
        kind = type(command.request)
        name, counts = _NAMES[kind], self.node.counters.commands
        counts[name] = counts.get(name, 0) + 1
        if kind in _MISUSE:
            raise Disconnect(CloseCode.BAD_REQUEST)
        if (kind is c.Connect) != (self.state is State.NEW):
            raise Disconnect(CloseCode.BAD_REQUEST)  # another one first, or a second connect
        if kind in _UNCOUNTED:
            return
        self._spend()

    def _spend(self) -> None:
        """A command's credit; raises what it is answered with where there is none left."""
        now = self.node.clock.monotonic()
        if not self._bucket.take(now):
            if self._bucket.refused_for(now) >= self.node.settings.flood_close_s:
                raise Disconnect(CloseCode.TOO_MANY_REQUESTS)
            raise ThalamusError(code=ErrorCode.TOO_MANY_REQUESTS, retry_after_s=self._bucket.retry_after_s())

    def _turn_away(self, command: c.Command) -> None:
        """A publication for which there is no room is answered on arrival. It costs what another command costs.

        But not the credit of commands that came before it and are still in the queue: they were accepted.
        """
        error: ThalamusError = self.node.publisher.busy()
        waiting = len(self._queue.commands)
        try:
            if not waiting or self._bucket.left(self.node.clock.monotonic()) > waiting:
                self._spend()
        except Disconnect as end:
            self.disconnect(end.code, end.reason)
            return
        except ThalamusError as over:
            error = over
        self.answer(command.id, self._error(error))
        self._turned_away += 1

    async def _run(self, command: c.Command) -> None:
        try:
            if self.state is State.CLOSED:
                return  # ended before this command began
            result = await handle(cast("Session", self), command)
            if result is not None:
                self.answer(command.id, result)
        except Exception as error:
            self._failed(command, error)
        finally:
            self._busy = False

    async def _run_and_go_on(self, work: Coroutine[Any, Any, None]) -> None:
        await work
        self._pump()

    def _publish(self, command: c.Command, request: c.Publish) -> None:
        """Check and hand over at once, without a task; the log answers later."""
        try:
            session: Session = self  # type: ignore[assignment]  # a cast costs a call for every publication
            begin_publish(session, request, partial(self._published, command))
        except Exception as error:
            self._busy = False
            self._failed(command, error)

    def _published(self, command: c.Command, outcome: Outcome) -> None:
        self._busy = False
        if isinstance(outcome, ThalamusError):
            self._failed(command, outcome)
        else:
            self.answer(command.id, PublishResult(outcome.position.offset, outcome.position.epoch))
        if self._queue.commands or self._paused or self.connection.replies_wait:
            self._pump()

    def _failed(self, command: c.Command, error: Exception) -> None:
        if isinstance(error, Disconnect):
            self.disconnect(error.code, error.reason)
            return
        if not isinstance(error, ThalamusError):
            logger.error("command failed", exc_info=error, extra={"command": type(command.request).__name__})
            error = ThalamusError()
        if type(command.request) is c.Connect:
            self.refuse_connect(command.id, self._error(error))
        else:
            self.answer(command.id, self._error(error))

    def _error(self, error: ThalamusError) -> ErrorReply:
        counts = self.node.counters.errors
        counts[error.code] = counts.get(error.code, 0) + 1
        retry_ms = math.ceil(error.retry_after_s * 1000)
        return ErrorReply(error.code, error.code.message, error.code.temporary, retry_ms)
