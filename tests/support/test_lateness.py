"""How late this process is woken."""

from __future__ import annotations

import asyncio
import time

from tests.support.lateness import Lateness


async def test_what_kept_this_process_from_running_is_counted_at_once_and_left_out() -> None:
    async with Lateness() as late:
        await asyncio.sleep(0.05)
        before = late.total_s
        time.sleep(0.5)  # noqa: ASYNC251  # as if another process had the processor
        assert late.total_s - before >= 0.4
        assert 0.04 <= late.took_s < 0.2
        await asyncio.sleep(0.05)
    assert late.total_s - before >= 0.4
    assert 0.08 <= late.took_s < 0.3


async def test_what_it_waited_for_or_computed_itself_is_not_left_out() -> None:
    async with Lateness() as late:
        await asyncio.sleep(0.3)
        ends = time.process_time() + 0.2
        while time.process_time() < ends:
            pass
    assert late.took_s >= 0.4
