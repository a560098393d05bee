"""What durability `queued` adds to the hot log.

Publications are readable before they are stored.
"""

from __future__ import annotations

from typing import Any

from services.shared.hotlog import keys
from services.shared.hotlog.scripts import COUNT_WRITE, NOTE_QUEUED, Call, raise_for_error

HAS_MORE = -3  # result of an advance: more is readable than the caller has dealt with
MUST_BE_STORED = -3  # result of an early commit: an entry must be stored first
LOST = 3  # result of a comparison: something is missing that was readable before it was stored


def count_write_call(writes: int) -> Call:
    """Return the call that counts a write of what no store has yet.

    Its result is the number of writes; 0 if Redis has counted fewer than `writes`, so it went back.
    """
    return Call(COUNT_WRITE, [keys.observed()], [writes])


def note_call(channel: str, incarnation: str, generation: int | None = None) -> Call:
    """Return the call that notes that the store has noted a generation.

    `generation`: None to be told. Its result is the noted one; 0: none, or the channel was not compared in this
    incarnation.
    """
    return Call(NOTE_QUEUED, [keys.meta(channel)], [incarnation, "" if generation is None else generation])


def stored_upto(result: Any) -> int:
    """Return up to where the store has all, as the reply of `stored_top_call` says.

    It is the readable top, unless publications were acknowledged before they were stored.
    """
    found = raise_for_error(result)
    return int(found[3] if len(found) > 3 else found[1])
