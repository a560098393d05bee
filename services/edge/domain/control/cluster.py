"""Executes an operation on every edge and collects the replies.

Questions (channels, info, connections) go to the edges that are connected at that moment. Control commands
(disconnect, unsubscribe and so on) are also kept in the control log, so that an edge that missed one executes it later.
The module `command_log` has the design of the latter.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
from typing import Any, NamedTuple

import msgspec

from services.edge.domain.control.command_log import CHECK_S, ControlLogFollower
from services.edge.domain.control.operations import OPERATIONS, Operation, Question, execute
from services.edge.domain.ends import EndReason
from services.edge.domain.model import ControlCommand
from services.edge.domain.ports import ControlBus, ControlLog
from services.edge.domain.session.node import Node
from services.shared.errors import Busy, ErrorCode, ThalamusError, Unavailable

logger = logging.getLogger(__name__)

_REPLY_S = 1.5  # longest wait for the replies of all edges, seconds
_MAX_RUNNING = 1_000  # operations that this edge waits for, and as many that it executes


class _Message(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Message of the control channel and of the control log.

    A request has `op`, the name of the operation, and `args`. A reply has `to`, the id of the edge that asked, and
    `result` or `error`. `quiet`: nobody waits for replies, and none is sent.
    """

    id: str
    sender: str
    op: str = ""
    args: msgspec.Raw = msgspec.Raw(b"{}")
    to: str = ""
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: int = 0
    quiet: bool = False


class Answers(NamedTuple):
    """What edges answered to a question, and how many edges did not."""

    answers: list[dict[str, Any]]
    unanswered: int


class _Survey:
    def __init__(self) -> None:
        self.by_sender: dict[str, _Message] = {}
        self.expected: int | None = None
        self.done = asyncio.Event()

    def check(self) -> None:
        if self.expected is not None and len(self.by_sender) >= self.expected:
            self.done.set()


