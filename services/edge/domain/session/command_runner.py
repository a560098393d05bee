"""Executes the commands of one client in order, as fast as it reads the replies.

**Purpose.** A client may send many commands at once, ask for large replies and read them slowly. Its commands must run
in order, its replies must not fill the memory of the edge, and other clients must not notice it.

**Rules.**

1. Commands of one client run one at a time, in the order sent. Pongs are no commands and do not go through the queue.
2. While more than 64 KiB of replies wait for the client, its next command waits, and its socket is not read. So the
   edge holds about 64 KiB and one reply per client. Code that sends a client more than one reply's worth (a recovery)
   sends a part, awaits `until_replies_taken`, and goes on.
3. A client runs at most 32 commands in one turn; then other connections get theirs. 16 subscribe or connect commands of
   a turn begin without a task of their own, which is cheaper. Each runs in a copy of the context that its message came
   in, so the context variables that a command sets (a span of a trace) are its own.
4. The socket is also not read while more than `max_pending_commands` commands wait, until half of them are done.
   Publications are counted only during a rest (rule 5), because admission bounds them.
5. Each command but connect, unsubscribe and send takes a token (`commands_per_s`). Without a token the reply is error
   111; 3 s of refusals without a pause end the connection (`flood_close_s`). After 32 refused commands the client's
   next ones rest for 50 ms.
6. A publication that admission refuses is answered on arrival with error 111. It takes a token, too, unless the
   commands in the queue need those that are left. After 32 of them the socket is not read for 50 ms for every 32.

**Example.** A client sends 100 history commands in one message, and each reply has 1 MiB. The first one runs. The
second one runs once at most 64 KiB of the first reply wait. Meanwhile nothing more is read from its socket.

**Trade-offs.** A slow command holds up the later ones of its client, but the client can rely on the order.

Decisions: docs/decisions/0011-replies-wait-for-their-client.md, docs/decisions/0006-overload-is-refused-on-arrival.md,
docs/decisions/0018-a-burst-is-not-an-overload.md.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import math
from collections.abc import Coroutine
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from services.edge.domain import commands as c
from services.edge.domain.channels.publisher import Outcome
from services.edge.domain.connections import Connection
from services.edge.domain.conversations.calls import ChatRefused
from services.edge.domain.ends import Disconnect, EndReason
from services.edge.domain.hooks.model import CommandRefused
from services.edge.domain.replies import ErrorResult, PublishResult, Result
from services.edge.domain.session.command_queue import CommandQueue
from services.edge.domain.session.first_step import run_until_it_waits
from services.edge.domain.session.handlers import handle
from services.edge.domain.session.handlers.publish import MustWait, begin_publish, can_begin
from services.edge.domain.session.node import Node
from services.edge.domain.session.timers import NEVER
from services.edge.domain.token_bucket import TokenBucket
from services.shared.errors import ErrorCode, ThalamusError

if TYPE_CHECKING:
    from services.edge.domain.session.session import Session

logger = logging.getLogger(__name__)


class State(enum.Enum):
    """State of a session. It changes only downwards in this list."""

    NEW = enum.auto()  # no connect command yet
    CONNECTING = enum.auto()  # the connect command is being executed
    OPEN = enum.auto()  # connect has succeeded
    UNUSABLE = enum.auto()  # connect was answered with an error: nothing more is read
    CLOSED = enum.auto()  # the connection is closed or being closed


OVER = (State.UNUSABLE, State.CLOSED)

# Commands that mostly end without waiting, so they begin without a task. Up to their first wait they must not use
# `asyncio.timeout`, which needs a task.
_SELDOM_WAIT = frozenset((c.Connect, c.Subscribe))
_AT_ONCE = 16  # commands of a turn that begin without a task
_PER_TURN = 32  # commands of any kind in one turn of a client
_REFUSED_PER_REST = 32  # refused commands, after which the client's next ones wait for `_REST_S`
_REST_S = 0.05  # seconds

_MISUSE = frozenset((c.Malformed, c.Ping))  # end the connection
_UNCOUNTED = frozenset((c.Connect, c.Unsubscribe, c.Send))  # take no token; send closes the connection anyway
_NAMES = {kind: kind.__name__.lower() for kind in c.Request.__subclasses__()}


class CommandRunner:
    """Base class of `Session`: the queue of one client's commands and their execution."""

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
        self._busy = False  # a command is being executed
        self._resting = False  # no command begins until the next turn, which is scheduled
        self._rest_until = NEVER  # monotonic seconds; from then on `_pump` may end the rest itself
        self._refused = 0  # refused commands since the last rest
        self._turned_away = 0  # publications refused on arrival, since the last pause in reading because of them
        self._unread = False  # the socket is not read because of them
        self._paused = False  # the socket is not read
        self._waiters: list[asyncio.Future[None]] | None = None  # of `until_replies_taken`
        self._bucket = TokenBucket(node.settings.commands_per_s, node.settings.commands_burst, now)

    def reply(self, command_id: int, result: Result) -> None:
        """Queue the reply to a command."""
        raise NotImplementedError

    def disconnect(self, reason: EndReason, code: int = 0, text: str = "") -> None:
        """Close the connection for this reason."""
        raise NotImplementedError

    def refuse_connect(self, command_id: int, error: ErrorResult) -> None:
        """Answer connect with an error and make the session unusable (wire protocol, 5.1)."""
        raise NotImplementedError

    # Waiting for the client to read its replies.

    def replies_taken(self) -> None:
        """Go on with commands: few enough replies wait. Called by the transport."""
        self._wake()
        self._pump()

    async def until_replies_taken(self) -> None:
        """Wait until at most 64 KiB of replies are queued, or the session is over.

        To be used by everything that sends a client more than one reply's worth: send a part (`push_recovered`,
        `reply`), await this, check `is_over`, and go on. So memory holds one part per client, and a client that reads
        its replies slowly is not closed as one that does not keep up with the messages of others.
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
        """Drop the queue and wake all waiters, because the session is over."""
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
                self.disconnect(end.reason)
                return
            except ThalamusError as error:
                self.reply(command.id, self._error(error))
                self._refused += 1
                if self._refused >= _REFUSED_PER_REST:
                    self._rest(_REST_S)
                continue
            self._busy = True
            request = command.request
            if type(request) is c.Publish and (
                (request.channel in self.node.hub.channels and self.node.publish_limit is None)
                or can_begin(cast("Session", self), request)
            ):
                self._publish(command, request)
                continue
            at_once = type(request) in _SELDOM_WAIT and stepped < _AT_ONCE
            stepped += at_once
            context = copy_context()
            rest = run_until_it_waits(self._run(command), context) if at_once else self._run(command)
            if rest is not None:
                self.node.spawn(self._run_and_go_on(rest, copy_context()), context=context)
        if self._queue.commands or self._paused or self._turned_away or connection.replies_wait:
            self._pause_or_resume()

    def _pause_or_resume(self) -> None:
        queue, most = self._queue, self.node.settings.max_pending_commands
        # Admission bounds publications. During a rest they are counted nevertheless: a client over its limit of
        # commands would fill the queue with them.
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
        """Begin no command until other connections have had their turn, or for `delay_s`.

        The delay is for a client over its limit of commands, because refusing costs time, too.
        """
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
        """Check that the command may run now; count it.

        Raises:
            Disconnect: misuse of the protocol, or a flood of commands.
            ThalamusError: 111, the client is over its limit of commands.
        """
        kind = type(command.request)
        name, counts = _NAMES[kind], self.node.counters.commands
        counts[name] = counts.get(name, 0) + 1
        if kind in _MISUSE:
            raise Disconnect(EndReason.BAD_REQUEST)
        if (kind is c.Connect) != (self.state is State.NEW):
            raise Disconnect(EndReason.BAD_REQUEST)  # the first command is no connect, or it is a second connect
        if kind in _UNCOUNTED:
            return
        self._spend()

    def _spend(self) -> None:
        """Take a token for a command.

        Raises:
            Disconnect: refusals have lasted for `flood_close_s`.
            ThalamusError: 111, there is no token.
        """
        now = self.node.clock.monotonic()
        if not self._bucket.take(now):
            if self._bucket.refused_for(now) >= self.node.settings.flood_close_s:
                raise Disconnect(EndReason.TOO_MANY_REQUESTS)
            raise ThalamusError(code=ErrorCode.TOO_MANY_REQUESTS, retry_after_s=self._bucket.retry_after_s())

    def _turn_away(self, command: c.Command) -> None:
        """Refuse a publication because of overload.

        It takes a token as any command does, unless the tokens that are left are needed by the commands in the queue,
        which were accepted before it.
        """
        error: ThalamusError = self.node.publisher.busy()
        waiting = len(self._queue.commands)
        try:
            if not waiting or self._bucket.left(self.node.clock.monotonic()) > waiting:
                self._spend()
        except Disconnect as end:
            self.disconnect(end.reason)
            return
        except ThalamusError as over:
            error = over
        self.reply(command.id, self._error(error))
        self._turned_away += 1

    async def _run(self, command: c.Command) -> None:
        try:
            if self.state is State.CLOSED:
                return  # the session ended before this command began
            result = await handle(cast("Session", self), command)
            if result is not None:
                self.reply(command.id, result)
        except Exception as error:
            self._failed(command, error)
        finally:
            self._busy = False

    async def _run_and_go_on(self, work: Coroutine[Any, Any, None], outside: Context) -> None:
        """Run a command, or the rest of one, then the next ones.

        `outside`: a context without the variables that the command set.
        """
        await work
        outside.run(self._pump)

    def _publish(self, command: c.Command, request: c.Publish) -> None:
        """Check a publication and hand it to the log, without a task.

        `_published` is called with the log's reply.
        """
        try:
            session: Session = self  # type: ignore[assignment]  # a cast costs a call for every publication
            begin_publish(session, request, partial(self._published, command))
        except MustWait:
            context = copy_context()
            self.node.spawn(self._run_and_go_on(self._run(command), copy_context()), context=context)
        except Exception as error:
            self._busy = False
            self._failed(command, error)

    def _published(self, command: c.Command, outcome: Outcome) -> None:
        self._busy = False
        if isinstance(outcome, ThalamusError):
            self._failed(command, outcome)
        else:
            self.reply(command.id, PublishResult(outcome.position.offset, outcome.position.epoch))
        if self._queue.commands or self._paused or self.connection.replies_wait:
            self._pump()

    def _failed(self, command: c.Command, error: Exception) -> None:
        if isinstance(error, Disconnect):
            self.disconnect(error.reason)
            return
        if not isinstance(error, ThalamusError):
            logger.error("command failed", exc_info=error, extra={"command": type(command.request).__name__})
            error = ThalamusError()
        if type(command.request) is c.Connect:
            self.refuse_connect(command.id, self._error(error))
        else:
            self.reply(command.id, self._error(error))

    def _error(self, error: ThalamusError) -> ErrorResult:
        counts = self.node.counters.errors
        counts[error.code] = counts.get(error.code, 0) + 1
        retry_ms = math.ceil(error.retry_after_s * 1000)
        if isinstance(error, CommandRefused):
            refusal = error.refusal
            return ErrorResult(refusal.code, refusal.message, refusal.temporary, retry_ms)
        message = error.message if isinstance(error, ChatRefused) else error.code.message
        return ErrorResult(error.code, message, error.code.temporary, retry_ms)
