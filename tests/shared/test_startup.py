"""How every service starts: settings, log lines, warnings of old settings."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import pytest

from services.shared.process.lifecycle import until_stopped

SCRIPT = """
import asyncio, sys
from services.shared.hotlog import keys
from services.shared.startup.config import GrpcServiceConfig
from services.shared.startup.service import run_service

async def main(config, stopping):
    print(config.grpc_port, config.redis_url, keys.name("life"), flush=True)
    1 / len(sys.argv[1:])

run_service("presence", GrpcServiceConfig, main, has_parent={has_parent}, log_fields={{"worker": 3}})
"""


def start(environment: dict[str, str], *, has_parent: bool = False) -> tuple[int, str, list[dict[str, Any]], str]:
    """Start a service that fails at once.

    Return its exit code, stdout, log lines and stderr.
    """
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(has_parent=has_parent)],
        env={"PYTHONPATH": ":".join(sys.path), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    return done.returncode, done.stdout, lines, done.stderr


def test_a_service_reads_its_settings_and_names_itself_in_its_log() -> None:
    code, out, lines, _ = start({"PRESENCE_GRPC_PORT": "12", "REDIS_URL": "redis://there", "REDIS_PREFIX": "mine"})
    assert (code, out) == (1, "12 redis://there mine:life\n")
    (line,) = lines
    assert (line["service"], line["worker"], line["level"]) == ("presence", 3, "CRITICAL")


def test_a_setting_of_an_earlier_version_is_warned_of_once() -> None:
    """A process of several leaves that to its parent."""
    _, _, lines, _ = start({"PRESENCE_SWEEP_S": "1"})
    (warning,) = (line for line in lines if line["level"] == "WARNING")
    assert (warning["setting"], warning["now"]) == ("PRESENCE_SWEEP_S", "always 0.5 s")
    _, _, lines, _ = start({"PRESENCE_SWEEP_S": "1"}, has_parent=True)
    assert [line for line in lines if line["level"] == "WARNING"] == []


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("REDIS_PREFIX", "a b", "REDIS_PREFIX must be 1 to 32 letters, digits, dots, underscores or hyphens"),
        ("LOG_LEVEL", "LOUD", "LOG_LEVEL must be one of "),
        ("PRESENCE_INTERNAL_PORT", "70000", "PRESENCE_INTERNAL_PORT must be at most 65535, not '70000'"),
    ],
)
def test_a_wrong_setting_ends_the_start_by_name(name: str, value: str, message: str) -> None:
    code, out, lines, err = start({name: value})
    assert (code, out, lines) == (2, "", [])
    assert err.startswith(f"thalamus presence: {message}")


async def test_a_service_runs_until_it_is_stopped_or_a_task_fails() -> None:
    async def fail() -> None:
        raise ValueError("because")

    stopping = asyncio.Event()
    endless = asyncio.ensure_future(asyncio.sleep(60))
    waiting = asyncio.ensure_future(until_stopped(stopping, endless))
    await asyncio.sleep(0)
    assert not waiting.done()
    with pytest.raises(ValueError, match="because"):
        await until_stopped(stopping, endless, asyncio.ensure_future(fail()))
    stopping.set()
    await asyncio.wait_for(waiting, 30)
    endless.cancel()
