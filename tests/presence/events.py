"""Lifecycle events, as scripts of presence wrote them."""

from __future__ import annotations

import redis.asyncio

from services.shared.feed.events import decode
from services.shared.hotlog import keys


async def kinds(redis_conn: redis.asyncio.Redis, roster_name: str) -> list[str]:
    """Return the lifecycle events of a channel; "": of all users' connections."""
    streams = range(keys.FEED_SHARDS) if not roster_name else [keys.feed_shard(roster_name)]
    entries = [entry for shard in streams for entry in await redis_conn.xrange(keys.lifecycle(shard)) or []]
    decoded = [decode("events0", "1-0", fields) for _, fields in entries]  # type: ignore[arg-type]
    found = [event for event in decoded if event is not None and event.channel == roster_name]
    return [f"{event.type} {event.client}".strip() for event in found]
