"""Appending to the log of a `hot` channel, as a call: what edges ask of Redis for every publication."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from services.shared.hotlog import keys
from services.shared.hotlog.hotlog import KEY_TTL_S, META_TTL_S
from services.shared.hotlog.scripts import APPEND_HOT, Call, refuse


def append_call(
    channel: str,
    items: Sequence[tuple[bytes, str]],
    *,
    fresh_epoch: str,
    history_size: int,
    history_ttl_s: int,
    now_s: int,
    writes: int = 0,
    meta_ttl_s: int = META_TTL_S,
) -> Call:
    """Append publications, in order.

    Args:
        items: Publications, each with the name of its idempotency key in Redis, "" for none.
        fresh_epoch: The name of a log that begins with this call; never the same in two calls for one channel.
        now_s: Unix seconds.
        writes: What the edge has seen of `Look.writes`; a Redis that has less refuses.
    """
    names = [keys.meta(channel), keys.log(channel), keys.observed()]
    arguments: list[str | bytes | int] = [
        fresh_epoch,
        history_size,
        history_ttl_s,
        KEY_TTL_S,
        meta_ttl_s,
        now_s,
        keys.pub(channel),
        writes,
    ]
    for publication, key in items:
        if key:
            names.append(key)
            arguments += (publication, "1")
        else:
            arguments += (publication, "")
    return Call(APPEND_HOT, names, arguments)


class HotAppended(NamedTuple):
    """Offsets in order: negative where an earlier publish under the key had that one; `writes` as `Look` has it."""

    epoch: str
    writes: int
    offsets: list[int]


def appended(result: Any) -> HotAppended | None:
    """What that call answered; None: nothing was done, the log is of a later generation, or Redis has gone back."""
    found = refuse(result)
    return HotAppended(found[0].decode(), int(found[1]), found[2:]) if found else None
