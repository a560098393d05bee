"""READMEs and docs/monitoring.md name the settings and metrics that exist.

All of them, and no others.
"""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

import services.shared.dynamodb.client  # noqa: F401  # registers its metrics
from services.auth.config import AuthConfig
from services.edge.config import EdgeConfig
from services.persistence.config import PersistenceConfig
from services.persistence.notifier.config import NotifierConfig
from services.persistence.webhooks.config import WebhooksConfig
from services.presence.config import PresenceConfig
from services.shared.dynamodb.settings import DynamoDbSettings
from services.shared.process.config import settings_of
from tests.support.push import push_file
from tests.support.stack import Stack
from tests.support.webhooks import webhooks_file

ROOT = Path(__file__).parents[2]
CONFIGS: Mapping[str, tuple[tuple[str, type[Any]], ...]] = {
    "edge": (("EDGE_", EdgeConfig),),
    "presence": (("PRESENCE_", PresenceConfig),),
    "persistence": (("PERSISTENCE_", PersistenceConfig), ("DYNAMODB_", DynamoDbSettings)),
    "auth": (("AUTH_", AuthConfig), ("DYNAMODB_", DynamoDbSettings)),
    "webhooks": (("WEBHOOKS_", WebhooksConfig),),
    "notifier": (("NOTIFIER_", NotifierConfig),),
}
FOLDERS = {
    "webhooks": "persistence/webhooks",
    "notifier": "persistence/notifier",
}  # of those that are not named as their folder
METRIC = re.compile(r"([a-z_]+)(?:\{([a-z,]+)\})?")


@pytest.fixture(scope="module")
def whole_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Every process there is, also those of webhooks and notifications.

    Nobody listens at their endpoints.
    """
    folder, nobody = tmp_path_factory.mktemp("webhooks"), "http://127.0.0.1:9/"
    with Stack(webhooks_file=webhooks_file(folder, nobody), push_file=push_file(folder, nobody)) as running:
        yield running


def paragraph(service: str, heading: str) -> str:
    text = (ROOT / "services" / FOLDERS.get(service, service) / "README.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"^\*\*{heading}\*\*(.*?)\n\n", text, re.MULTILINE | re.DOTALL)
    return str(found)


def exported(stack: Stack, service: str) -> dict[str, set[str]]:
    """Families of /metrics as queries name them, and the labels of their samples."""
    process = "edge-1" if service == "edge" else service
    with urllib.request.urlopen(stack.internal_urls[process] + "/metrics", timeout=5) as response:
        text = response.read().decode()
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    found: dict[str, set[str]] = {name: set() for name in types if not name.endswith("_created")}
    for name, labels in re.findall(r"^(\w+)\{(.*)\} ", text, re.MULTILINE):
        family = re.sub(r"_(bucket|sum|count)$", "", name)
        family = family if types.get(family) == "histogram" else name
        if family in found:
            found[family] |= set(re.findall(r"(\w+)=", labels)) - {"le"}
    return found


def named(text: str) -> dict[str, set[str]]:
    """Metrics between backticks with their labels.

    A short name has the prefix of the last whole one.
    """
    found: dict[str, set[str]] = {}
    prefix = ""
    for token in re.findall(r"`([^`]+)`", text):
        match = METRIC.fullmatch(token.removesuffix("…"))
        if match is None:
            continue
        name, labels = match[1], set(match[2].split(",")) if match[2] else set()
        if whole := re.match(r"(thalamus_[a-z]+_)", name):
            prefix = whole[1]
            if token.endswith("…"):
                continue
        elif prefix:
            name = prefix + name
        found[name] = labels
    return found


@pytest.mark.parametrize("service", CONFIGS)
def test_a_readme_names_all_settings_of_its_service(service: str) -> None:
    patterns = re.findall(r"`([A-Z0-9_*]+)`", paragraph(service, "Settings"))
    read = {setting.variable for prefix, config in CONFIGS[service] for setting in settings_of(config, prefix)}
    assert {name for name in read if not any(fnmatchcase(name, pattern) for pattern in patterns)} == set()
    assert [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in read)] == []


@pytest.mark.parametrize("service", CONFIGS)
def test_a_readme_names_all_metrics_of_its_service_with_their_labels(whole_stack: Stack, service: str) -> None:
    own = {
        name: labels
        for name, labels in exported(whole_stack, service).items()
        if name.startswith(f"thalamus_{service}_")
    }
    said = named(paragraph(service, "Metrics"))
    said = {name: labels for name, labels in said.items() if name.startswith(f"thalamus_{service}_")}
    assert said.keys() == own.keys()
    assert {name for name in own if own[name] and own[name] != said[name]} == set()


def test_the_page_on_monitoring_names_no_metric_that_does_not_exist(whole_stack: Stack) -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    table = page[page.index("| of | metrics |") :].split("\n\n")[0]
    known = set[str]().union(*(exported(whole_stack, service) for service in CONFIGS))
    for family in REGISTRY.collect():  # of the other store
        if family.name.startswith("thalamus_dynamodb_"):
            known.add(family.name + ("_total" if family.type == "counter" else ""))
    rows = [row for row in table.splitlines()[2:] if not row.startswith("| balancer")]
    said = set[str]().union(*(named(row.replace("`thalamus_<service>_", "`thalamus_persistence_")) for row in rows))
    assert said - known == set()
