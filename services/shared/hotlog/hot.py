"""Appending to the logs of `hot` channels, as a call: what edges ask of Redis for every publication."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from redis import exceptions

from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.hotlog.hotlog import KEY_TTL_S, META_TTL_S
from services.shared.hotlog.scripts import APPEND_HOT, Call, raise_for_error


class HotBatch(NamedTuple):
    """Publications of one channel, in order, each with the name of its idempotency key in Redis, "" for none."""

    channel: str
    history_size: int
    history_ttl_s: int
    items: Sequence[tuple[bytes, str]]


class HotAppended(NamedTuple):
    """Offsets in order: negative where an earlier publish under the key had that one."""

    epoch: str
    offsets: list[int]


class HotAnswer(NamedTuple):
    """`writes` as `Look` has it, and what came of each batch; None: nothing, its log is of a later generation."""

    writes: int
    batches: list[HotAppended | Unavailable | None]


def append_call(
    batches: Sequence[HotBatch], *, fresh_epoch: str, now_s: int, writes: int = 0, meta_ttl_s: int = META_TTL_S
) -> Call:
    """Append publications of several channels. Nothing else of Redis runs meanwhile, so there should not be too many.

    Args:
        fresh_epoch: The name of a log that begins with this call; never the same in two calls for one channel.
        now_s: Unix seconds.
        writes: What the edge has seen of `Look.writes`; a Redis that has less refuses.
    """
    names = [keys.observed()]
    arguments: list[str | bytes | int] = [fresh_epoch, KEY_TTL_S, meta_ttl_s, now_s, writes]
    for channel, history_size, history_ttl_s, items in batches:
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
    return Call(APPEND_HOT, names, arguments)


def appended(result: Any) -> HotAnswer | None:
    """What that call answered; None: Redis has gone back, and nothing was done.

    Raises:
        Unavailable: Redis refused the call.
    """
    found = raise_for_error(result)
    return HotAnswer(found[0], [_appended(one) for one in found[1:]]) if found else None


def _appended(one: Any) -> HotAppended | Unavailable | None:
    if isinstance(one, exceptions.RedisError):
        return Unavailable(f"Redis refused: {one}")
    return HotAppended(one[0].decode(), one[1:]) if one else None
