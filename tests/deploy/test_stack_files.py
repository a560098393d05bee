"""The stack files, read without an engine.

Who is given which secret, and what a node shows to the outside.
"""

from __future__ import annotations

import re
from pathlib import Path

from cli.secrets.files import SecretFiles
from cli.secrets.services import SERVICES, ServiceCertificates
from services.persistence.chat.devices.device import WEB_PUSH_HOSTS
from services.persistence.notifier.options import load_options
from services.persistence.notifier.ways.make import ways_of
from tests.deploy.tools import ROOT, load

DEV = load(ROOT / "dev-stack.yml")
PROD = load(ROOT / "prod-stack.yml")
PORTS = load(ROOT / "dev-ports.yml")
MTLS = load(ROOT / "mtls-stack.yml")


def secrets_of(service: str) -> dict[str, str]:
    """Target → source."""
    given = DEV["services"][service]["secrets"]
    return {one.get("target", one["source"]): one["source"] for one in given}


def test_each_service_that_keeps_something_in_dynamodb_has_credentials_of_its_own() -> None:
    for service in ("auth", "persistence"):
        assert secrets_of(service)["aws_credentials"] == f"aws_credentials_{service}"
        environment = DEV["services"][service]["environment"]
        assert environment["AWS_SHARED_CREDENTIALS_FILE"] == "/run/secrets/aws_credentials"


def test_no_service_is_given_the_credentials_or_the_password_of_another() -> None:
    own = re.compile(r"(?:aws_credentials|redis)_(edge|auth|presence|persistence|webhooks|notifier)")
    for service in ("edge", "auth", "presence", "persistence", "webhooks", "notifier"):
        owners = {match[1] for source in secrets_of(service).values() if (match := own.fullmatch(source))}
        assert owners == {service}


def test_every_secret_that_is_used_is_made_and_every_one_that_is_made_is_used(tmp_path: Path) -> None:
    SecretFiles(tmp_path, ROOT / "deploy" / "redis" / "users.acl.template").init(["localhost"])
    made = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    used = {one["source"] for service in DEV["services"].values() for one in service.get("secrets", ())}
    assert made == used == DEV["secrets"].keys()


def test_the_page_on_operations_names_every_secret() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    table = page[page.index("| file in `./secrets`") :].split("\n\n")[0]
    named = [row.split(" | ")[0] for row in table.splitlines()[2:]]
    assert set(re.findall(r"`([a-z_]+)`", "".join(named))) == DEV["secrets"].keys()


def test_what_asks_for_no_password_has_a_port_of_the_node_in_development_alone() -> None:
    shown = {
        service
        for file in (DEV, PROD)
        for service, settings in file["services"].items()
        if settings and "ports" in settings
    }
    assert shown == {"balancer", "grafana"}
    assert PORTS["services"].keys() == {"prometheus"}


def test_each_service_is_given_its_own_certificate_and_nobody_the_key_of_the_ca(tmp_path: Path) -> None:
    made = set(ServiceCertificates(tmp_path).make())
    assert made - {"service_ca_key"} == MTLS["secrets"].keys()
    assert MTLS["services"].keys() == set(SERVICES)
    for service in SERVICES:
        given = {one.get("target", one["source"]): one["source"] for one in MTLS["services"][service]["secrets"]}
        names = {"service_cert": f"service_cert_{service}", "service_key": f"service_key_{service}"}
        assert given == {"service_ca": "service_ca", **names}
        environment = DEV["services"][service]["environment"]
        for kind, target in (("CA", "service_ca"), ("CERT", "service_cert"), ("KEY", "service_key")):
            assert environment[f"SERVICE_TLS_{kind}_FILE"] == f"/run/secrets/{target}"


def test_a_worker_is_given_what_it_reads_and_reaches_its_queue() -> None:
    worker, persistence = DEV["services"]["worker"], DEV["services"]["persistence"]
    assert worker["deploy"]["replicas"] == "${WORKER_REPLICAS:-0}"
    assert worker["env_file"] == persistence["env_file"]  # the same queue and the same table
    assert worker["environment"].items() <= persistence["environment"].items()
    assert secrets_of("worker") == {"aws_credentials": "aws_credentials_persistence"}  # and nothing of Redis
    assert {one["target"] for one in worker["configs"]} == {worker["environment"]["CHANNELS_FILE"]}
    for service in ("worker", "persistence"):
        assert PROD["services"][service]["networks"] == ["back", "out"]


def test_one_notifier_would_start_with_what_it_is_given(tmp_path: Path) -> None:
    notifier = DEV["services"]["notifier"]
    assert notifier["deploy"]["replicas"] == "${NOTIFIER_REPLICAS:-0}"
    assert {"back", "out"} <= set(notifier["networks"])  # the services, and push services
    for file in (PROD, MTLS):
        assert not {"networks", "environment", "command"} & file["services"]["notifier"].keys()
    given = {f"/run/secrets/{target}" for target in secrets_of("notifier")}
    given |= {f"/run/secrets/{one.get('target', one['source'])}" for one in MTLS["services"]["notifier"]["secrets"]}
    named = {name: value for name, value in notifier["environment"].items() if name.endswith("_FILE")}
    assert named.pop("PUSH_FILE") in {one["target"] for one in notifier["configs"]}
    assert set(named.values()) <= given
    SecretFiles(tmp_path, ROOT / "deploy" / "redis" / "users.acl.template").init(["localhost"])
    file = tmp_path / "push.toml"
    lines = ["[namespaces.conv]", "[webpush]", 'key_file = "vapid_key"', 'subject = "mailto:ops@example.com"']
    lines += ["[webhook]", 'url = "https://example.com/"', 'secret_files = ["webhook_secret", "webhook_secret_also"]']
    file.write_text("\n".join(lines))
    assert {way.platform for way in ways_of(load_options(file), WEB_PUSH_HOSTS)} == {"webpush", "webhook"}
