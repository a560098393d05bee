"""A real DynamoDB HTTP API for tests: moto's server as a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from services.shared.dynamodb.settings import DynamoDbSettings
from tests.support.faults import free_port
from tests.support.patience import be_patient_with_dynamodb

_START_S = 60.0
LOCAL_IMAGE = "amazon/dynamodb-local:3.3.1"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
# One request at a time: moto's conditional writes are not atomic against one another, as DynamoDB's are.
# For a transaction moto copies the table once for each part of it; here once for all, or it takes seconds.
_SERVER = """
import copy, sys, types
from moto.dynamodb import models
from moto.dynamodb.models import DynamoDBBackend
transact = DynamoDBBackend.transact_write_items
def transact_write_items(self, items):
    made = {}
    def deepcopy(table):
        if id(table) not in made:
            made[id(table)] = copy.deepcopy(table)
        return made[id(table)]
    models.copy = types.SimpleNamespace(deepcopy=deepcopy)
    try:
        transact(self, items)
    finally:
        models.copy = copy
DynamoDBBackend.transact_write_items = transact_write_items
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
run_simple("127.0.0.1", int(sys.argv[1]), DomainDispatcherApplication(create_backend_app), threaded=len(sys.argv) > 2)
"""


class DynamoDbServer:
    """Moto's server on a port that it keeps; every start begins empty.

    `threaded`: it takes requests at the same time, which only the calls of SQS that wait need.
    """

    def __init__(self, *, threaded: bool = False) -> None:
        self._more = ["threaded"] if threaded else []
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Return once it answers."""
        process = self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(self._port), *self._more],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **CREDENTIALS, "COVERAGE_PROCESS_CONFIG": ""},  # measured, it would be too slow
        )
        _wait(self.address, lambda: process.poll() is not None)

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def dynamodb_server(*, threaded: bool = False) -> Iterator[str]:
    """Its address, such as `http://127.0.0.1:40001`; stopped at the end."""
    server = DynamoDbServer(threaded=threaded)
    try:
        server.start()
        yield server.address
    finally:
        server.stop()


def settings_of(address: str, prefix: str = "thalamus-") -> DynamoDbSettings:
    """Return settings for a server, whose credentials are in the environment."""
    return DynamoDbSettings(endpoint=address, table_prefix=prefix)


@pytest.fixture(scope="session")
def aws_credentials() -> Iterator[None]:
    """Any will do, but boto3 wants some. Also longer deadlines."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in CREDENTIALS.items():
            environment.setenv(name, value)
        be_patient_with_dynamodb(environment)
        yield


@pytest.fixture(scope="session")
def dynamodb(aws_credentials: None) -> Iterator[str]:
    """Address of a server that tests share; each makes tables with its own prefix."""
    with dynamodb_server() as address:
        yield address


@pytest.fixture(scope="session")
def dynamodb_local(aws_credentials: None) -> Iterator[str]:
    """Address of the emulator that AWS makes, in a container.

    It is the stand-in where `deploy/base-images.sh` built one.

    `make test` needs no container engine, and skips what asks for this. `make test-dynamodb-local` sets
    DYNAMODB_LOCAL=1; then it fails without an engine and the image. Tests download no image.
    """
    if os.environ.get("DYNAMODB_LOCAL") != "1":
        pytest.skip("run by `make test-dynamodb-local`")
    if shutil.which("docker") is None:
        pytest.fail("no Docker engine")
    asked = subprocess.run(["docker", "image", "inspect", LOCAL_IMAGE], capture_output=True, check=False)
    if asked.returncode != 0:
        pytest.fail(f"no Docker engine, or not the image: docker pull {LOCAL_IMAGE}")
    os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")  # one image more, and we stop what we start
    from testcontainers.core.container import DockerContainer

    print(f"{LOCAL_IMAGE} is {'AWS own' if b'DynamoDBLocal.jar' in asked.stdout else 'a stand-in: moto'}")
    with DockerContainer(LOCAL_IMAGE).with_exposed_ports(8000) as container:
        address = f"http://{container.get_container_host_ip()}:{container.get_exposed_port(8000)}"
        _wait(address, lambda: False)
        yield address


def _wait(address: str, has_ended: Callable[[], bool]) -> None:
    """Until it answers anything at all."""
    ends = time.monotonic() + _START_S
    while time.monotonic() < ends:
        if has_ended():
            raise RuntimeError("moto's server ended")
        try:
            with urllib.request.urlopen(address, timeout=1):
                return
        except urllib.error.HTTPError:
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError("the server did not answer")
