"""Prometheus takes its files; every alert fires when it should and only then.

Each is explained.
"""

from __future__ import annotations

import functools
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.tools import PROMETHEUS, ROOT, command, load, rules

TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run(
        [command("promtool"), *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@functools.cache
def moments_of() -> dict[str, list[dict[str, Any]]]:
    """By alert: what its test expects in each moment, oldest first."""
    return {
        re.split(r"[ ,]", test["name"])[0]: test["promql_expr_test"] for path in TESTS for test in load(path)["tests"]
    }


def test_prometheus_takes_its_configuration_and_every_rule() -> None:
    promtool("check", "config", PROMETHEUS / "prometheus.yml")


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_every_alert_fires_when_it_should_and_is_silent_when_it_should_be(path: Path) -> None:
    promtool("test", "rules", path)


@pytest.mark.parametrize("name", sorted(rules("alert")))
def test_an_alert_has_a_test_in_which_it_is_first_silent_and_then_fires(name: str) -> None:
    moments = moments_of()[name]
    fires = [any(f'alertname="{name}"' in sample["labels"] for sample in moment["exp_samples"]) for moment in moments]
    assert fires[0] is False
    assert True in fires


@pytest.mark.parametrize(("name", "rule"), sorted(rules("alert").items()))
def test_an_alert_says_how_bad_what_and_where_to_read_on(name: str, rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("info", "warning", "critical")
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    page, anchor = rule["annotations"]["runbook"].split("#")
    assert anchor == name.lower()
    assert f"\n### {name}\n" in (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "rule"), sorted(rules("alert").items()))
def test_the_labels_that_an_alert_speaks_of_are_those_it_has(name: str, rule: dict[str, Any]) -> None:
    spoken = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    samples = [sample["labels"] for moment in moments_of()[name] for sample in moment["exp_samples"]]
    had = set(re.findall(r"(\w+)=", next(one for one in samples if f'alertname="{name}"' in one)))
    assert spoken <= had


def test_the_page_explains_no_alert_that_is_not_there() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^### (\w+)$", page, re.MULTILINE)) == set(rules("alert"))


def test_a_rule_uses_no_recorded_figure_that_is_not_recorded() -> None:
    recorded = rules("record")
    used = {
        name
        for rule in rules("alert").values()
        for name in re.findall(r"\b(?:job|op|durability|thalamus):\w+:\w+", rule["expr"])
    }
    assert used
    assert used <= set(recorded)
