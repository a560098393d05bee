"""`thalamus dev` as people meet it.

Start, copy and paste what it prints, break it, stop it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.support.stack import clean_environment

_READY_WITHIN_S = 90.0
_PROGRAMS = Path(sys.executable).parent


class Dev:
    """A running `thalamus dev`."""

    def __init__(self, directory: Path, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self.directory = directory
        self.data = directory / (arguments[arguments.index("--data") + 1] if "--data" in arguments else "data")
        self.said: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "dev", *arguments],
            cwd=directory,
            env=environment or clean_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line.rstrip("\n"))

    def until(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert self.process.poll() is None, "\n".join(self.said)
            assert time.monotonic() < deadline, "\n".join(self.said)
            time.sleep(0.02)

    def wait_ready(self) -> float:
        """Returns once the whole banner is there; the seconds that it names."""
        self.until(lambda: "END" in self.said, _READY_WITHIN_S)
        (line,) = [line for line in self.said if line.startswith("Thalamus is ready after")]
        return float(line.split()[4])

    def pids(self) -> dict[str, int]:
        pids: dict[str, int] = json.loads((self.data / "dev.json").read_text())["pids"]
        return pids

    def example(self, containing: str) -> str:
        """A command of the banner, as printed."""
        (line,) = [line.strip() for line in self.said if containing in line and "thalamus" in line]
        return line

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Dev]]:
    running: list[Dev] = []

    def starter(*arguments: str) -> Dev:
        running.append(Dev(tmp_path, *arguments))
        return running[-1]

    yield starter
    for dev in running:
        dev.close()


def alarming(lines: list[str]) -> list[str]:
    """Log lines above INFO."""
    return [line for line in lines if re.match(r"\d\d:\d\d:\d\d \S+ +(WARNING|ERROR|CRITICAL) ", line)]


def is_dead(pid: int) -> bool:
    """Gone, or waiting to be buried by init."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return state.strip() in ("", "Z", "Zs")


