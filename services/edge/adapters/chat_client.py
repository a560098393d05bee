"""Client of the conversations that persistence keeps: implements `Chat` over gRPC.

**Purpose.** Events and questions about membership go in batches, over two streams to every replica of persistence.

**A rolling update.** A persistence of before has no `ChatService`, and so it never gives an event a number without
having looked at it. As long as one is connected nothing is asked of the others either (`Unavailable`), so that the
outcome does not depend on which replica is asked. A replica itself says what it lacks when the streams to it are opened
(`UNIMPLEMENTED`). That takes some milliseconds; meanwhile the others may be used. Nothing needs to be restarted: the
streams are tried again every half a second, after an update as after a rollback. While a persistence is connected that
does not know durability `queued`, everything is stored before it is acknowledged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from services.edge.adapters import publication_codec as codec
from services.edge.adapters.chat_codec import options_of, refused
from services.edge.adapters.persistence_client import APPEND_DEADLINE_S
from services.edge.domain.chat.ports import Access
from services.edge.domain.conversations.calls import EarlierVersion
from services.edge.domain.model import AppendResult, Publication, StreamPosition
from services.shared.batching.linger import Linger
from services.shared.errors import Unavailable
from services.shared.incarnation.calls import Known
from services.shared.namespaces import Namespace
from services.shared.rpc.batch_stream import BatchStream
from services.shared.rpc.replicas import Replicas
from thalamus.chat.v1 import chat_pb2 as pb
from thalamus.chat.v1.chat_pb2_grpc import ChatServiceStub

_CHECK_DEADLINE_S = 2.8  # seconds
_OVERHEAD_BYTES = 96  # assumed size of the other fields of an event
_LONGEST_WAIT_S = 0.005  # longest linger of a batch on a busy edge, seconds


class ChatClient:
    """Implements `Chat` (see domain/chat/ports.py) by calls to persistence."""

    def __init__(
        self,
        replicas: Replicas,
        *,
        saw: Callable[[Known], None] = lambda known: None,
        takes_queued: Callable[[], bool] = lambda: False,
    ) -> None:
        """Create it.

        `saw` gets what persistence has seen of Redis before an event is acknowledged. `takes_queued`: whether every
        persistence knows durability `queued`.
        """
        self._saw, self._takes_queued = saw, takes_queued
        self._options: dict[tuple[str, bool], pb.NamespaceOptions] = {}  # by namespace, and whether all take queued
        self._events: BatchStream[pb.EventItem, AppendResult] = BatchStream(
            replicas,
            open=lambda channel: ChatServiceStub(channel).Append,
            pack=lambda items: pb.EventBatch(items=items),
            unpack=self._unpack,
            size=lambda item: len(item.publication) + len(item.channel) + len(item.key) + _OVERHEAD_BYTES,
            deadline_s=APPEND_DEADLINE_S,
            linger=Linger(_LONGEST_WAIT_S),
        )
        self._checks: BatchStream[pb.CheckItem, Access] = BatchStream(
            replicas,
            open=lambda channel: ChatServiceStub(channel).Check,
            pack=lambda items: pb.CheckBatch(items=items),
            unpack=lambda response: (response.taken, [(result.item, _access(result)) for result in response.results]),
            size=lambda item: len(item.channel) + len(item.user),
            deadline_s=_CHECK_DEADLINE_S,
        )

    def _unpack(self, response: pb.EventResults) -> tuple[int, Sequence[tuple[int, AppendResult | Exception]]]:
        self.note(response)
        return response.taken, [(result.item, _outcome(result)) for result in response.results]

    def note(self, response: pb.EventResults | pb.CallResponse) -> None:
        """Take what persistence has seen of Redis."""
        if response.generation:
            self._saw(Known(response.generation, response.writes))

    async def start(self) -> None:
        """Open the streams in the background; returns at once."""
        await self._events.start()
        await self._checks.start()

    async def close(self) -> None:
        """Close the streams."""
        await self._events.close()
        await self._checks.close()

    def append(
        self, channel: str, publication: Publication, *, key_user: str, key: str, namespace: Namespace
    ) -> asyncio.Future[AppendResult]:
        self.require_served()
        return self._events.submit(
            pb.EventItem(
                channel=channel,
                publication=codec.encode(publication),
                publication_id=publication.id,
                key_user=key_user,
                key=key,
                options=self.options(namespace),
            )
        )

    async def check(self, channel: str, user: str) -> Access:
        self.require_served()
        return await self._checks.submit(pb.CheckItem(channel=channel, user=user))

    def options(self, namespace: Namespace) -> pb.NamespaceOptions:
        """Return what persistence needs to know of a namespace."""
        which = namespace.name, self._takes_queued()
        known = self._options.get(which)
        if known is None:
            known = self._options[which] = options_of(namespace, may_queue=which[1])
        return known

    def require_served(self) -> None:
        """Raise `Unavailable` while a persistence of before is connected."""
        if not (self._events.is_served and self._checks.is_served):
            raise EarlierVersion("a persistence of before is connected, which has no conversations", retry_after_s=1.0)


def chat_client(
    replicas: Replicas,
    namespaces: Iterable[Namespace],
    *,
    saw: Callable[[Known], None] = lambda known: None,
    takes_queued: Callable[[], bool] = lambda: False,
) -> ChatClient | None:
    """Return the client; None if no namespace has conversations, so nothing is opened."""
    if not any(namespace.conversations for namespace in namespaces):
        return None
    return ChatClient(replicas, saw=saw, takes_queued=takes_queued)


def _outcome(result: pb.EventResult) -> AppendResult | Exception:
    if result.HasField("refusal"):
        return refused(result.refusal)
    position = result.position
    if not position.offset:
        return Unavailable("persistence did not say what became of it")
    return AppendResult(StreamPosition(position.offset, position.epoch), result.repeated_key)


def _access(result: pb.CheckResult) -> Access | Exception:
    if result.unavailable:
        return Unavailable("persistence can't tell at the moment")
    as_of = StreamPosition(result.as_of.offset, result.as_of.epoch)
    return Access(result.reads, result.posts, result.history_from, as_of)
