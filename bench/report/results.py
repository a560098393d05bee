"""Raw results of a run, with what it ran on."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec

from bench.measure.statistics import Spread, spread
from services.shared.redis.binary import find_redis_server
from services.shared.version import VERSION

_PEERS = Path(__file__).resolve().parents[1] / "peers"


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario against one target, once. `trouble`: why there are no figures."""

    number: int
    scenario: str
    target: str
    figures: dict[str, float] = {}
    trouble: str = ""


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """What made the figures of our side alone."""

    command: str
    date: str
    machine: dict[str, str]
    versions: dict[str, str]


class Results(msgspec.Struct, kw_only=True):
    """A whole run."""

    command: str
    date: str
    machine: dict[str, str]
    versions: dict[str, str]
    rounds: list[Round] = []

    def targets(self) -> list[str]:
        """In the order in which they were measured."""
        return list(dict.fromkeys(each.target for each in self.rounds))

    def values(self, scenario: str, target: str, figure: str) -> dict[int, float]:
        """Number of the round → the figure."""
        return {
            each.number: each.figures[figure]
            for each in self.rounds
            if each.scenario == scenario and each.target == target and figure in each.figures
        }

    def spread(self, scenario: str, target: str, figure: str) -> Spread | None:
        """Over all rounds that have the figure."""
        values = self.values(scenario, target, figure)
        return spread(list(values.values())) if values else None

    def ratio(self, scenario: str, target: str, other: str, figure: str) -> float | None:
        """Return the median of the ratios of all rounds.

        What changes on a machine from round to round changes both targets.
        """
        ours, theirs = self.values(scenario, target, figure), self.values(scenario, other, figure)
        ratios = [ours[number] / theirs[number] for number in ours if theirs.get(number)]
        return spread(ratios).median if ratios else None


def origin(command: Sequence[str]) -> Origin:
    """Of figures that are about to be measured."""
    return Origin(command=" ".join(command), date=today(), machine=machine(), versions=versions(()))


def today() -> str:
    """The date of the results."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)$", cpuinfo, re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return {
        "CPU": model[1] if model else platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": f"{int(memory[1]) / (1 << 20):.0f} GiB" if memory else "unknown",
        "kernel": platform.release(),
        "load before": f"{os.getloadavg()[0]:.1f}",
    }


def versions(targets: Sequence[str]) -> dict[str, str]:
    """Of everything that has a part in the figures."""
    found = {"Python": platform.python_version(), "thalamus": VERSION}
    found |= {name: version(name) for name in ("uvloop", "websockets", "grpcio", "redis", "msgspec")}
    said = subprocess.run([find_redis_server(), "--version"], capture_output=True, text=True, check=True).stdout
    number = re.search(r"\bv=(\S+)", said)
    found["Valkey" if said.startswith("Valkey") else "Redis server"] = number[1] if number else said.strip()
    if any(target.startswith(("socketio", "ws")) for target in targets) and (node := shutil.which("node")):
        found["Node"] = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    for target in targets:
        found |= _pinned(_PEERS / target.partition("-")[0]) or _pinned(_PEERS / target)
    return found


def _pinned(home: Path) -> dict[str, str]:
    """What a peer's folder pins, of what it names itself."""
    if (home / "package.json").is_file():
        pinned: dict[str, str] = json.loads((home / "package.json").read_text())["dependencies"]
        return {f"{name} (npm)": number for name, number in pinned.items()}  # `redis` is on PyPI, too
    if (home / "requirements.txt").is_file():
        lines = (home / "requirements.txt").read_text().splitlines()
        pairs = dict(line.split("==") for line in lines)
        return {f"{name} ({home.name})": pairs[name] for name in pairs if "channels" in name or "socketio" in name}
    return {}
