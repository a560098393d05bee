"""What a log counts, computed from the flags of its rows."""

from __future__ import annotations

from collections.abc import Sequence

from services.shared.hotlog.hotlog import CHANGES_MEMBERSHIP, COUNTS


def counts_of(flags: Sequence[int]) -> list[tuple[int, int]]:
    """`n` and `mv` of each row, offsets from 1."""
    found, n, mv = [], 0, 0
    for offset, one in enumerate(flags, 1):
        n, mv = n + bool(one & COUNTS), offset if one & CHANGES_MEMBERSHIP else mv
        found.append((n, mv))
    return found
