"""A real Prometheus over a stack, with the deployment's rules in quicker time."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import yaml  # type: ignore[import-untyped]

from tests.support.faults import free_port

_OF_DEPLOYMENT = Path(__file__).parents[2] / "deploy" / "prometheus"
_UNITS_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600}
# Seconds that rules compare with, not as a duration: each must be there, or what follows from it is not what is tested.
_SECONDS = (
    "thalamus:redis_uptime_seconds[10m]) < 600",
    "_redis_uptime_seconds) < bool 300",
    '{job="prometheus"}) < 60',
)
_READY_S = 90.0


def _quicker(duration: str, factor: float) -> str:
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)", duration).groups()  # type: ignore[union-attr]
    return f"{round(int(number) * _UNITS_S[unit] * 1_000 / factor)}ms"


def quicker_rules(text: str, factor: float) -> tuple[str, int]:
    """Divide all durations in rules; return the rules and the number of `_SECONDS`.

    Numbers of samples stay as they are: the evaluation is as much quicker.
    """
    rules = yaml.safe_load(text)
    seconds = 0
    for group in rules["groups"]:
        for rule in group["rules"]:
            if "for" in rule:
                rule["for"] = _quicker(rule["for"], factor)
            expression = " ".join(rule["expr"].split())
            for constant in _SECONDS:
                rest, number = constant.rsplit(" ", 1)
                seconds += expression.count(constant)
                expression = expression.replace(constant, f"{rest} {int(number) / factor:g}")
            rule["expr"] = re.sub(r"\[(\w+)\]", lambda found: f"[{_quicker(found[1], factor)}]", expression)
    return yaml.safe_dump(rules), seconds


class Prometheus:
    """One that runs; `alerts` asks it."""

    def __init__(self, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.url, self._process, self._log = url, process, log

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant query."""
        response = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=10)
        response.raise_for_status()
        found: list[dict[str, Any]] = response.json()["data"]["result"]
        return found

    def fired(self, window_s: float) -> set[str]:
        """Alerts that fired at any time within the window."""
        found = self.query(f'count_over_time(ALERTS{{alertstate="firing"}}[{round(window_s)}s])')
        return {sample["metric"]["alertname"] for sample in found}

    def firing(self) -> set[str]:
        """Alerts that fire now, as /api/v1/alerts says."""
        response = httpx.get(f"{self.url}/api/v1/alerts", timeout=10).json()
        return {one["labels"]["alertname"] for one in response["data"]["alerts"] if one["state"] == "firing"}

    def wait_until_scraped(self, jobs: Mapping[str, int]) -> None:
        """Until so many targets of each job answer."""
        deadline = time.monotonic() + _READY_S
        while {one["metric"]["job"]: int(one["value"][1]) for one in self.query("job:up:count")} != jobs:
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self.query("up")
            time.sleep(0.2)


@contextlib.contextmanager
def prometheus(binary: str, folder: Path, targets: Mapping[str, list[str]], *, factor: float) -> Iterator[Prometheus]:
    """Run Prometheus with the deployment's jobs and rules, `factor` times as quick.

    `targets`: job → addresses; jobs of the deployment that are not among them get Prometheus' own one, which is up.
    """
    own = f"127.0.0.1:{free_port()}"
    config = yaml.safe_load((_OF_DEPLOYMENT / "prometheus.yml").read_text())
    for name in ("scrape_interval", "scrape_timeout", "evaluation_interval"):
        config["global"][name] = _quicker(config["global"][name], factor)
    for job in config["scrape_configs"]:
        job.pop("dns_sd_configs", None)
        job.pop("params", None)
        job["static_configs"] = [{"targets": targets.get(job["job_name"], [own])}]
    (folder / "rules").mkdir(parents=True)
    seconds = 0
    for path in (_OF_DEPLOYMENT / "rules").glob("*.yml"):
        text, found = quicker_rules(path.read_text(), factor)
        (folder / "rules" / path.name).write_text(text)
        seconds += found
    assert seconds == len(_SECONDS) + 1, "a rule compares with other seconds now"
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                binary,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={own}",
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + _READY_S
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"http://{own}/-/ready", timeout=2).status_code == 200:
                    break
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield Prometheus(f"http://{own}", process, log)
    finally:
        process.terminate()
        process.wait(20)
