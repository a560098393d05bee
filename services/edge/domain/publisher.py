"""Publishing: what is checked, and which log a publication goes to."""

from __future__ import annotations

import os
import time

from services.edge.domain.model import AppendResult, ClientInfo, Position, Publication
from services.edge.domain.ports import Broker, Store
from services.edge.domain.settings import Settings
from services.edge.domain.timings import ACK_SECONDS
from services.shared.errors import Busy, ErrorCode, ThalamusError
from services.shared.namespaces import DataFormat, Durability, Namespace

_RETRY_AFTER_S = 1.0
_NO_POSITION = AppendResult(Position(0, ""), False)


class Publisher:
    """Takes publications that are permitted already; returns once the channel's log holds them."""

    def __init__(self, broker: Broker, store: Store, settings: Settings) -> None:
        self._broker = broker
        self._store = store
        self._settings = settings
        self.published = 0
        self.refused = 0
        self.pending = 0  # wait for their logs
        self.queued = 0  # wait in the queues of their clients
        self._pending_bytes = 0

    async def publish(
        self,
        channel: str,
        namespace: Namespace,
        data: bytes | None,
        *,
        time_ms: int,
        info: ClientInfo | None = None,
        tags: dict[str, str] | None = None,
        key_user: str = "",
        key: str = "",
        exclude_client: str = "",
    ) -> AppendResult:
        """Publish one message under an idempotency key (a random one where none is given).

        Raises:
            ThalamusError: 107 or 106 for data that is not allowed.
            Unavailable: the outcome is unknown; repeat with the same key.
            Busy: refused, nothing was done.
        """
        if data is None or (namespace.data_format is DataFormat.OBJECT and not data.lstrip().startswith(b"{")):
            raise ThalamusError("data is not what the channel takes", ErrorCode.BAD_REQUEST)
        if len(data) > namespace.max_data_bytes:
            raise ThalamusError("data too large", ErrorCode.LIMIT_EXCEEDED)
        if len(key.encode("utf-8", "surrogatepass")) > self._settings.idempotency_key_max_bytes:
            raise ThalamusError("idempotency key too long", ErrorCode.BAD_REQUEST)
        size = len(data)
        self._take(size)
        started = time.perf_counter()
        try:
            result = await self._publish(
                channel, namespace, data, time_ms, info, tags or {}, key_user, key, exclude_client
            )
        finally:
            self.pending -= 1
            self._pending_bytes -= size
        ACK_SECONDS.labels(namespace.durability.value).observe(time.perf_counter() - started)
        return result

    def has_room(self) -> bool:
        """Whether one more may wait."""
        return self.pending + self.queued < self._settings.max_pending_publishes

    def is_strained(self) -> bool:
        """Whether half of the room is taken: nobody may have more than a share of the rest."""
        return 2 * (self.pending + self.queued) > self._settings.max_pending_publishes

    def busy(self) -> Busy:
        """What is answered where there is no room: nothing was done."""
        return Busy("too many publications wait", ErrorCode.TOO_MANY_REQUESTS, retry_after_s=_RETRY_AFTER_S)

    def _take(self, size: int) -> None:
        """Room for one more that waits for its log.

        Raises:
            Busy: there is none.
        """
        settings = self._settings
        if self.pending >= settings.max_pending_publishes or (
            self.pending and self._pending_bytes + size > settings.max_pending_publish_bytes
        ):
            self.refused += 1
            raise self.busy()
        self.pending += 1
        self._pending_bytes += size

    async def _publish(
        self,
        channel: str,
        namespace: Namespace,
        data: bytes,
        time_ms: int,
        info: ClientInfo | None,
        tags: dict[str, str],
        key_user: str,
        key: str,
        exclude_client: str,
    ) -> AppendResult:
        publication_id = os.urandom(16)
        publication = Publication(
            data=data,
            info=info,
            tags=tags,
            id=publication_id,
            exclude_client=exclude_client,
            time_ms=time_ms,
        )
        if namespace.durability is Durability.NONE:
            await self._broker.publish(channel, publication)
            self.published += 1
            return _NO_POSITION
        log: Broker | Store = self._store if namespace.durability is Durability.STORED else self._broker
        result = await log.append(
            channel,
            publication,
            key_user=key_user,
            key=key or publication_id.hex(),
            history_size=namespace.history_size,
            history_ttl_s=namespace.history_ttl_s,
        )
        self.published += 1
        return result
