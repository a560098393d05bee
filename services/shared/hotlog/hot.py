"""Appending to the log of a `hot` channel, as a call: what edges ask of Redis for every publication."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    meta_ttl_s: int = META_TTL_S,
) -> Call:
    """Append publications, in order.

    Args:
        items: Publications, each with the name of its idempotency key in Redis, "" for none.
        fresh_epoch: The name of a log that begins with this call; never the same in two calls for one channel.
        now_s: Unix seconds.
    """
    names = [keys.meta(channel), keys.log(channel)]
    arguments: list[str | bytes | int] = [
        fresh_epoch,
        history_size,
        history_ttl_s,
        KEY_TTL_S,
        meta_ttl_s,
        now_s,
        keys.pub(channel),
    ]
    for publication, key in items:
        if key:
            names.append(key)
            arguments += (publication, "1")
        else:
            arguments += (publication, "")
    return Call(APPEND_HOT, names, arguments)


def appended(result: Any) -> tuple[str, list[int]] | None:
    """What that call answered; None: the log is of a later generation, and nothing was done.

    Returns the epoch, and the offsets in order: negative where an earlier publish under the key had that one.
    """
    found = refuse(result)
    return (found[0].decode(), found[1:]) if found else None