class Cluster:
    """Sends operations to all edges, and executes those that arrive here."""

    def __init__(self, node: Node, bus: ControlBus, log: ControlLog, *, check_s: float = CHECK_S) -> None:
        self.control_log = ControlLogFollower(log, self._on_command, self._on_missed, check_s=check_s)
        self._node = node
        self._bus = bus
        self._log = log
        self._surveys: dict[str, _Survey] = {}
        self._running = 0
        self._decoder = msgspec.json.Decoder(_Message)

    async def everywhere(self, operation: Operation) -> list[dict[str, Any]]:
        """Execute the operation on every edge; return one answer for each connected edge.

        A control command is kept in the control log: an edge that is disconnected executes it once it is connected
        again, and is not waited for.

        Raises:
            Unavailable: Redis did not accept it, no edge is connected, or an edge did not answer in time. Some edges
                may have executed it nevertheless.
            Busy: too many operations wait for replies; nothing was done.
            ThalamusError: an edge refused it.
        """
        answers, missing = await self._survey(operation)
        if missing:
            raise Unavailable(f"{missing} of {len(answers) + missing} edges did not answer")
        return answers

    async def ask(self, question: Question, *, partial: bool) -> Answers:
        """Ask every edge.

        `partial`: go on without those that do not answer in time, or fail. Raises as `everywhere` does otherwise.
        """
        if not partial:
            return Answers(await self.everywhere(question), 0)
        return Answers(*await self._survey(question, partial=True))

    async def _survey(self, operation: Operation, *, partial: bool = False) -> tuple[list[dict[str, Any]], int]:
        """Return the answers that came in time, and how many others there are."""
        if len(self._surveys) >= _MAX_RUNNING:
            raise Busy("too many operations wait for replies")
        survey = _Survey()
        question = _Message(
            id=os.urandom(12).hex(),
            sender=self._node.edge_id,
            op=type(operation).__name__,
            args=msgspec.Raw(msgspec.json.encode(operation)),
        )
        self._surveys[question.id] = survey
        try:
            send = self._bus.publish_control if isinstance(operation, Question) else self._log.append
            survey.expected = await send(msgspec.json.encode(question))
            survey.check()
            if survey.expected:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_REPLY_S):
                        await survey.done.wait()
        finally:
            del self._surveys[question.id]
        if not survey.expected:
            raise Unavailable("no edge receives the control channel")
        answers, failed = [], 0
        for reply in survey.by_sender.values():
            if reply.error == ErrorCode.TOO_MANY_REQUESTS or (reply.error and partial):
                failed += 1
            elif reply.error:
                raise ThalamusError(code=ErrorCode(reply.error))
            else:
                answers.append(msgspec.json.decode(reply.result))
        return answers, max(survey.expected - len(survey.by_sender), 0) + failed

    async def tell(self, command: Operation) -> None:
        """Have every edge execute a control command; return once it is in the control log.

        Nobody replies.

        Raises:
            Unavailable: Redis does not answer; the edges may execute it nevertheless.
        """
        message = _Message(
            id=os.urandom(12).hex(),
            sender=self._node.edge_id,
            op=type(command).__name__,
            args=msgspec.Raw(msgspec.json.encode(command)),
            quiet=True,
        )
        await self._log.append(msgspec.json.encode(message))

    def on_control(self, payload: bytes) -> None:
        """Take a question or a reply from the control channel.

        A message that can't be decoded is logged and dropped.
        """
        if not self._receive(payload, math.inf):
            logger.error("too many control operations at once; a question is dropped")

    def _on_command(self, command: ControlCommand) -> bool:
        asked_at = (command.id[0] + 1) / 1000  # Unix seconds; the id is rounded down to a millisecond
        return self._receive(command.payload, self._node.clock.monotonic_at(asked_at))

    def _receive(self, payload: bytes, before: float) -> bool:
        """Start what a message asks for, in a task of its own.

        `before`: the operation is for connections that were opened before this time (monotonic seconds).

        Return False if too many operations run; then nothing was done. A message that can't be decoded counts as done.
        """
        try:
            message = self._decoder.decode(payload)
            if message.to:
                self._receive_reply(message)
                return True
            operation = msgspec.json.decode(message.args, type=OPERATIONS[message.op])
        except (msgspec.MsgspecError, KeyError) as error:
            logger.warning("unreadable control message", extra={"error": repr(error)})
            return True
        if self._running >= _MAX_RUNNING:
            return False
        self._running += 1
        self._node.spawn(self._reply(message, operation, before))
        return True

    def _on_missed(self, command: ControlCommand) -> None:
        """Close connections because commands before `command` were missed and are gone.

        Nobody knows which clients they were for. So every connection that was open when the last of them was appended
        is closed. The clients reconnect, and their tokens are checked again. Profiles are read anew.
        """
        self._node.profiles.clear()
        last = self._node.clock.monotonic_at((command.previous[0] + 1) / 1000)
        ended = [session for session in self._node.clients.values() if session.opened_at < last]
        if ended:
            logger.error(
                "missed control commands are no longer kept",
                extra={"sessions_ended": len(ended)},
            )
        for session in ended:
            session.disconnect(EndReason.INSUFFICIENT_STATE, by_backend=True)  # it may have been one of these

    def _receive_reply(self, message: _Message) -> None:
        survey = self._surveys.get(message.id) if message.to == self._node.edge_id else None
        if survey is not None:
            survey.by_sender[message.sender] = message
            survey.check()

    async def _reply(self, question: _Message, operation: Operation, before: float) -> None:
        reply = _Message(id=question.id, sender=self._node.edge_id, to=question.sender)
        try:
            reply.result = msgspec.Raw(msgspec.json.encode(await execute(self._node, operation, before)))
        except ThalamusError as error:
            reply.error = int(error.code)
        except Exception:
            logger.exception("control operation failed", extra={"op": question.op})
            reply.error = int(ErrorCode.INTERNAL)
        finally:
            self._running -= 1
        if question.quiet:
            return
        try:
            if question.sender == self._node.edge_id:
                self._receive_reply(reply)
            else:
                await self._bus.publish_control(msgspec.json.encode(reply))
        except (Unavailable, Busy):
            logger.warning("a reply to the cluster was lost", extra={"op": question.op})
