"""docs/configuration.md names every setting with its default, and no other."""

from __future__ import annotations

import dataclasses
import re
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
from services.shared.namespaces import Namespace
from services.shared.process.config import settings_of

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `([a-zA-Z0-9_]+)` \| (.*?) \| .+ \|$", PAGE, re.MULTILINE))
OF_THE_SUPERVISOR = {"EDGES", "THALAMUS_PORTS", "THALAMUS_DATA", "REDIS_PORT"}
SERVICES = {
    "EDGE_": EdgeConfig,
    "AUTH_": AuthConfig,
    "PRESENCE_": PresenceConfig,
    "PERSISTENCE_": PersistenceConfig,
    "WEBHOOKS_": WebhooksConfig,
    "NOTIFIER_": NotifierConfig,
    "DYNAMODB_": DynamoDbSettings,
    "S3_": S3Settings,
    "SQS_": SqsSettings,
}
SETTINGS = {
    setting.variable: setting.field.default
    for prefix, config in SERVICES.items()
    for setting in settings_of(config, prefix)
}
OPTIONS = {
    field.name: field.default
    for field in dataclasses.fields(Namespace)
    if field.name != "name" and "fixed" not in field.metadata
}


def shown(variable: str, default: Any) -> str:
    """As the page writes a default."""
    if variable == "AUTH_HASH_THREADS":
        return "cores"
    if default is None or default in ("", ()):
        return "–"
    if isinstance(default, tuple):
        return ", ".join(default)
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


@pytest.mark.parametrize("variable", SETTINGS)
def test_every_setting_stands_in_the_page_with_its_default(variable: str) -> None:
    assert ROWS.get(variable) == shown(variable, SETTINGS[variable])


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_of_namespaces_stands_in_the_page_with_its_default(option: str) -> None:
    default = OPTIONS[option]
    if isinstance(default, frozenset):
        expected = "[" + ", ".join(f'"{entry}"' for entry in sorted(default)) + "]"
    elif isinstance(default, str):
        expected = f'"{default}"'
    else:
        expected = shown(option, default)
    assert ROWS.get(option) == expected


def test_the_page_names_no_setting_that_does_not_exist() -> None:
    known = SETTINGS.keys() | OPTIONS.keys() | OF_THE_SUPERVISOR
    entries = {"anyone", "authenticated", "subscriber", "grant", "nobody"}
    assert {name for name in ROWS if name not in entries} <= known
