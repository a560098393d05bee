"""Responses of one stream: results of its items, or a sign of life without any.

A response also says how many items were accepted, with or without a result: then the client may send as many more.
Not a `Batcher` (`services/shared/batching`): results are not waited for by callers, and never refused or late.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Generic, Protocol, TypeVar

from services.persistence.domain.outcomes import AppendedPosition, Outcome, Recheck
from services.shared.errors import Busy, ErrorCode, ThalamusError
from services.shared.process.cancellation import end_task
from thalamus.common.v1 import common_pb2
from thalamus.persistence.v1 import persistence_pb2 as pb

_REPORT_ACCEPTED_S = 0.02  # seconds after which `taken` is sent without results, so that the client can send more
_OK = common_pb2.ITEM_STATUS_OK
MAX_ITEMS = 256  # of one batch
_KEEPALIVE_S = 0.5  # longest silence, seconds: clients that have another replica give up after 1.4 s


Found = TypeVar("Found")  # what is found out about an item
Result = TypeVar("Result")  # the message of an item
Response = TypeVar("Response")
Batch = TypeVar("Batch", bound="_Batch")
Response_co = TypeVar("Response_co", covariant=True)
Result_contra = TypeVar("Result_contra", contravariant=True)


class _Batch(Protocol):
    """A message of the client."""

    @property
    def items(self) -> Sequence[object]: ...


class _MakeResponse(Protocol[Result_contra, Response_co]):
    """Makes a response: the class of its message."""

    def __call__(self, *, results: Sequence[Result_contra], taken: int) -> Response_co: ...


class ResponseStream(Generic[Found, Result, Response]):
    """Responses of one stream; results known in the same tick go in one message."""

    def __init__(self, convert: Callable[[int, Found], Result], respond: _MakeResponse[Result, Response]) -> None:
        """Create it.

        Args:
            convert: Makes the message of an item of its number in the stream, and of what was found out about it.
            respond: Makes a response.
        """
        self._convert, self._respond = convert, respond
        self._done: list[Result] = []
        self._accepted = self._reported = self._open = 0
        self._report_at = 0.0  # when `taken` must be sent, by the clock of the loop; if `_reported` is behind
        self._ended = False
        self._changed = asyncio.Event()

    async def serve(
        self, batches: AsyncIterator[Batch], take: Callable[[Batch, Callable[[int, Found], None]], None]
    ) -> AsyncGenerator[Response, None]:
        """Take batches until the client ends its side; yield responses meanwhile.

        The last one comes once all items are answered. Close it (`aclosing`) to take no more.

        Args:
            batches: What the client sends.
            take: Begins a batch. It gets the callback for the outcomes of its items, as `expect` returns it.

        Raises:
            ThalamusError: 107, a batch has too many items.
        """
        receiving = asyncio.create_task(self._receive(batches, take))
        try:
            while (response := await self.next()) is not None:
                yield response
            await receiving
        finally:
            await end_task(receiving)

    async def _receive(
        self, batches: AsyncIterator[Batch], take: Callable[[Batch, Callable[[int, Found], None]], None]
    ) -> None:
        try:
            async for batch in batches:
                if len(batch.items) > MAX_ITEMS:
                    raise ThalamusError("too many items in a batch", ErrorCode.BAD_REQUEST)
                take(batch, self.expect(len(batch.items)))
        finally:
            self.end()

    def expect(self, items: int) -> Callable[[int, Found], None]:
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

    async def next(self) -> Response | None:
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
        return self._respond(results=results, taken=self._reported)

    async def _wait(self, until: float | None) -> None:
        """Wait for a change until a time by the clock of the loop; None: without limit."""
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._changed.wait()

    def _add(self, item: int, found: Found) -> None:
        self._open -= 1
        self._done.append(self._convert(item, found))
        self._changed.set()


def of_appends() -> ResponseStream[Outcome, pb.AppendResult, pb.AppendResults]:
    """Return the responses of a stream of appends to the log."""
    return ResponseStream(_result, pb.AppendResults)


def _result(item: int, outcome: Outcome) -> pb.AppendResult:
    """Convert the outcome of an item to protobuf."""
    if isinstance(outcome, AppendedPosition):
        result = pb.AppendResult(item=item, status=_OK)
        position = result.position  # filled in place: half the cost of making one and passing it in
        position.offset, position.epoch, result.repeated_key = outcome
        return result
    if isinstance(outcome, Recheck):
        return pb.AppendResult(item=item, status=common_pb2.ITEM_STATUS_RECHECK, mv=outcome.mv)
    if outcome.code is ErrorCode.BAD_REQUEST:
        return pb.AppendResult(item=item, status=common_pb2.ITEM_STATUS_INVALID)
    busy = isinstance(outcome, Busy)
    return pb.AppendResult(
        item=item, status=common_pb2.ITEM_STATUS_BUSY if busy else common_pb2.ITEM_STATUS_UNAVAILABLE
    )
