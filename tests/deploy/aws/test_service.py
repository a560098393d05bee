"""The template of a service in ECS: its command starts it, its roles fit."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.aws import client, document, listed, make_stack
from tests.support.dynamodb import CREDENTIALS
from tests.support.faults import free_port
from tests.support.redis import RedisServer
from tests.support.stack import clean_environment

ROOT = Path(__file__).parents[3]
_READY_WITHIN_S = 90.0
SECRETS = {"REDIS_PASSWORD": "pass'word \"$x", "SERVICE_TOKEN": "a-service-token-of-some-length-0123"}


def arn(secret: str) -> str:
    return f"arn:aws:secretsmanager:us-east-1:123456789012:secret:{secret}-abcdef"


def make(address: str, service: str, **parameters: str) -> str:
    """Make a stack of one service; return its name, as its task definition has it.

    Without a namespace: moto has no Cloud Map. So edges could not find the service.
    """
    name = f"s{uuid.uuid4().hex}-{service}"
    client("ecs", address).create_cluster(clusterName="thalamus")
    given = {
        "Service": service,
        "Image": "thalamus:1",
        "Cluster": "thalamus",
        "Subnets": "subnet-0123456789abcdef0",
        "SecurityGroups": "sg-0123456789abcdef0",
        "RedisHost": "redis.example.com",
        "RedisPassword": arn("redis"),
        "ServiceToken": arn("service"),
    }
    make_stack(address, name, "service", given | parameters)
    return name


def container(address: str, name: str) -> dict[str, Any]:
    (found,) = client("ecs", address).describe_task_definition(taskDefinition=name)["taskDefinition"][
        "containerDefinitions"
    ]
    made: dict[str, Any] = found
    return made


def readiness(port: int) -> int:
    """Status of /readyz; 0: nothing answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@contextmanager
def started(task: dict[str, Any], port: int, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """The process that the task's command starts, once it is ready."""
    assert {one["name"] for one in task["secrets"]} <= SECRETS.keys() | {"TOKEN_SECRET"}
    inherited = clean_environment() | CREDENTIALS
    inherited["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{inherited['PATH']}"
    inherited["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "proto" / "gen")])
    of_task = {one["name"]: one["value"] for one in task["environment"]}
    secrets = {one["name"]: SECRETS.get(one["name"], "a secret") for one in task["secrets"]}
    command = [*task["entryPoint"], *task["command"]]
    process = subprocess.Popen(command, env={**inherited, **of_task, **secrets, **environment}, cwd=ROOT)
    try:
        deadline = time.monotonic() + _READY_WITHIN_S
        while readiness(port) != 200:
            assert process.poll() is None, "it ended"
            assert time.monotonic() < deadline, readiness(port)
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def redis_with_users() -> Iterator[RedisServer]:
    """A Redis whose user persistence has the password of `SECRETS`."""
    digest = hashlib.sha256(SECRETS["REDIS_PASSWORD"].encode()).hexdigest()
    server = RedisServer("--user", "persistence", "on", f"#{digest}", "~*", "&*", "+@all")
    server.start()
    try:
        yield server
    finally:
        server.close()


def test_its_command_starts_the_service_on_the_tables_of_the_stack_without_a_secret_in_the_environment(
    dynamodb: str, redis_with_users: RedisServer, tmp_path: Path
) -> None:
    prefix = f"{uuid.uuid4().hex}-"
    make_stack(dynamodb, f"t{uuid.uuid4().hex}", "tables", {"TablePrefix": prefix})
    rights = make_stack(dynamodb, f"r{uuid.uuid4().hex}", "rights", {"TablePrefix": prefix})
    name = make(dynamodb, "persistence", TablePrefix=prefix, Rights=rights["PersistencePolicy"])
    task = container(dynamodb, name)
    url = next(one["value"] for one in task["environment"] if one["name"] == "REDIS_URL")
    assert url == "redis://persistence@redis.example.com:6379/0"
    port = free_port()
    environment = {
        "REDIS_URL": f"redis://persistence@127.0.0.1:{redis_with_users.port}/0",
        "DYNAMODB_ENDPOINT": dynamodb,
        "PERSISTENCE_GRPC_PORT": str(free_port()),
        "PERSISTENCE_INTERNAL_PORT": str(port),
        "TMPDIR": str(tmp_path),
    }
    with started(task, port, **environment) as process:
        seen = Path(f"/proc/{process.pid}/environ").read_bytes()
        assert b"REDIS_PASSWORD_FILE=" in seen
        assert not [secret for secret in SECRETS.values() if secret.encode() in seen]
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert {path.name: path.read_text() for path in files} == {
            "redis_password": SECRETS["REDIS_PASSWORD"],
            "service_token": SECRETS["SERVICE_TOKEN"],
        }
        assert {path.stat().st_mode & 0o077 for path in files} == {0}


@pytest.mark.parametrize("service", ["edge", "auth"])
def test_each_service_is_its_module_and_its_address_what_edges_look_for(service: str, dynamodb: str) -> None:
    task = container(dynamodb, make(dynamodb, service))
    assert task["command"][0].rstrip().endswith(f"\nexec python -m services.{service}")
    values = {one["name"]: one["value"] for one in task["environment"]}
    assert values["REDIS_URL"] == f"redis://{service}@redis.example.com:6379/0"
    ports = {"auth": 9001, "presence": 9002, "persistence": 9003}
    found = {name: values[f"EDGE_{name.upper()}_ADDR"] for name in ports}
    assert found == {name: f"{name}.thalamus.internal:{port}" for name, port in ports.items()}


def test_what_starts_it_may_read_its_own_secrets_and_no_other(dynamodb: str) -> None:
    repository = "arn:aws:ecr:us-east-1:123456789012:repository/thalamus"
    settings = "arn:aws:s3:::settings/edge.env"
    name = make(
        dynamodb,
        "edge",
        TokenSecret=arn("token"),
        Repository=repository,
        EnvironmentFile=settings,
        RedisScheme="rediss",
    )
    iam = client("iam", dynamodb)
    roles = [one["RoleName"] for one in listed(iam, "list_roles")]
    (role,) = [role for role in roles if role.startswith(f"{name}-StartRole")]
    found: dict[str, list[str]] = {}
    for policy in iam.list_role_policies(RoleName=role)["PolicyNames"]:
        statements = document(iam.get_role_policy(RoleName=role, PolicyName=policy)["PolicyDocument"])["Statement"]
        for statement in statements:
            resources = statement["Resource"]
            found.setdefault(statement["Sid"], []).extend([resources] if isinstance(resources, str) else resources)
    logs = found.pop("Log")
    assert len(logs) == 1
    assert name in logs[0]
    assert found == {
        "Secrets": [arn("redis"), arn("service"), arn("token")],
        "Settings": [settings],
        "Login": ["*"],  # the action has no resource
        "Image": [repository],
    }
