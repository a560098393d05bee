"""Responses of one stream of appends: results, or a sign of life without any.

A response also says how many items were accepted, with or without a result: then the client may send as many more.
Not a `Batcher` (`services/shared/batching`): results are not waited for by callers, and never refused or late.
"""

from __future__ import annotations

import asyncio
import contextlib

from services.persistence.domain.log import AppendedPosition, Outcome, OutcomeCallback
from services.shared.errors import Busy, ErrorCode
from thalamus.common.v1 import common_pb2
from thalamus.persistence.v1 import persistence_pb2 as pb

_REPORT_ACCEPTED_S = 0.02  # seconds after which `taken` is sent without results, so that the client can send more
_OK = common_pb2.ITEM_STATUS_OK
_KEEPALIVE_S = 0.5  # longest silence, seconds: clients that have another replica give up after 1.4 s


class ResponseStream:
    """Responses of one stream; results known in the same tick go in one message."""

    def __init__(self) -> None:
        self._done: list[pb.AppendResult] = []
        self._accepted = self._reported = self._open = 0
        self._report_at = 0.0  # when `taken` must be sent, by the clock of the loop; if `_reported` is behind
        self._ended = False
        self._changed = asyncio.Event()

    def expect(self, items: int) -> OutcomeCallback:
        """Announce the next items; return the callback for their outcomes.

        The callback takes the index of an item among these, and its outcome.
        """
        if not self._open or self._reported == self._accepted:
            self._reported = self._accepted
            self._report_at = asyncio.get_running_loop().time() + _REPORT_ACCEPTED_S
        first = self._accepted
        self._accepted += items
        self._open += items
        self._changed.set()
        return lambda index, outcome: self._add(first + index, outcome)

    def end(self) -> None:
        """Announce that no more items will come."""
        self._ended = True
        self._changed.set()

    async def next(self) -> pb.AppendResults | None:
        """Wait for the next response; None once every item is answered and none will come."""
        clock = asyncio.get_running_loop().time
        silent_since = clock()
        while not self._done:
            if not self._open:
                if self._ended:
                    return None
                await self._wait(None)
                silent_since = clock()
                continue
            due = silent_since + _KEEPALIVE_S
            if self._reported < self._accepted:
                due = min(due, self._report_at)
            if due <= clock():
                break
            await self._wait(due)
        if self._report_at <= clock():
            self._reported = self._accepted
        results, self._done = self._done, []
        return pb.AppendResults(results=results, taken=self._reported)

    async def _wait(self, until: float | None) -> None:
        """Wait for a change until a time by the clock of the loop; None: without limit."""
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._changed.wait()

    def _add(self, item: int, outcome: Outcome) -> None:
        self._open -= 1
        self._done.append(_result(item, outcome))
        self._changed.set()


def _result(item: int, outcome: Outcome) -> pb.AppendResult:
    """Convert the outcome of an item to protobuf."""
    if isinstance(outcome, AppendedPosition):
        result = pb.AppendResult(item=item, status=_OK)
        position = result.position  # filled in place: half the cost of making one and passing it in
        position.offset, position.epoch, result.repeated_key = outcome
        return result
    if outcome.code is ErrorCode.BAD_REQUEST:
        return pb.AppendResult(item=item, status=common_pb2.ITEM_STATUS_INVALID)
    busy = isinstance(outcome, Busy)
    return pb.AppendResult(
        item=item, status=common_pb2.ITEM_STATUS_BUSY if busy else common_pb2.ITEM_STATUS_UNAVAILABLE
    )
