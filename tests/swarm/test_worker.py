"""Workers of the deployed stack store what is queued, and one of them is killed.

The last file of this folder: it leaves the stack with a queue.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from typing import Any

import httpx
import pytest

from tests.swarm.docker import docker, until
from tests.swarm.stack import SwarmStack
from verify.target import call_api

FILES = "dev-stack.yml dev-ports.yml dev-queue.yml tests/swarm/queued.yml"
PUBLICATIONS, AT_ONCE = 400, 20
WITHIN_S = 60.0


@pytest.fixture(scope="module")
def queued(stack: SwarmStack) -> SwarmStack:
    """The stack with a queue and two workers."""
    stack.up(STACK_FILES=FILES)
    for service in ("persistence", "edge"):
        stack.wait_changed(service)
    until(
        lambda: {"worker": "2/2", "queue": "1/1"}.items() <= stack.replicas().items(),
        WITHIN_S,
        lambda: f"replicas: {stack.replicas()}\n{stack.logs('worker', 20)}\n{stack.logs('queue', 20)}",
    )
    return stack


def counted(stack: SwarmStack, service: str, metric: str) -> float:
    """Sum of a metric over the replicas of a service that run."""
    script = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9100/metrics').read().decode())"
    texts = [docker("exec", each, "python", "-c", script) for each in stack.containers(service)]
    return sum(
        float(value) for text in texts for value in re.findall(rf"^{metric}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
    )


@pytest.mark.full
async def test_what_is_queued_is_stored_by_workers_while_one_of_them_is_killed(queued: SwarmStack) -> None:
    channel, epochs = f"reading:{secrets.token_hex(4)}", set[str]()
    async with httpx.AsyncClient(timeout=30.0) as client:

        async def call(method: str, **params: Any) -> dict[str, Any]:
            return await call_api(client, queued.http, queued.api_key, method, channel=channel, **params)

        async def publish(first: int) -> list[tuple[int, int]]:
            """Publish every so many; return offset and number of each."""
            places = []
            for number in range(first, PUBLICATIONS, AT_ONCE):
                told = await call("publish", data={"number": number}, idempotency_key=f"{channel}-{number}")
                places.append((told["offset"], number))
                epochs.add(told["epoch"])
                if number == PUBLICATIONS // 2:
                    await asyncio.to_thread(docker, "kill", queued.containers("worker")[0])
            return places

        told = sorted(one for some in await asyncio.gather(*map(publish, range(AT_ONCE))) for one in some)
        assert [offset for offset, _ in told] == [*range(1, PUBLICATIONS + 1)]
        assert len(epochs) == 1

        found: list[tuple[int, int]] = []
        while len(found) < PUBLICATIONS:
            page = await call("history", limit=100, since={"offset": len(found), "epoch": epochs.pop()})
            publications = page["publications"]
            assert publications, f"{len(found)} publications"
            found += [(one["offset"], one["data"]["number"]) for one in publications]
            epochs.add(page["epoch"])
        assert found == told, "also what is in the store alone"
    assert counted(queued, "persistence", "thalamus_queue_sent_total") > 0
    assert counted(queued, "worker", "thalamus_queue_messages_total") > 0
    until(lambda: queued.replicas()["worker"] == "2/2", WITHIN_S, lambda: f"replicas: {queued.replicas()}")
