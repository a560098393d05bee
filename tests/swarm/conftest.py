"""One stack for all tests here; `make test-swarm` asks for it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from cli.secrets.files import SecretFiles
from tests.swarm.docker import DockerError, docker
from tests.swarm.stack import ROOT, SwarmStack

if os.environ.get("SWARM") != "1":
    collect_ignore_glob = ["test_*.py"]  # `make test` needs no container engine


@pytest.fixture(scope="session")
def swarm() -> Iterator[None]:
    """A Swarm of this machine alone; one that is there is used."""
    if shutil.which("docker") is None:
        pytest.fail("make test-swarm needs Docker")
    try:
        state = docker("info", "--format", "{{.Swarm.LocalNodeState}}").strip()
    except DockerError as error:
        pytest.fail(f"make test-swarm needs a Docker engine that runs: {error}")
    if state == "active":
        yield
        return
    docker("swarm", "init", "--advertise-addr", "127.0.0.1")
    try:
        yield
    finally:
        docker("swarm", "leave", "--force")


@pytest.fixture(scope="session")
def image() -> str:
    """Built from this tree."""
    subprocess.run(["make", "images"], cwd=ROOT, check=True, timeout=900)
    return os.environ.get("THALAMUS_IMAGE", "thalamus:dev")


@pytest.fixture(scope="session")
def stack(swarm: None, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwarmStack]:
    """Deployed and healthy; removed with everything that it kept."""
    secrets = tmp_path_factory.mktemp("secrets")
    SecretFiles(secrets, ROOT / "deploy" / "redis" / "users.acl.template").init(["localhost", "127.0.0.1"])
    made = SwarmStack(
        {
            "THALAMUS_IMAGE": image,
            "GRAFANA_REPLICAS": os.environ.get("GRAFANA_REPLICAS", "0"),
            "EDGE_REPLICAS": "3",
            "EDGE_DRAIN_GRACE_S": "5",
            "EDGE_STOP_GRACE_PERIOD": "20s",
        },
        secrets,
    )
    made.down()  # Swarm keeps what a run left that was killed, half of an update too
    try:
        made.up()
        made.wait_healthy()
        yield made
    except BaseException:
        print(made.all_logs(60))
        raise
    finally:
        made.down()


@pytest.fixture(autouse=True)
def said(request: pytest.FixtureRequest, stack: SwarmStack) -> Iterator[None]:
    """What services said, where a test fails."""
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        print(stack.all_logs(40))


@pytest.fixture(autouse=True)
def whole(stack: SwarmStack) -> None:
    """Every test begins with a whole stack; without one, no test is worth its wait."""
    try:
        stack.wait_healthy()
    except TimeoutError as error:
        print(stack.all_logs(40))
        pytest.exit(f"the stack is not whole: {error}\n{stack.tasks()}", returncode=1)