def shell(directory: Path, command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", "-c", command],
        cwd=directory,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def line_with(text: str, stream: IO[str]) -> str:
    """The next line that has it; there must be one before the end."""
    for line in stream:
        if text in line:
            return line
    raise AssertionError(f"no line with {text!r}")


def end(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_the_printed_examples_work_as_printed_and_ctrl_c_leaves_nothing(start: Callable[..., Dev]) -> None:
    dev = start("--edges", "2", "--data", "our 'data'")
    dev.wait_ready()
    heredoc_start = next(number for number, line in enumerate(dev.said) if line.endswith("<<'END'"))
    heredoc = "\n".join(dev.said[heredoc_start : dev.said.index("END") + 1])
    pids = dev.pids()
    assert set(pids) == {"redis", "auth", "presence", "persistence", "edge-1", "edge-2"}

    subscriber = shell(dev.directory, f"exec {dev.example('subscribe')}")
    plain = shell(dev.directory, heredoc)
    try:
        assert subscriber.stderr is not None
        assert subscriber.stdout is not None
        assert plain.stdout is not None
        line_with("subscribed to chat:lobby", subscriber.stderr)
        line_with('"subscribe"', plain.stdout)
        published = subprocess.run(
            ["bash", "-c", dev.example("publish")],
            cwd=dev.directory,
            env=clean_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert published.returncode == 0, published.stderr
        assert re.fullmatch(r"published to chat:lobby at 1:\S+\n", published.stdout)
        line = line_with('{"text":"hello"}', subscriber.stdout)
        assert re.fullmatch(r'chat:lobby \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z #1 {"text":"hello"}\n', line)
        line = line_with('"hello"', plain.stdout)
        assert json.loads(line)["push"]["pub"]["data"] == {"text": "hello"}
    finally:
        end(subscriber)
        end(plain)

    asked = time.monotonic()
    dev.process.send_signal(signal.SIGINT)
    assert dev.process.wait(15) == 0
    assert time.monotonic() - asked < 10
    assert all(is_dead(pid) for pid in pids.values())
    assert not (dev.data / "dev.json").exists()
    assert not [line for line in dev.said if "is killed" in line]
    assert not alarming(dev.said), "an ordinary start warns of nothing"


@pytest.mark.slow
def test_what_dies_comes_back_and_a_second_start_keeps_key_and_messages(start: Callable[..., Dev]) -> None:
    dev = start()
    dev.wait_ready()
    (api_key,) = [line.split()[-1] for line in dev.said if line.startswith("  API key")]
    for name in ("redis", "auth", "presence", "persistence", "edge-1"):
        os.kill(dev.pids()[name], signal.SIGKILL)
        dev.until(lambda name=name: any(re.search(rf"{name} +INFO +is ready again", line) for line in dev.said), 20)  # type: ignore[misc]
    dev.close()

    dev = start()
    took_s = dev.wait_ready()
    print(f"second start: {took_s} s")
    assert api_key in "\n".join(dev.said), "the key of the first start"
    assert not alarming(dev.said), "Redis came back with what it had"


@pytest.mark.slow
def test_an_ordinary_stop_and_start_keeps_the_epochs_of_hot_channels(start: Callable[..., Dev]) -> None:
    published: list[str] = []
    for _ in range(3):
        dev = start()
        dev.wait_ready()
        made = subprocess.run(
            [sys.executable, "-m", "cli.main", "publish", "live:kept", "{}"],
            cwd=dev.directory,
            env=clean_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert made.returncode == 0, made.stderr
        published.append(made.stdout.strip())
        dev.close()
        assert not alarming(dev.said)
    (epoch,) = {line.split(":")[-1] for line in published}
    assert published == [f"published to live:kept at {offset}:{epoch}" for offset in (1, 2, 3)]


def test_files_that_can_not_be_written_are_told_and_stop_no_running_stack(start: Callable[..., Dev]) -> None:
    """As on a full disk; a directory in their place does the same, also to root."""
    dev = start()
    data = dev.directory / "data"
    dev.until(data.is_dir)
    dev.until((data / "dev.json").exists, _READY_WITHIN_S)
    dev.wait_ready()
    (data / "dev.json.new").mkdir()
    os.kill(dev.pids()["presence"], signal.SIGKILL)
    dev.until(lambda: any("presence" in line and "is ready again" in line for line in dev.said))
    told = [line for line in alarming(dev.said) if "dev.json.new can't be written: Is a directory" in line]
    assert told
    (data / "dev.json.new").rmdir()
    dev.close()
    assert dev.process.returncode == 0
    (data / "dev-ports.json.new").mkdir()
    again = start()
    again.wait_ready()
    assert any("dev-ports.json can't be written: Is a directory" in line for line in again.said)
    assert not any("Traceback" in line for line in again.said)


def test_two_stacks_run_beside_one_another_with_ports_auto(tmp_path: Path) -> None:
    """As printed: fixed ports are not needed, and two starts do not collide."""
    environment = {name: value for name, value in clean_environment().items() if not name.endswith("_PORT")}
    stacks = [Dev(tmp_path, "--ports", "auto", "--data", name, environment=environment) for name in ("one", "two")]
    try:
        for dev in stacks:
            dev.wait_ready()
        consoles = {line.split()[-1] for dev in stacks for line in dev.said if line.startswith("  Console")}
        assert len(consoles) == 2
        assert not any(":8001/" in console for console in consoles)
    finally:
        for dev in stacks:
            dev.close()


@pytest.mark.slow
def test_a_client_that_runs_on_finds_a_stack_with_ports_auto_again(tmp_path: Path) -> None:
    environment = {name: value for name, value in clean_environment().items() if not name.endswith("_PORT")}

    def started() -> Dev:
        dev = Dev(tmp_path, "--ports", "auto", environment=environment)
        try:
            dev.wait_ready()
        except BaseException:
            dev.close()
            raise
        return dev

    first = started()
    subscriber = shell(tmp_path, f"exec {first.example('subscribe')}")
    try:
        assert subscriber.stderr is not None
        assert subscriber.stdout is not None
        while "subscribed to chat:lobby" not in subscriber.stderr.readline():
            pass
        first.close()
        second = started()
        try:
            deadline = time.monotonic() + _READY_WITHIN_S
            while "recovered chat:lobby" not in subscriber.stderr.readline():  # a line for every attempt
                assert time.monotonic() < deadline
            published = shell(tmp_path, second.example("publish"))
            assert published.communicate(timeout=60)[0].startswith("published to chat:lobby at 1:")
            while '{"text":"hello"}' not in subscriber.stdout.readline():
                pass
        finally:
            second.close()
    finally:
        end(subscriber)


def test_no_child_outlives_a_killed_supervisor(start: Callable[..., Dev]) -> None:
    dev = start()
    dev.wait_ready()
    pids = dev.pids()
    dev.process.kill()
    dev.process.wait()
    deadline = time.monotonic() + 30
    while not all(is_dead(pid) for pid in pids.values()):
        assert time.monotonic() < deadline, pids
        time.sleep(0.05)
