"""Calls that take content out of `stored` logs, with every byte of it.

A script rebuilds the log, as rebuild.lua says why. That takes 5 to 10 µs per entry, in which Redis does nothing else.
So only the newest readable entries stay, and the store has the others: the fewer, the more are not readable yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from services.shared.hotlog import keys
from services.shared.hotlog.scripts import ERASE, TRIM, Call, raise_for_error

KEPT = 160  # most readable entries that stay
MOST_WRITTEN = 256  # most entries that one call writes again, readable or not
MOST_BYTES = 1 << 20  # of the publications of either


class Erased(NamedTuple):
    """What a call of `erase_call` did.

    `is_clean`: no byte of what was replaced is left in Redis' memory. If not, call again once less waits to be stored.
    """

    is_clean: bool
    entries: int  # written again


def erase_call(channel: str, erasures: int, publications: Mapping[int, bytes], *, keep: int = KEPT) -> Call:
    """Return the call that replaces publications of readable entries, by offset.

    `erasures`: how many the store has counted of the channel. `keep`: most readable entries that stay in the log.
    """
    arguments: list[str | bytes | int] = [erasures, keep, MOST_WRITTEN, MOST_BYTES]
    for offset, publication in publications.items():
        arguments += (offset, publication)
    return Call(ERASE, [keys.log(channel), keys.meta(channel)], arguments)


def erased(result: Any) -> Erased:
    """Decode the reply of `erase_call`."""
    state, entries = raise_for_error(result)
    return Erased(state < 2, entries)


def trim_call(channel: str, upto: int) -> Call:
    """Return the call that deletes readable entries up to an offset."""
    return Call(
        TRIM, [keys.log(channel), keys.meta(channel), keys.inbox_head(channel)], [upto, KEPT, MOST_WRITTEN, MOST_BYTES]
    )
