"""gRPC service of persistence: checks protobuf messages, and converts them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from typing import Any

from google.protobuf.message import DecodeError

from services.persistence import response_stream
from services.persistence.domain.log import Log, Request
from services.persistence.domain.outcomes import OutcomeCallback
from services.persistence.domain.ports import MAX_BYTES
from services.persistence.domain.retention import Retention
from services.shared.checks import MAX_KEY_BYTES, MAX_KEY_USER_BYTES, check_channel, check_number, check_text
from services.shared.errors import ErrorCode, ThalamusError
from services.shared.hotlog.hotlog import CHANGES_MEMBERSHIP, COUNTS, ERASES, GRANTS, Item
from services.shared.incarnation.calls import Known
from services.shared.namespaces import MAX_HISTORY_SIZE, MAX_HISTORY_TTL_S
from thalamus.common.v1 import common_pb2
from thalamus.persistence.v1 import persistence_pb2 as pb
from thalamus.persistence.v1 import persistence_pb2_grpc as rpc

_PAGE_ITEMS = 256  # publications of one page
_PAGE_BYTES = 1 << 20  # of one page
_MAX_LIMIT = 10_000  # publications of one read; a higher limit counts as this
_MAX_OFFSET = 2**63 - 1  # largest integer of a store: no log is that long
_ALL_FLAGS = COUNTS | CHANGES_MEMBERSHIP | ERASES | GRANTS


class PersistenceServicer(rpc.PersistenceServiceServicer):
    """Handlers of `thalamus.persistence.v1`; one object per process."""

    def __init__(self, log: Log, retention: Retention, known: Callable[[], Known] = Known) -> None:
        """Create it; `known` returns what this process has seen of Redis."""
        self._log, self._retention, self._known = log, retention, known

    async def Append(
        self, request_iterator: AsyncIterator[pb.AppendBatch], context: Any
    ) -> AsyncIterator[pb.AppendResults]:
        """Append batches of a stream; yield results as soon as they are known.

        The next batches are taken meanwhile.
        """
        yield pb.AppendResults(takes_terms=True)
        async with aclosing(response_stream.of_appends().serve(request_iterator, self._append)) as responses:
            async for response in responses:
                yield response

    async def AppendQueued(
        self, request_iterator: AsyncIterator[pb.AppendBatch], context: Any
    ) -> AsyncIterator[pb.AppendResults]:
        """As `Append`; results may be known before the publications are stored."""
        append = partial(self._append, queued=True)
        async with aclosing(response_stream.of_appends().serve(request_iterator, append)) as responses:
            async for response in responses:
                response.generation, response.writes, _ = self._known()
                yield response

    def _append(self, batch: pb.AppendBatch, on_outcome: OutcomeCallback, *, queued: bool = False) -> None:
        """Hand one batch to the log; answer invalid items without affecting the others."""
        requests: list[Request] = []
        places: list[int] = []
        for place, item in enumerate(batch.items):
            try:
                requests.append(_request(item, queued))
                places.append(place)
            except ThalamusError as error:
                on_outcome(place, error)
        whole = len(places) == len(batch.items)
        self._log.append(requests, on_outcome if whole else lambda index, outcome: on_outcome(places[index], outcome))

    async def Read(self, request: pb.ReadRequest, context: Any) -> AsyncIterator[pb.ReadPage]:
        """Yield pages of at most 256 publications or 1 MiB; at least one page.

        A larger publication has a page to itself.
        """
        check_channel(request.channel)
        check_number("limit", request.limit, 1, 2**32)
        read = self._log.read_counted if request.counts else self._log.read
        found, top = await read(
            request.channel,
            since_offset=min(request.since_offset, _MAX_OFFSET),
            limit=min(request.limit, _MAX_LIMIT),
            reverse=request.reverse,
            max_bytes=request.max_bytes or MAX_BYTES,
        )
        position = common_pb2.Position(offset=top.top, epoch=top.epoch)
        page, size = pb.ReadPage(top=position), 0
        for offset, publication, *counts in found:
            if page.publications and (len(page.publications) >= _PAGE_ITEMS or size + len(publication) > _PAGE_BYTES):
                yield page
                page, size = pb.ReadPage(top=position), 0
            one = page.publications.add(offset=offset, publication=publication)
            if counts:
                one.flags, one.n, one.mv = counts
            size += len(publication)
        yield page

    async def Open(self, request: pb.OpenRequest, context: Any) -> pb.OpenResponse:
        """Return the readable top; with `only_known` a new channel is not begun."""
        check_channel(request.channel)
        if request.only_known and not await self._log.has_begun(request.channel):
            return pb.OpenResponse(unknown=True)
        top = await self._log.open(request.channel)
        return pb.OpenResponse(top=common_pb2.Position(offset=top.top, epoch=top.epoch))

    async def RemoveHistory(self, request: pb.RemoveHistoryRequest, context: Any) -> pb.RemoveHistoryResponse:
        """Remove everything that is readable now."""
        check_channel(request.channel)
        await self._log.remove_history(request.channel)
        return pb.RemoveHistoryResponse()

    async def Kept(self, request: pb.KeptRequest, context: Any) -> pb.KeptResponse:
        """Say what of a channel is kept; `thalamus retention` asks."""
        check_channel(request.channel)
        kept = await self._retention.kept(request.channel)
        namespace = self._retention.of(request.channel)
        return pb.KeptResponse(
            removed=kept.extent.removed,
            top=kept.extent.top,
            oldest_ms=round((kept.oldest_at or 0) * 1_000),
            days=namespace.retention_days if namespace else 0,
            messages=namespace.retention_messages if namespace else 0,
        )


def _request(item: pb.AppendItem, queued: bool = False) -> Request:
    """Check an item, and convert it to a request.

    Raises:
        ThalamusError: a field is not allowed.
    """
    channel, key, key_user = item.channel, item.key, item.key_user  # protobuf makes a value with each read
    publication, publication_id = item.publication, item.publication_id
    flags, guard = 0, None
    if item.HasField("terms"):
        if publication_id:  # a replica that does not know `terms` would take it as any other
            raise ThalamusError("with terms the id is in them", ErrorCode.BAD_REQUEST)
        publication_id, flags = item.terms.publication_id, item.terms.flags
        guard = item.terms.guard if item.terms.HasField("guard") else None
        check_number("flags", flags, 0, _ALL_FLAGS)
        check_number("guard", guard or 0, 0, _MAX_OFFSET)
    history_size, history_ttl_s = item.history_size, item.history_ttl_s
    check_channel(channel)
    check_text("key", key, MAX_KEY_BYTES, least=1)
    check_text("user of the key", key_user, MAX_KEY_USER_BYTES)
    check_number("history_size", history_size, 1, MAX_HISTORY_SIZE)
    check_number("history_ttl_s", history_ttl_s, 1, MAX_HISTORY_TTL_S)
    if len(publication_id) != 16:
        raise ThalamusError("the id of a publication has 16 bytes", ErrorCode.BAD_REQUEST)
    try:  # a publication that nobody can parse would break every recovery of the channel
        author = common_pb2.Publication.FromString(publication).info.user
    except DecodeError as error:
        raise ThalamusError("that is no publication", ErrorCode.BAD_REQUEST) from error
    if flags:  # behind the others: of a field that is there twice the last counts
        publication += common_pb2.Publication(flags=flags).SerializeToString()
    told = author if item.feed else None
    return Request(
        channel,
        Item(publication_id, publication, key_user, key, told, flags, guard),
        history_size,
        history_ttl_s,
        queued and not flags,
    )
