"""Client of the persistence service: implements `Store` over gRPC.

Appends go in batches, over one stream to every replica. Reads are single calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc

from services.edge.adapters import publication_codec as codec
from services.edge.domain.model import AppendResult, HistoryPage, Publication, StreamPosition
from services.shared.batching.linger import Linger
from services.shared.errors import Busy, ErrorCode, ThalamusError, Unavailable
from services.shared.incarnation.calls import Known
from services.shared.rpc.batch_stream import BatchStream
from services.shared.rpc.replicas import Replicas
from thalamus.common.v1 import common_pb2
from thalamus.persistence.v1 import persistence_pb2 as pb
from thalamus.persistence.v1.persistence_pb2_grpc import PersistenceServiceStub

APPEND_DEADLINE_S = 2.8  # deadline of an append, seconds
READ_DEADLINE_S = 2.5  # deadline of every other call, seconds
_OVERHEAD_BYTES = 64  # assumed size of the other fields of an append
_UINT32 = (1 << 32) - 1
_LONGEST_WAIT_S = 0.005  # longest linger of a batch on a busy edge, seconds
Response = TypeVar("Response")


class PersistenceClient:
    """Implements `Store` (see domain/ports.py) by calls to the persistence service."""

    def __init__(
        self,
        replicas: Replicas,
        *,
        saw: Callable[[Known], None] = lambda known: None,
        has_queued: bool = True,
    ) -> None:
        """Create it.

        `saw` gets what persistence has seen of Redis before a queued append is acknowledged. `has_queued`: whether
        there may be queued appends; without them no stream is opened for them.
        """
        self._replicas, self._saw = replicas, saw
        self._appends = self._stream(lambda channel: PersistenceServiceStub(channel).Append)
        self._has_queued = has_queued
        self._queued = self._stream(lambda channel: PersistenceServiceStub(channel).AppendQueued)

    def _stream(self, method: Callable[[grpc.aio.Channel], Any]) -> BatchStream[pb.AppendItem, AppendResult]:
        return BatchStream(
            self._replicas,
            open=method,
            pack=lambda items: pb.AppendBatch(items=items),
            unpack=self._unpack,
            size=lambda item: len(item.publication) + len(item.channel) + len(item.key) + _OVERHEAD_BYTES,
            deadline_s=APPEND_DEADLINE_S,
            linger=Linger(_LONGEST_WAIT_S),
        )

    def _unpack(self, response: pb.AppendResults) -> tuple[int, Sequence[tuple[int, AppendResult | Exception]]]:
        if response.generation:
            self._saw(Known(response.generation, response.writes))
        return response.taken, [(result.item, _outcome(result)) for result in response.results]

    @property
    def takes_queued(self) -> bool:
        """Whether every connected persistence knows durability `queued`."""
        return self._has_queued and self._queued.is_served

    async def start(self) -> None:
        """Open the streams in the background; returns at once."""
        await self._appends.start()
        if self._has_queued:
            await self._queued.start()

    async def close(self) -> None:
        """Close the streams."""
        await self._appends.close()
        if self._has_queued:
            await self._queued.close()

    def append(
        self,
        channel: str,
        publication: Publication,
        *,
        key_user: str,
        key: str,
        history_size: int,
        history_ttl_s: int,
        feed: bool = False,
        queued: bool = False,
    ) -> asyncio.Future[AppendResult]:
        item = pb.AppendItem(
            channel=channel,
            publication=codec.encode(publication),
            publication_id=publication.id,
            key_user=key_user,
            key=key,
            history_size=history_size,
            history_ttl_s=history_ttl_s,
            feed=feed,
        )
        # A replica of an earlier version would not know that a queued channel has more than the store.
        stream = self._queued if queued and self.takes_queued else self._appends
        return stream.submit(item)

    async def open(self, channel: str) -> StreamPosition:
        request = pb.OpenRequest(channel=channel)

        async def call(replica: grpc.aio.Channel) -> pb.OpenResponse:
            return await PersistenceServiceStub(replica).Open(request, timeout=READ_DEADLINE_S)

        response = await self._call(call)
        return StreamPosition(response.top.offset, response.top.epoch)

    async def has_begun(self, channel: str) -> bool:
        request = pb.OpenRequest(channel=channel, only_known=True)

        async def call(replica: grpc.aio.Channel) -> pb.OpenResponse:
            return await PersistenceServiceStub(replica).Open(request, timeout=READ_DEADLINE_S)

        return not (await self._call(call)).unknown

    async def read(self, channel: str, *, since_offset: int, limit: int, reverse: bool, max_bytes: int) -> HistoryPage:
        request = pb.ReadRequest(
            channel=channel, since_offset=since_offset, limit=limit, reverse=reverse, max_bytes=min(max_bytes, _UINT32)
        )

        async def call(replica: grpc.aio.Channel) -> HistoryPage:
            publications: list[Publication] = []
            top = StreamPosition(0, "")
            size = 0
            async for page in PersistenceServiceStub(replica).Read(request, timeout=READ_DEADLINE_S):
                top = StreamPosition(page.top.offset, page.top.epoch)
                publications += [codec.decode(one.publication, one.offset) for one in page.publications]
                size += sum(len(one.publication) for one in page.publications)
                if size > max_bytes:
                    break
            return HistoryPage(publications, top)

        return await self._call(call)

    async def remove_history(self, channel: str) -> None:
        request = pb.RemoveHistoryRequest(channel=channel)

        async def call(replica: grpc.aio.Channel) -> None:
            await PersistenceServiceStub(replica).RemoveHistory(request, timeout=READ_DEADLINE_S)

        await self._call(call)

    async def _call(self, make: Callable[[grpc.aio.Channel], Awaitable[Response]]) -> Response:
        try:
            return await self._replicas.call(make, READ_DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            raise Unavailable(f"persistence says {error.code().name}") from error


def _outcome(result: pb.AppendResult) -> AppendResult | Exception:
    match result.status:
        case common_pb2.ITEM_STATUS_OK:
            position = result.position
            return AppendResult(StreamPosition(position.offset, position.epoch), result.repeated_key)
        case common_pb2.ITEM_STATUS_BUSY:
            return Busy("too much of the channel is not stored yet")
        case common_pb2.ITEM_STATUS_INVALID:
            return ThalamusError("the store refused the publication", ErrorCode.BAD_REQUEST)
    return Unavailable("persistence could not store it; the outcome is unknown")
