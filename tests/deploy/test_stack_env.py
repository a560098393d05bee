"""Every setting reaches the Swarm stack.

By `deploy/env/<service>.env`, or because the stack file sets it itself.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from services.auth.config import AuthConfig
from services.edge.config import EdgeConfig
from services.persistence.archive.s3 import S3Settings
from services.persistence.config import PersistenceConfig
from services.persistence.notifier.config import NotifierConfig
from services.persistence.queue.settings import SqsSettings
from services.persistence.webhooks.config import WebhooksConfig
from services.presence.config import PresenceConfig
from services.shared.dynamodb.settings import DynamoDbSettings
from services.shared.process.config import settings_of
from tests.deploy.tools import ROOT, command, load, parse

DEV = load(ROOT / "dev-stack.yml")
CONFIGS: dict[str, tuple[type[Any], ...]] = {
    "edge": (EdgeConfig,),
    "auth": (AuthConfig, DynamoDbSettings),
    "presence": (PresenceConfig,),
    "persistence": (PersistenceConfig, DynamoDbSettings, S3Settings, SqsSettings),
    "webhooks": (WebhooksConfig,),
    "notifier": (NotifierConfig,),
}
PREFIXES: dict[type[Any], str] = {DynamoDbSettings: "DYNAMODB_", S3Settings: "S3_", SqsSettings: "SQS_"}
CALLED = {service for service in CONFIGS if service != "webhooks"}  # those that call one another over gRPC
# Decided by the image or by what the stack is: where a service listens, its files, one edge a container.
FIXED = {"HOST", "PORT", "INTERNAL_HOST", "INTERNAL_PORT", "GRPC_PORT", "GRPC_TLS_PORT", "WORKERS", "WEB_DIR", "DB"}
HEAD = """\
# Settings of {service}: a name alone takes the value that it has where `make up` or `docker stack deploy` runs, and the
# default where it has none. NAME=value sets it here. docs/configuration.md explains each.
"""


def variables(service: str) -> set[str]:
    """All that the service reads, but for what is fixed."""
    own = f"{service.upper()}_"
    names = {
        setting.variable for config in CONFIGS[service] for setting in settings_of(config, PREFIXES.get(config, own))
    }
    return {name for name in names if name.removeprefix(own) not in FIXED}


def expected(service: str) -> list[str]:
    """What its file must hold."""
    return sorted(variables(service) - DEV["services"][service]["environment"].keys())


def file_of(service: str) -> Path:
    return ROOT / "deploy" / "env" / f"{service}.env"


@pytest.mark.parametrize("service", CONFIGS)
def test_every_setting_reaches_the_stack(service: str) -> None:
    lines = [line for line in file_of(service).read_text().splitlines() if line and not line.startswith("#")]
    assert lines == expected(service)
    assert f"./deploy/env/{service}.env" in DEV["services"][service]["env_file"]


@pytest.mark.parametrize("service", CONFIGS)
def test_what_the_stack_sets_can_be_changed_or_is_decided_by_it(service: str) -> None:
    """No setting is one that the stack file fixes without need."""
    decided = {
        *("REDIS_URL", "REDIS_PASSWORD_FILE", "SERVICE_TOKEN_FILE", "SERVICE_TOKEN_PREVIOUS_FILE", "CHANNELS_FILE"),
        *("WEBHOOKS_FILE", "HOOKS_FILE", "PUSH_FILE"),
        *("NOTIFIER_PRESENCE_ADDR", "NOTIFIER_PERSISTENCE_ADDR"),
        *("NOTIFIER_PRESENCE_TLS_ADDR", "NOTIFIER_PERSISTENCE_TLS_ADDR"),
        *("SERVICE_TLS_CA_FILE", "SERVICE_TLS_CERT_FILE", "SERVICE_TLS_KEY_FILE"),
        *("EDGE_AUTH_TLS_ADDR", "EDGE_PRESENCE_TLS_ADDR", "EDGE_PERSISTENCE_TLS_ADDR"),
        *("EDGE_AUTH_ADDR", "EDGE_PRESENCE_ADDR", "EDGE_PERSISTENCE_ADDR", "AUTH_STORE", "PERSISTENCE_STORE"),
        *("AUTH_HS256_SECRET_FILE", "AUTH_HS256_PREVIOUS_SECRET_FILE", "AWS_SHARED_CREDENTIALS_FILE"),
    }
    for name, value in DEV["services"][service]["environment"].items():
        assert name in decided or re.fullmatch(r"\$\{\w+:?-[^}]*\}", str(value)), name


def rendered(*more: str, **environment: str) -> dict[str, Any]:
    """The stack, with `more` files, as Docker's own client reads it; needs no engine."""
    files = [part for name in ("dev-stack.yml", *more) for part in ("--compose-file", name)]
    done = subprocess.run(
        [command("docker"), "stack", "config", *files],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = parse(done.stdout)["services"]
    return found


def test_a_setting_of_the_shell_reaches_the_service_and_others_keep_their_defaults(tmp_path: Path) -> None:
    (tmp_path / ".made-by-make-secrets.env").touch()
    stack = rendered(SECRETS=str(tmp_path), EDGE_ALLOW_ANONYMOUS="true", PERSISTENCE_MAX_WAITING="7")
    assert stack["edge"]["environment"]["EDGE_ALLOW_ANONYMOUS"] == "true"
    assert "EDGE_PERSONAL_CHANNEL" not in stack["edge"]["environment"]
    assert "EDGE_ALLOW_ANONYMOUS" not in stack["auth"]["environment"]
    assert stack["persistence"]["environment"]["PERSISTENCE_MAX_WAITING"] == "7"


def test_certificates_come_beside_the_other_secrets_of_a_service(tmp_path: Path) -> None:
    (tmp_path / ".made-by-make-secrets.env").touch()
    stack = rendered("mtls-stack.yml", SECRETS=str(tmp_path), SERVICE_TLS="accept")
    for service in CALLED:
        found = {one.get("target", one["source"]) for one in stack[service]["secrets"]}
        before = {one.get("target", one["source"]) for one in DEV["services"][service]["secrets"]}
        assert found == before | {"service_ca", "service_cert", "service_key"}
        assert stack[service]["environment"]["SERVICE_TLS"] == "accept"


def test_a_deployment_without_secrets_says_so_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"\.made-by-make-secrets\.env: no such file"):
        rendered(SECRETS=str(tmp_path))
