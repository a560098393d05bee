"""Publishing: checks a publication and hands it to the log of its channel."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable
from functools import partial

from services.edge.domain.channels.backlog import Backlog
from services.edge.domain.channels.data_format import checked_data
from services.edge.domain.channels.publish_admission import PublishAdmission
from services.edge.domain.chat.ports import Chat, NoChat
from services.edge.domain.chat.refusal_time import wait_s
from services.edge.domain.model import AppendResult, ClientInfo, Publication, StreamPosition
from services.edge.domain.ports import Broker, Store
from services.edge.domain.settings import Settings
from services.edge.domain.timings import ACK_SECONDS
from services.shared.errors import Busy, ErrorCode, ThalamusError, Unavailable
from services.shared.namespaces import ChannelEvent, Durability, Namespace, Namespaces
from services.shared.process.metrics import Buckets

logger = logging.getLogger(__name__)

_HOT_SECONDS, _STORED_SECONDS, _NONE_SECONDS = ACK_SECONDS["hot"], ACK_SECONDS["stored"], ACK_SECONDS["none"]
_QUEUED_SECONDS = ACK_SECONDS["queued"]
MAX_TAGS = 32  # of a publication: every subscriber gets them all
_NO_POSITION = AppendResult(StreamPosition(0, ""), False)

Outcome = AppendResult | ThalamusError


class Publisher:
    """Publishes messages; the caller has checked the permission.

    A publication is done once the channel's log has it: the store for `stored`, Redis for `hot` and `queued`. With
    durability `none` it is done once it is published in Redis.
    """

    def __init__(
        self,
        broker: Broker,
        store: Store,
        namespaces: Namespaces,
        settings: Settings,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        chat: Chat | None = None,
    ) -> None:
        self._broker = broker
        self._store = store
        self._chat = chat or NoChat()
        self._namespaces = namespaces
        self._settings = settings
        self.monotonic = monotonic
        self.admission = PublishAdmission(
            max_wait_s=settings.max_publish_wait_s, max_bytes=settings.max_pending_publish_bytes, now=monotonic()
        )
        self.published = 0
        self._ids = _RandomIds()

    def backlog_of(self, channel: str) -> Backlog | None:
        """Return the backlog of the channel's log.

        None if the channel has no namespace, or a hook sees its publications: they wait for the hook first, and are
        admitted behind it.
        """
        namespace = self._namespaces.find(channel)
        if namespace is None or namespace.publish_hook:
            return None
        return self._backlog(namespace.durability)

    def _backlog(self, durability: Durability) -> Backlog:
        return self.admission.store if durability.keeps else self.admission.redis

    async def publish(
        self,
        channel: str,
        namespace: Namespace,
        data: bytes | None,
        *,
        time_ms: int,
        tags: dict[str, str] | None = None,
        key_user: str = "",
        key: str = "",
        keep: bool = True,
    ) -> AppendResult:
        """Publish one message and wait for the outcome; see `begin`.

        Raises:
            ThalamusError: as `begin`.
            Unavailable: the outcome is unknown; repeat with the same key.
        """
        kept: asyncio.Future[AppendResult] = asyncio.get_running_loop().create_future()

        def settle(outcome: Outcome) -> None:
            if kept.done():
                return
            if isinstance(outcome, ThalamusError):
                kept.set_exception(outcome)
            else:
                kept.set_result(outcome)

        self.begin(channel, namespace, data, settle, time_ms=time_ms, tags=tags, key_user=key_user, key=key, keep=keep)
        return await kept

    def begin(
        self,
        channel: str,
        namespace: Namespace,
        data: bytes | None,
        settle: Callable[[Outcome], None],
        *,
        time_ms: int,
        info: ClientInfo | None = None,
        tags: dict[str, str] | None = None,
        key_user: str = "",
        key: str = "",
        exclude_client: str = "",
        keep: bool = True,
        admitted: bool = False,
    ) -> None:
        """Publish one message, and return before it is in the log.

        Args:
            settle: Called once with the outcome, after this method has returned. Not called if this raises.
            key_user: Whose idempotency keys `key` belongs to.
            key: Idempotency key: a repeated one publishes nothing and gives the first position. Empty: none.
            exclude_client: Id of a client that the message is not pushed to.
            keep: False: publish as in a channel without a log, so without offset, history and key.
            admitted: The publication was accepted on arrival, and is not checked against the overload limits again.

        Raises:
            ThalamusError: 107 for data that is not what the namespace takes (see `data_format`) or a key that is not
                allowed, 106 for too much data, or too many or too long tags; 108 for what is not to be kept of a
                conversation.
            Unavailable: the log does not answer at the moment.
            Busy: overload; nothing was done.
        """
        data = checked_data(data, namespace)
        size = len(data)
        if size > namespace.max_data_bytes:
            raise ThalamusError("data too large", ErrorCode.LIMIT_EXCEEDED)
        if tags:
            size += checked_tags(tags, namespace.max_data_bytes - size)
        if key and len(key.encode("utf-8", "surrogatepass")) > self._settings.idempotency_key_max_bytes:
            raise ThalamusError("idempotency key too long", ErrorCode.BAD_REQUEST)
        publication = Publication(data, info, tags or {}, self._ids.next(), exclude_client, time_ms)
        if not keep and namespace.conversations:
            raise ThalamusError("every event of a conversation is kept", ErrorCode.NOT_AVAILABLE)
        durability = namespace.durability if keep else Durability.NONE
        backlog, now = self._backlog(durability), self.monotonic()
        if not (admitted or self.admission.admit(backlog, size, now)):
            raise self.busy()
        kept = self._hand_over(channel, namespace, durability, publication, key_user, key)
        waiting = _Waiting(self, backlog, size, _seconds_of(durability), settle, now)
        future = kept if isinstance(kept, asyncio.Future) else asyncio.ensure_future(kept)
        future.add_done_callback(waiting)

    async def publish_ephemeral(
        self, channel: str, namespace: Namespace, data: bytes, info: ClientInfo | None = None
    ) -> None:
        """Publish an ephemeral event, see `ephemeral`.

        `data` is a JSON text, `info` in whose name it is. What can't be sent is dropped: nobody waits for it.
        """
        if len(data) > namespace.max_data_bytes:
            return
        with contextlib.suppress(Unavailable, Busy):
            await self._broker.publish_ephemeral(channel, Publication(data, info, id=self._ids.next()))

    def busy(self) -> Busy:
        """Return the error for a publication that is refused because of overload."""
        return Busy("too many publications wait")

    def refuse(self, settle: Callable[[Outcome], None], error: ThalamusError, took_s: float) -> None:
        """Give the outcome of a publication that failed.

        That somebody may not publish is said by conversations alone, in their time.
        """
        if error.code is not ErrorCode.PERMISSION_DENIED:
            settle(error)
            return
        delay_s = wait_s(self._settings.refusal_step_s, took_s)
        asyncio.get_running_loop().call_later(delay_s, settle, error)

    def _hand_over(
        self,
        channel: str,
        namespace: Namespace,
        durability: Durability,
        publication: Publication,
        key_user: str,
        key: str,
    ) -> Awaitable[AppendResult]:
        if durability is Durability.NONE:
            return self._announce(channel, publication)
        stored = durability.keeps
        if stored and namespace.conversations:
            return self._chat.append(channel, publication, key_user=key_user, key=key, namespace=namespace)
        append = self._store.append if stored else self._broker.append
        if durability is Durability.QUEUED:
            append = partial(self._store.append, queued=True)
        return append(
            channel,
            publication,
            key_user=key_user,
            key=key or (publication.id.hex() if stored else ""),
            history_size=namespace.history_size,
            history_ttl_s=namespace.history_ttl_s,
            feed=bool(namespace.events) and ChannelEvent.PUBLICATION in namespace.events,
        )

    async def _announce(self, channel: str, publication: Publication) -> AppendResult:
        await self._broker.publish(channel, publication)
        return _NO_POSITION


def checked_tags(tags: dict[str, str], most: int) -> int:
    """Return the bytes of the tags.

    Raises:
        ThalamusError: 106, if there are too many, or they have more than `most` bytes.
    """
    size = sum(len(text.encode("utf-8", "surrogatepass")) for tag in tags.items() for text in tag)
    if len(tags) > MAX_TAGS or size > most:
        raise ThalamusError("too many tags, or data and tags too large", ErrorCode.LIMIT_EXCEEDED)
    return size


class _RandomIds:
    """Random ids of publications.

    Random bytes are taken from the kernel for many ids at once: a system call for each would cost more than the rest.
    """

    _SUPPLY = 256  # ids per system call

    def __init__(self) -> None:
        self._bytes = b""
        self._used = 0

    def next(self) -> bytes:
        """Return 16 random bytes."""
        if self._used == len(self._bytes):
            self._bytes, self._used = os.urandom(16 * self._SUPPLY), 0
        self._used += 16
        return self._bytes[self._used - 16 : self._used]


def _seconds_of(durability: Durability) -> Buckets:
    """Return the histogram of a durability.

    It compares by identity, because hashing a member of an enumeration takes longer than counting.
    """
    if durability is Durability.HOT:
        return _HOT_SECONDS
    if durability is Durability.QUEUED:
        return _QUEUED_SECONDS
    return _STORED_SECONDS if durability is Durability.STORED else _NONE_SECONDS


class _Waiting:
    """One publication that waits for its log: the callback of the log's reply."""

    __slots__ = ("_backlog", "_began", "_publisher", "_seconds", "_settle", "_size")

    def __init__(
        self,
        publisher: Publisher,
        backlog: Backlog,
        size: int,
        seconds: Buckets,
        settle: Callable[[Outcome], None],
        now: float,
    ) -> None:
        self._publisher, self._backlog, self._size = publisher, backlog, size
        self._seconds, self._settle, self._began = seconds, settle, now
        backlog.began(now)
        backlog.waiting += 1
        publisher.admission.bytes += size

    def __call__(self, kept: asyncio.Future[AppendResult]) -> None:
        publisher, backlog = self._publisher, self._backlog
        now = publisher.monotonic()
        took_s = now - self._began
        backlog.ended(now, took_s)
        backlog.waiting -= 1
        publisher.admission.bytes -= self._size
        error = Unavailable("given up") if kept.cancelled() else kept.exception()
        if error is None:
            publisher.published += 1
            self._seconds.observe(took_s)
            self._settle(kept.result())
            return
        if not isinstance(error, ThalamusError):
            logger.error("publishing failed", exc_info=error)
            error = ThalamusError()
        publisher.refuse(self._settle, error, took_s)
