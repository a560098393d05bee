"""Append to the logs of `hot` channels: the call, and decoding of its reply."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from redis import exceptions

from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.hotlog.hotlog import FEED_MAX_ENTRIES, KEY_TTL_S, META_TTL_S
from services.shared.hotlog.scripts import APPEND_HOT, Call, raise_for_error


class HotBatch(NamedTuple):
    """Publications of one `hot` channel, in order, with its history settings.

    `items` has (publication, name of its idempotency key in Redis or ""). `authors`: user id of each, "" for a backend,
    if the feed tells of the channel; else empty.
    """

    channel: str
    history_size: int
    history_ttl_s: int
    items: Sequence[tuple[bytes, str]]
    authors: Sequence[str] = ()


class HotAppended(NamedTuple):
    """Epoch and offsets; negative where an earlier publish with the key has it."""

    epoch: str
    offsets: list[int]


class HotReply(NamedTuple):
    """Reply to an append.

    `writes`: number of writes to `hot` logs that Redis has counted. `number`: of this call among those of the edge; two
    calls have the same one only if Redis went back between them. `batches`: outcome of each batch; None: its log is
    of a later generation, and nothing was done.
    """

    writes: int
    number: int
    batches: list[HotAppended | Unavailable | None]


def append_call(
    batches: Sequence[HotBatch],
    *,
    edge: str,
    fresh_epoch: str,
    now_s: int,
    writes: int = 0,
    number: int = 0,
    meta_ttl_s: int = META_TTL_S,
    feed_max_entries: int = FEED_MAX_ENTRIES,
) -> Call:
    """Return the call that appends publications of several channels.

    Redis runs nothing else meanwhile, so there should not be too many.

    Args:
        batches: One per channel and history settings.
        edge: Name of the edge, which no other process ever has.
        fresh_epoch: Epoch of logs that begin with this call; never the same in two calls for one channel.
        now_s: Unix seconds.
        writes: Number of writes to `hot` logs that the edge has seen; a Redis that has less refuses.
        number: Highest number of a call of this edge that it was told of; a Redis that has counted fewer refuses.
        meta_ttl_s: How long a channel's meta is kept after its last publication, seconds.
        feed_max_entries: Entries that a stream of the feed keeps.
    """
    names = [keys.observed(), keys.appends(edge)]
    arguments: list[str | bytes | int] = [fresh_epoch, KEY_TTL_S, meta_ttl_s, now_s, writes, number]
    told: list[tuple[int, HotBatch]] = []
    for place, batch in enumerate(batches, 1):
        channel, history_size, history_ttl_s, items, authors = batch
        if authors:
            told.append((place, batch))
        names += (keys.meta(channel), keys.log(channel))
        others = len(names)
        at = len(arguments) + 4
        arguments += (keys.pub(channel), history_size, history_ttl_s, len(items), 0)
        for publication, key in items:
            if key:
                names.append(key)
                arguments += (publication, "1")
            else:
                arguments += (publication, "")
        arguments[at] = len(names) - others
    if told:
        arguments += ("", feed_max_entries)
        for place, batch in told:
            names.append(keys.commits(keys.feed_shard(batch.channel)))
            arguments += (place, batch.channel, len(batch.authors), *batch.authors)
    return Call(APPEND_HOT, names, arguments)


def appended(result: Any) -> HotReply | None:
    """Decode the reply of `append_call`.

    None: Redis has gone back, and nothing was done.

    Raises:
        Unavailable: Redis refused the call.
    """
    found = raise_for_error(result)
    return HotReply(found[0], found[1], [_appended(one) for one in found[2:]]) if found else None


def _appended(one: Any) -> HotAppended | Unavailable | None:
    """Decode the outcome of one batch."""
    if isinstance(one, exceptions.RedisError):
        return Unavailable(f"Redis refused: {one}")
    return HotAppended(one[0].decode(), one[1:]) if one else None
