"""A service process from start to exit code, as a real process."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest


def start(body: str, *, has_parent: bool = False) -> subprocess.Popen[str]:
    script = f"""
import asyncio
from services.shared.process.config import ConfigError
from services.shared.process.lifecycle import run
from services.shared.process.logs import setup_logging

async def main(stop):
{textwrap.indent(textwrap.dedent(body), "    ")}

run(main, "demo", has_parent={has_parent})
"""
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", script], stdout=pipe, stderr=pipe, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_the_event_and_a_finished_main_exits_zero(number: signal.Signals) -> None:
    process = start("""
        print("ready", flush=True)
        await stop.wait()
        await asyncio.sleep(0.05)
        print("drained", flush=True)
    """)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    code, out, _ = finish(process)
    assert (code, out) == (0, "drained\n")


def test_a_second_signal_ends_a_drain_at_once() -> None:
    process = start("""
        print("ready", flush=True)
        await stop.wait()
        print("draining", flush=True)
        await asyncio.sleep(60)
        print("never", flush=True)
    """)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "draining\n"
    process.send_signal(signal.SIGTERM)
    code, out, _ = finish(process)
    assert (code, out) == (0, "")


@pytest.mark.parametrize(
    "body",
    [
        'raise ConfigError("DEMO_PORT must be a whole number")',
        """
        async def wrong():
            raise ConfigError("DEMO_PORT must be a whole number")
        async with asyncio.TaskGroup() as group:
            group.create_task(wrong())
        """,
    ],
    ids=["alone", "in a task group"],
)
def test_a_wrong_setting_is_one_line_and_exit_code_two(body: str) -> None:
    code, out, err = finish(start(body))
    assert (code, out, err) == (2, "", "thalamus demo: DEMO_PORT must be a whole number\n")


def test_a_child_tells_its_parent_on_stdout_which_setting_is_wrong() -> None:
    code, out, err = finish(start('raise ConfigError("DEMO_PORT must be a whole number")', has_parent=True))
    assert (code, out, err) == (2, "DEMO_PORT must be a whole number\n", "")


def test_a_child_that_is_asked_to_stop_twice_drains_all_the_same() -> None:
    body = """
        print("ready", flush=True)
        await stop.wait()
        print("draining", flush=True)
        await asyncio.sleep(0.2)
        print("drained", flush=True)
    """
    process = start(body, has_parent=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)  # as Ctrl-C reaches a whole group of processes
    assert process.stdout.readline() == "draining\n"
    process.send_signal(signal.SIGTERM)  # as its parent passes it on
    code, out, _ = finish(process)
    assert (code, out) == (0, "drained\n")


def test_any_other_failure_is_logged_and_exit_code_one() -> None:
    code, _, err = finish(start('setup_logging("demo")\nraise ValueError("because")'))
    assert code == 1
    assert err.count("\n") == 1
    assert "ValueError: because" in err
