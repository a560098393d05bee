"""gRPC service of conversations: checks protobuf messages, and converts them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from services.persistence.chat.append import Appended, Appender, NewEvent, Refused, Result
from services.persistence.chat.conversations import Conversations
from services.persistence.chat.conversions import options_of, refusal_of
from services.persistence.chat.domain.access import history_from, may_post, may_read
from services.persistence.chat.memberships import MAX_USERS, Memberships
from services.persistence.chat.methods.registry import Methods
from services.persistence.response_stream import ResponseStream
from services.shared.checks import MAX_KEY_BYTES, MAX_KEY_USER_BYTES, MAX_USER_BYTES, check_channel, check_text
from services.shared.errors import ErrorCode, ThalamusError, Unavailable
from services.shared.incarnation.calls import Known
from services.shared.process.cancellation import end_task
from thalamus.chat.v1 import chat_pb2 as pb
from thalamus.chat.v1 import chat_pb2_grpc as rpc
from thalamus.common.v1 import common_pb2

logger = logging.getLogger(__name__)


class Access(NamedTuple):
    """What a user may do in a conversation, as of a position."""

    reads: bool
    posts: bool
    history_from: int
    epoch: str
    offset: int


OnAccess = Callable[[int, Access | None], None]
_NO_ACCESS = Access(reads=False, posts=False, history_from=0, epoch="", offset=0)


class ChatServicer(rpc.ChatServiceServicer):
    """Handlers of `thalamus.chat.v1`; one object per process."""

    def __init__(
        self,
        appender: Appender,
        conversations: Conversations,
        methods: Methods,
        memberships: Memberships,
        clock: Callable[[], float],
        known: Callable[[], Known],
    ) -> None:
        """Create it.

        `clock` returns the time of Redis, Unix seconds; `known` what this process has seen of Redis.
        """
        self._known = known
        self._memberships = memberships
        self._appender, self._conversations, self._methods, self._clock = appender, conversations, methods, clock

    async def Append(
        self, request_iterator: AsyncIterator[pb.EventBatch], context: Any
    ) -> AsyncIterator[pb.EventResults]:
        """Append batches of a stream; yield results as soon as they are known."""
        stream = ResponseStream(_event_result, pb.EventResults)
        async with aclosing(stream.serve(request_iterator, self._append)) as responses:
            async for response in responses:
                response.generation, response.writes, _ = self._known()
                yield response

    def _append(self, batch: pb.EventBatch, on_result: Callable[[int, Result], None]) -> None:
        """Hand one batch over; answer invalid items without affecting the others."""
        new: list[NewEvent] = []
        places: list[int] = []
        for place, item in enumerate(batch.items):
            try:
                new.append(_new_event(item))
                places.append(place)
            except ThalamusError as error:
                on_result(place, Refused(int(error.code), "malformed", str(error)))
        whole = len(places) == len(batch.items)
        self._appender.submit(new, on_result if whole else lambda index, result: on_result(places[index], result))

    async def Check(
        self, request_iterator: AsyncIterator[pb.CheckBatch], context: Any
    ) -> AsyncIterator[pb.CheckResults]:
        """Tell what users may do, at the newest position; yield results at once."""
        checking: set[asyncio.Task[None]] = set()

        def take(batch: pb.CheckBatch, on_access: OnAccess) -> None:
            groups, invalid = _by_channel(batch)
            for place in invalid:
                on_access(place, _NO_ACCESS)
            for channel, users in groups.items():
                task = asyncio.create_task(self._check(channel, users, on_access))
                checking.add(task)
                task.add_done_callback(checking.discard)

        stream = ResponseStream(_check_result, pb.CheckResults)
        try:
            async with aclosing(stream.serve(request_iterator, take)) as responses:
                async for response in responses:
                    yield response
        finally:
            for task in list(checking):
                await end_task(task)

    async def Call(self, request: pb.CallRequest, context: Any) -> pb.CallResponse:
        """Execute a method; a refusal is part of the response."""
        response = await self._methods.call(request)
        response.generation, response.writes, _ = self._known()
        return response

    async def Memberships(self, request: pb.MembershipsRequest, context: Any) -> pb.MembershipsResponse:
        """Tell in which conversations users are members."""
        if len(request.users) > MAX_USERS:
            raise ThalamusError(f"at most {MAX_USERS} users", ErrorCode.BAD_REQUEST)
        for user in request.users:
            check_text("user", user, MAX_USER_BYTES, least=1)
        found = await self._memberships.channels_of(request.users)
        return pb.MembershipsResponse(users=[pb.UserConversations(channels=channels) for channels in found])

    async def _check(self, channel: str, users: Sequence[tuple[int, str]], on_access: OnAccess) -> None:
        """Tell of users of one conversation."""
        try:
            live = await self._conversations.current(channel)
        except Exception as error:
            if not isinstance(error, Unavailable):
                logger.exception("access can't be checked")
            for place, _ in users:
                on_access(place, None)
            return
        now_ms = int(self._clock() * 1_000)
        for place, user in users:
            reads = bool(user) and may_read(live.state, user, now_ms)
            posts = reads and may_post(live.state, user, now_ms)
            since = history_from(live.state, user) if reads else 0
            on_access(place, Access(reads, posts, since, live.epoch, live.position))


def _by_channel(batch: pb.CheckBatch) -> tuple[dict[str, list[tuple[int, str]]], list[int]]:
    """Group the users of a batch, with their places, by conversation.

    Also returns the places of items with a channel or user that there can't be.
    """
    groups: dict[str, list[tuple[int, str]]] = {}
    invalid: list[int] = []
    for place, item in enumerate(batch.items):
        try:
            check_channel(item.channel)
            check_text("user", item.user, MAX_USER_BYTES, least=1)
        except ThalamusError:
            invalid.append(place)
        else:
            groups.setdefault(item.channel, []).append((place, item.user))
    return groups, invalid


def _new_event(item: pb.EventItem) -> NewEvent:
    """Check an item, and convert it.

    Raises:
        ThalamusError: a field is not allowed.
    """
    channel, key, key_user = item.channel, item.key, item.key_user  # protobuf makes a value with each read
    publication, publication_id = item.publication, item.publication_id
    check_channel(channel)
    check_text("key", key, MAX_KEY_BYTES)
    check_text("user of the key", key_user, MAX_KEY_USER_BYTES)
    options = options_of(item.options)
    if len(publication_id) != 16:
        raise ThalamusError("the id of a publication has 16 bytes", ErrorCode.BAD_REQUEST)
    try:
        parsed = common_pb2.Publication.FromString(publication)
    except DecodeError as error:
        raise ThalamusError("that is no publication", ErrorCode.BAD_REQUEST) from error
    return NewEvent(
        channel,
        publication,
        publication_id,
        parsed.info.user,
        parsed.data,
        options,
        key_user,
        key,
        by_publish=True,
    )


def _event_result(item: int, result: Result) -> pb.EventResult:
    """Convert the result of an item to protobuf."""
    if isinstance(result, Appended):
        made = pb.EventResult(item=item)
        position = made.position  # filled in place: half the cost of making one and passing it in
        position.offset, position.epoch = result.offset, result.epoch
        if result.repeated_key:
            made.repeated_key = True
        if result.void is not None:
            made.void = result.void.value
        return made
    return pb.EventResult(item=item, refusal=refusal_of(result))


def _check_result(item: int, access: Access | None) -> pb.CheckResult:
    """Convert what a user may do to protobuf."""
    if access is None:
        return pb.CheckResult(item=item, unavailable=True)
    as_of = common_pb2.Position(offset=access.offset, epoch=access.epoch)
    return pb.CheckResult(
        item=item, reads=access.reads, posts=access.posts, history_from=access.history_from, as_of=as_of
    )
