"""Runs Python's garbage collector rarely and on a timer.

Reference counts free nearly every object; the collector is only needed for cycles. Decision: docs/decisions/0014.
"""

from __future__ import annotations

import asyncio
import gc
import time

# Young objects are looked at rarely: a batch or a burst makes thousands, and hardly any of them is part of a cycle.
# With these numbers old objects would be looked at after millions of allocations, so maybe never: `collect` does that.
_THRESHOLDS = (50_000, 20, 1_000_000)
_EVERY_S = 10.0  # shortest pause between two full collections, seconds
_SHARE = 0.001  # largest share of the time that full collections may take


def settle() -> None:
    """Exempt all present objects from later collections; call it once started."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)


async def collect(*, every_s: float = _EVERY_S, share: float = _SHARE) -> None:
    """Run full collections until cancelled, less often if one takes long."""
    delay_s = every_s
    while True:
        await asyncio.sleep(delay_s)
        began = time.perf_counter()
        gc.collect()
        delay_s = max(every_s, (time.perf_counter() - began) / share)
