"""The breaker of a replica, in simulated time.

One probe at a time, and open until one is answered.
"""

from __future__ import annotations

import asyncio
import random

import pytest

from services.shared.rpc.breaker import PROBE_S, Breaker
from tests.properties.manual_loop import ManualLoop

RECOVERY_S = PROBE_S + 0.5  # longest wait for the verdict of a probe under way, or for the next one


class Process:
    """A replica that is frozen at some times.

    A probe is answered when it runs, as a kernel keeps what it was sent.
    """

    def __init__(self, keeps_requests: bool) -> None:
        self.running = asyncio.Event()
        self.running.set()
        self.keeps_requests = keeps_requests
        self.probes = self.at_once = self.most_at_once = 0

    async def probe(self) -> bool:
        self.probes += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            async with asyncio.timeout(PROBE_S):
                if not self.running.is_set() and not self.keeps_requests:
                    await asyncio.sleep(2 * PROBE_S)
                await self.running.wait()
        except TimeoutError:
            return False
        finally:
            self.at_once -= 1
        return True


@pytest.mark.parametrize("seed", range(20))
def test_one_probe_at_a_time_and_open_for_as_long_as_the_process_is_frozen(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)

    async def scenario() -> None:
        process = Process(keeps_requests=rng.random() < 0.5)
        breaker = Breaker("somewhere", process.probe)
        now = asyncio.get_running_loop().time
        for _ in range(10):
            assert not breaker.is_open
            process.running.clear()
            for _ in range(rng.randint(1, 5)):
                breaker.failed()  # many calls notice it
            frozen_s = rng.uniform(0.01, 10)
            before = process.probes
            await asyncio.sleep(frozen_s)
            assert breaker.is_open
            assert process.probes - before <= 2 + frozen_s / PROBE_S
            process.running.set()
            began = now()
            await breaker.wait_closed()
            assert now() - began <= RECOVERY_S
            await asyncio.sleep(rng.uniform(0, 2))
        assert process.most_at_once == 1
        await breaker.end()

    loop = ManualLoop()
    try:
        loop.run_until_complete(scenario())
    finally:
        loop.close()


async def test_no_probe_is_left_behind() -> None:
    process = Process(keeps_requests=True)
    process.running.clear()
    breaker = Breaker("somewhere", process.probe)
    breaker.failed()
    await asyncio.sleep(0)
    assert process.at_once == 1
    await breaker.end()
    assert process.at_once == 0
    assert breaker.is_open
