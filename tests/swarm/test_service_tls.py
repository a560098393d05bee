"""mTLS between services of a deployed stack, turned on step by step, under load.

The steps are those of docs/operations.md, "mTLS between services". Nobody notices them.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import httpx
import pytest

from tests.swarm.docker import DockerError
from tests.swarm.load import nothing_is_missed
from tests.swarm.stack import ROOT, SwarmStack

FILES = "dev-stack.yml dev-ports.yml mtls-stack.yml"
CALLED = {"auth": 9001, "presence": 9002, "persistence": 9003}  # ports of the service token


def step(stack: SwarmStack, value: str) -> None:
    """Set SERVICE_TLS as an operator does; wait until the step is complete."""
    began = time.monotonic()
    stack.up(STACK_FILES=FILES, SERVICE_TLS=value)
    time.sleep(2)
    for service in (*CALLED, "edge"):
        assert stack.wait_updated(service) in ("", "completed")
    stack.wait_healthy()
    print(f"{value} after {time.monotonic() - began:.0f} s")


def takes_the_token(stack: SwarmStack, service: str) -> bool:
    """Whether an edge could still call it with the service token."""
    program = f"import socket; socket.create_connection(('{service}', {CALLED[service]}), 3).close()"
    try:
        stack.execute("edge", "python", "-c", program)
    except DockerError as error:
        if "refused" not in str(error):
            raise
        return False
    return True


@pytest.mark.full
@pytest.mark.timeout(900)
def test_mtls_is_turned_on_in_three_steps_and_nobody_misses_anything(stack: SwarmStack, tmp_path: Path) -> None:
    make = [str(ROOT / ".venv/bin/thalamus"), "certs", "--services", "--out", str(stack.secrets)]
    subprocess.run(make, cwd=ROOT, check=True)
    assert all(takes_the_token(stack, service) for service in CALLED)

    def change_over() -> None:
        for value in ("accept", "use", "require"):
            step(stack, value)

    try:
        nothing_is_missed(stack, "mtls", change_over, tmp_path, clients=60, drop_every_s=20.0)
        assert not any(takes_the_token(stack, service) for service in CALLED)
        with httpx.Client(base_url=stack.http, headers={"X-API-Key": stack.api_key}, timeout=10) as http:
            published = http.post("/api/publish", json={"channel": "chat:mtls", "data": 1}).json()  # by persistence
            assert published["result"]["offset"] == 1
            assert "result" in http.post("/api/presence", json={"channel": "chat:mtls"}).json()
            login = http.post("/auth/login", json={"username": "nobody", "password": "a password of nobody"})
            assert login.status_code == 401
    finally:
        for value in ("use", "accept", "off"):
            step(stack, value)
