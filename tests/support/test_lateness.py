"""How late this process is woken."""

from __future__ import annotations

import asyncio
import time

from tests.support.lateness import Lateness


async def test_what_kept_this_process_from_running_is_counted() -> None:
    async with Lateness() as late:
        await asyncio.sleep(0.05)
        before = late.total_s
        time.sleep(0.3)  # noqa: ASYNC251  # as if another process had the processor
        await asyncio.sleep(0.05)
    assert late.total_s - before >= 0.25
