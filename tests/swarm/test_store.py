"""Row F11 on the deployed stack.

DynamoDB fails or forgets to answer three calls in ten, two replicas write.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.swarm.load import SEEDS, nothing_is_missed
from tests.swarm.stack import SwarmStack

FAULTY = "dev-stack.yml dev-ports.yml tests/swarm/dynamodb-faults.yml"
SHARES = {"throttled": 0.1, "failed": 0.1, "lost": 0.1, "unprocessed": 0.3}
LOAD: dict[str, Any] = {"clients": 60, "drop_every_s": 10.0, "rate_per_s": 30.0}


def ask(stack: SwarmStack, method: str, path: str, body: object = None) -> dict[str, Any]:
    """What the proxy in the stack says."""
    script = (
        "import sys, urllib.request as r; "
        "print(r.urlopen(r.Request('http://127.0.0.1:8000' + sys.argv[2], sys.argv[3].encode() or None,"
        " method=sys.argv[1])).read().decode())"
    )
    said = stack.execute("faults", "python", "-c", script, method, path, json.dumps(body) if body else "")
    found: dict[str, Any] = json.loads(said)
    return found


@pytest.fixture(scope="module")
def faulty(stack: SwarmStack) -> Iterator[SwarmStack]:
    """The stack with the proxy between persistence and DynamoDB."""
    stack.up(STACK_FILES=FAULTY, FORCE="1")
    try:
        stack.wait_changed("persistence")
        yield stack
    finally:
        stack.up(STACK_FILES="dev-stack.yml dev-ports.yml")
        stack.wait_changed("persistence")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_store_that_fails_three_calls_in_ten_loses_and_doubles_nothing_f11(
    faulty: SwarmStack, tmp_path: Path, seed: int
) -> None:
    assert faulty.replicas()["persistence"] == "2/2"
    counts: list[dict[str, Any]] = []
    for name, shares in (("f11-base", {}), ("f11", SHARES)):
        ask(faulty, "PUT", "/shares", {"seed": seed, **shares})
        nothing_is_missed(faulty, name, lambda: time.sleep(15), tmp_path, seed=seed, **LOAD)
        counts.append(ask(faulty, "GET", "/counts"))
    base, broken = (sum(one["requests"].values()) for one in counts)
    faults = sum(counts[1]["faults"].values())
    print(f"f11: seed {seed}: {base} requests without faults, {broken} with {counts[1]['faults']}")
    assert faults >= 0.25 * broken, "there were none"
    assert broken <= 2 * base
