"""Retention in conversations: messages that are too old are purged.

Purpose. The log of a conversation says who its members are, so its beginning can't go as that of other logs does
(`persistence/domain/retention.py`). What is too old of it is content: so the messages are deleted, and their places
stay.

Rules.

* The platform purges each user who wrote a message up to the place where the log is too old. So all that holds for
  purges holds here: members are told, counts are exact, and content is gone from log, Redis, edges and read model.
* Messages of the platform, which is no user, are deleted one by one.
* It is looked only behind the place up to which all messages are known to be gone. That place is kept in Redis for some
  days. It moves when a later look finds tombstones, so what a purge has not erased yet is looked at again.
* 10,000 rows are looked at by one call at most; the caller goes on while anything was done.

Example. Of 1 to 900, 1 to 400 are too old; bob and eve wrote there. Two purges follow, of bob and of eve up to 400. The
next look finds only tombstones and events about members up to 400, and begins at 401 from then on.

Trade-offs. An event for each author and look, in place of a new kind of event, which programs that fold the log would
not know. Events of the application (`x.…`) stay: nobody but it knows what they mean. See docs/decisions/0064.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterator

import msgspec

from services.persistence.chat.append import Appended, Appender, NewEvent, Options, Result
from services.persistence.chat.conversations import Conversations
from services.persistence.chat.domain import events
from services.persistence.chat.domain.state import PLATFORM, Message, Phase
from services.persistence.chat.erasing import Eraser
from services.persistence.chat.live import Live
from services.persistence.chat.rows import Row, parsed_row
from services.persistence.domain.ports import Rows
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.hotlog.scripts import raise_for_error
from services.shared.namespaces import Namespace
from services.shared.redis.pipeline import RedisPipeline
from thalamus.common.v1.common_pb2 import Publication

_MOST_ROWS = 10_000
_PAGE_ROWS = 512
_PAGE_BYTES = 4 << 20
_AT_ONCE = 200  # events
_KEPT_S = 30 * 86_400  # for how long it is kept up to where messages are gone
_TIMEOUT_S = 2.0  # longest round trip


class Expiry:
    """Purges what is too old; every method raises `Unavailable`."""

    def __init__(
        self, rows: Rows, conversations: Conversations, appender: Appender, eraser: Eraser, redis: RedisPipeline
    ) -> None:
        """Create it; `rows` is the store of the log."""
        self._rows, self._conversations, self._appender = rows, conversations, appender
        self._eraser, self._redis = eraser, redis

    async def gone_upto(self, channel: str) -> int:
        """Return an offset up to which no message is left."""
        (found,) = await self._redis.execute([("GET", keys.expired(channel))], timeout_s=_TIMEOUT_S)
        epoch, _, offset = (raise_for_error(found) or b"").partition(b" ")
        is_same = bool(offset) and epoch.decode() == (await self._rows.open(channel)).epoch
        return int(offset) if is_same else 0

    async def expire(self, channel: str, namespace: Namespace, upto: int) -> int:
        """Purge messages up to an offset; return how many.

        10,000 rows are looked at, at most.
        """
        since = await self.gone_upto(channel)
        live = await self._conversations.current(channel)
        if live.state.phase not in (Phase.ACTIVE, Phase.CLOSED):
            return 0
        upto = min(upto, live.position, since + _MOST_ROWS)
        found = await self._left(live, since, upto)
        gone = min(found, default=upto + 1) - 1
        if gone > since:
            await self._keep(channel, live.epoch, gone)
        self._eraser.gone[channel] = gone
        try:
            options = Options(namespace.history_size, namespace.history_ttl_s, bool(namespace.events))
            todo = {offset: author for offset, author in found.items() if author is not None}
            made = [_new(channel, event, options) for event in _events(todo, upto)]
            for start in range(0, len(made), _AT_ONCE):
                await self._append(made[start : start + _AT_ONCE])
        finally:
            del self._eraser.gone[channel]
        return len(todo)

    async def _left(self, live: Live, since: int, upto: int) -> dict[int, str | None]:
        """Return messages whose content is there, by offset, with their authors.

        None in place of the author: it is deleted, and will be erased.
        """
        found: dict[int, str | None] = {}
        while rows := await self._rows.read(
            live.channel, since_offset=since, upto=upto, limit=_PAGE_ROWS, reverse=False, max_bytes=_PAGE_BYTES
        ):
            since = rows[-1][0]
            parsed: list[Row] = [parsed_row(offset, publication) for offset, publication in rows]
            written = {entry.offset: entry.author for event, entry in parsed if isinstance(event, events.Message)}
            messages = await self._conversations.messages(live, written)
            for offset, author in written.items():
                found[offset] = author if isinstance(messages.get(offset), Message) else None
        return found

    async def _append(self, some: list[NewEvent]) -> None:
        """Append events in one batch.

        Raises:
            Unavailable: at least one is not in the log.
        """
        loop = asyncio.get_running_loop()
        results: list[asyncio.Future[Result]] = [loop.create_future() for _ in some]

        def tell(index: int, result: Result) -> None:
            if not results[index].done():  # nobody waits any more
                results[index].set_result(result)

        self._appender.submit(some, tell)
        for result in await asyncio.gather(*results):
            if not isinstance(result, Appended):
                raise Unavailable(f"a message that is too old can't be purged: {result.why}")

    async def _keep(self, channel: str, epoch: str, offset: int) -> None:
        command = ("SET", keys.expired(channel), f"{epoch} {offset}", "EX", _KEPT_S)
        raise_for_error((await self._redis.execute([command], timeout_s=_TIMEOUT_S))[0])


def _events(todo: dict[int, str], upto: int) -> Iterator[dict[str, object]]:
    """Yield the events that delete these messages."""
    for author in sorted({*todo.values()} - {PLATFORM}):
        yield {"kind": "purge", "user": author, "upto": upto}
    for offset, author in todo.items():
        if author == PLATFORM:
            yield {"kind": "delete", "of": offset, "reason": "expired"}


def _new(channel: str, event: dict[str, object], options: Options) -> NewEvent:
    """Return an event of the platform; the same one has the same key."""
    data, publication_id = msgspec.json.encode(event), os.urandom(16)
    publication = Publication(data=data, id=publication_id)
    key = f"expire:{hashlib.sha256(data).hexdigest()}"
    return NewEvent(channel, publication.SerializeToString(), publication_id, PLATFORM, data, options, PLATFORM, key)
