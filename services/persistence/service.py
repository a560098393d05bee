"""gRPC face: protobuf in and out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from services.persistence.domain.log import Log, Outcome, Position, Request, TooLarge
from services.shared.errors import Busy, ErrorCode, ThalamusError
from services.shared.hotlog.hotlog import Item
from thalamus.common.v1 import common_pb2
from thalamus.persistence.v1 import persistence_pb2 as pb
from thalamus.persistence.v1 import persistence_pb2_grpc as rpc

_PAGE_ITEMS = 256
_PAGE_BYTES = 1 << 20
_MAX_LIMIT = 10_000
_MAX_ITEMS = 256


class PersistenceServicer(rpc.PersistenceServiceServicer):
    """One per process."""

    def __init__(self, log: Log) -> None:
        self._log = log

    async def Append(
        self, request_iterator: AsyncIterator[pb.AppendBatch], context: Any
    ) -> AsyncIterator[pb.AppendResults]:
        """One answer per batch, in order."""
        async for batch in request_iterator:
            if len(batch.items) > _MAX_ITEMS:
                raise ThalamusError("too many items in a batch", ErrorCode.BAD_REQUEST)
            outcomes = await self._log.append([_request(item) for item in batch.items])
            yield pb.AppendResults(results=[_result(outcome) for outcome in outcomes])

    async def Read(self, request: pb.ReadRequest, context: Any) -> AsyncIterator[pb.ReadPage]:
        """Pages of at most 256 or 1 MiB; at least one."""
        found, top = await self._log.read(
            request.channel,
            since_offset=request.since_offset,
            limit=max(1, min(request.limit, _MAX_LIMIT)),
            reverse=request.reverse,
        )
        position = common_pb2.Position(offset=top.top, epoch=top.epoch)
        page, size = pb.ReadPage(top=position), 0
        for offset, publication in found:
            if page.publications and (len(page.publications) >= _PAGE_ITEMS or size + len(publication) > _PAGE_BYTES):
                yield page
                page, size = pb.ReadPage(top=position), 0
            page.publications.add(offset=offset, publication=publication)
            size += len(publication)
        yield page

    async def Open(self, request: pb.OpenRequest, context: Any) -> pb.OpenResponse:
        """Readable top."""
        top = await self._log.open(request.channel)
        return pb.OpenResponse(top=common_pb2.Position(offset=top.top, epoch=top.epoch))

    async def RemoveHistory(self, request: pb.RemoveHistoryRequest, context: Any) -> pb.RemoveHistoryResponse:
        """Drop everything readable."""
        await self._log.remove_history(request.channel)
        return pb.RemoveHistoryResponse()


def _request(item: pb.AppendItem) -> Request:
    if not item.channel or not item.key or len(item.publication_id) != 16:
        raise ThalamusError("an item without channel, key or id", ErrorCode.BAD_REQUEST)
    return Request(
        item.channel,
        Item(item.publication_id, item.publication, item.key_user, item.key),
        item.history_size,
        item.history_ttl_s,
    )


def _result(outcome: Outcome) -> pb.AppendResult:
    if isinstance(outcome, Position):
        return pb.AppendResult(
            status=common_pb2.ITEM_STATUS_OK,
            position=common_pb2.Position(offset=outcome.offset, epoch=outcome.epoch),
            repeated_key=outcome.repeated_key,
        )
    if isinstance(outcome, TooLarge):
        return pb.AppendResult(status=common_pb2.ITEM_STATUS_INVALID)
    busy = isinstance(outcome, Busy)
    return pb.AppendResult(status=common_pb2.ITEM_STATUS_BUSY if busy else common_pb2.ITEM_STATUS_UNAVAILABLE)
