"""Prometheus, promtool, rules and dashboards for tests of the deployment."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"


def command(name: str) -> str:
    """Where it is; where it is not, the test is skipped, or fails under REQUIRE_ALL=1."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("REQUIRE_ALL") == "1":
            pytest.fail(f"{name} is not installed, and REQUIRE_ALL=1")
        pytest.skip(f"{name} is not installed")
    return found


def load(path: Path) -> Any:
    """A YAML file."""
    return parse(path.read_text(encoding="utf-8"))


def parse(text: str) -> Any:
    """What a YAML text says."""
    return yaml.safe_load(text)


def rules(kind: str) -> dict[str, dict[str, Any]]:
    """All rules of a kind, `alert` or `record`, by name."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((PROMETHEUS / "rules").glob("*.yml")):
        for group in load(path)["groups"]:
            for rule in group["rules"]:
                if kind in rule:
                    assert rule[kind] not in found, f"{rule[kind]} is there twice"
                    found[rule[kind]] = rule
    return found
