"""gRPC face: protobuf in and out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from services.persistence.answers import Answers
from services.persistence.domain.log import Log, Request
from services.shared.cancellation import end_task
from services.shared.errors import ErrorCode, ThalamusError
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
        """Results as they are known, while the next batches come in."""
        answers = Answers()
        taking = asyncio.create_task(self._take(request_iterator, answers))
        try:
            while (answer := await answers.next()) is not None:
                yield answer
            await taking
        finally:
            await end_task(taking)

    async def _take(self, batches: AsyncIterator[pb.AppendBatch], answers: Answers) -> None:
        try:
            async for batch in batches:
                if len(batch.items) > _MAX_ITEMS:
                    raise ThalamusError("too many items in a batch", ErrorCode.BAD_REQUEST)
                requests = [_request(item) for item in batch.items]
                self._log.append(requests, answers.expect(len(requests)))
        finally:
            answers.end()

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
    channel, key, publication_id = item.channel, item.key, item.publication_id  # each is made when it is asked for
    if not channel or not key or len(publication_id) != 16:
        raise ThalamusError("an item without channel, key or id", ErrorCode.BAD_REQUEST)
    hot_item = Item(publication_id, item.publication, item.key_user, key)
    return Request(channel, hot_item, item.history_size, item.history_ttl_s)
