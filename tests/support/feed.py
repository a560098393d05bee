"""Reads the feed as it stands in Redis."""

from __future__ import annotations

from typing import Any

import redis.asyncio

from services.shared.feed.events import Event, decode
from services.shared.hotlog import keys


async def publications_told(client: redis.asyncio.Redis, *, hidden: bool = False) -> list[Event]:
    """Return the publications in all streams, in order within each channel.

    `hidden`: those alone that are told in hidden entries; else no such one may be there.
    """
    found: list[Event] = []
    for shard in range(keys.FEED_SHARDS):
        entries: Any = await client.xrange(keys.commits(shard))
        for entry_id, fields in entries:
            event = decode(f"feed{shard}", entry_id.decode(), fields, hidden=hidden)
            assert event is not None
            assert event.hidden == hidden
            assert keys.feed_shard(event.channel) == shard
            found.append(event)
    return found


async def tell_publications(
    client: redis.asyncio.Redis, channel: str, *offsets: int, author: str = "ann", **options: Any
) -> None:
    """Write entries as the append scripts do; `options` are those of XADD."""
    for offset in offsets:
        fields: Any = {"c": channel, "e": "e", "o": offset, "a": author}
        await client.xadd(keys.commits(keys.feed_shard(channel)), fields, **options)
