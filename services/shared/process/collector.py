"""The garbage collector at a pace of its own: reference counts free nearly everything, and it finds the rest."""

from __future__ import annotations

import asyncio
import gc
import time

# Young objects are looked at seldom: a batch or a burst makes thousands, and next to none of them is part of a cycle.
# With these numbers old ones would be looked at after millions of allocations, so maybe never: `collect` does that.
_THRESHOLDS = (50_000, 20, 1_000_000)
_EVERY_S = 10.0
_SHARE = 0.001  # of the time at most


def settle() -> None:
    """To be called once all is started: what is there now stays, and is not looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)


async def collect(*, every_s: float = _EVERY_S, share: float = _SHARE) -> None:
    """Look at all objects again and again, more seldom where that takes long; until cancelled."""
    delay_s = every_s
    while True:
        await asyncio.sleep(delay_s)
        began = time.perf_counter()
        gc.collect()
        delay_s = max(every_s, (time.perf_counter() - began) / share)
