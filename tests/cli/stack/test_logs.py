"""Logs of children: whole, bounded, readable on the terminal, never in the way."""

from __future__ import annotations

import io
import json
import threading
import time
from pathlib import Path

from cli.stack.logs import Formatter, LogFile, LogSink, Terminal

LINE = {
    "ts": "2026-03-04T05:06:07.089Z",
    "level": "INFO",
    "service": "edge",
    "logger": "x",
    "msg": "ready",
    "port": 8001,
}


def test_a_json_line_becomes_one_readable_line() -> None:
    text = Formatter(colour=False).format("edge-1", json.dumps(LINE | {"who": "a b"}).encode())
    assert text == '05:06:07 edge-1      INFO    ready port=8001 who="a b"'


def test_a_traceback_stands_below_its_line() -> None:
    text = Formatter(colour=False).format("edge-1", json.dumps(LINE | {"exc": "Traceback\n  ValueError"}).encode())
    assert text.splitlines()[1:] == ["    Traceback", "      ValueError"]


def test_what_is_no_json_is_shown_as_it_is_without_its_control_characters() -> None:
    assert Formatter(colour=False).format("auth", b"\x1b[2Jboom") == "auth        \\x1b[2Jboom"


def test_colours_only_where_wanted() -> None:
    line = json.dumps(LINE).encode()
    assert "\x1b[" in Formatter(colour=True).format("edge-1", line)
    assert "\x1b[" not in Formatter(colour=False).format("edge-1", line)


def test_a_log_file_keeps_to_its_size_and_one_older_file(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "edge-1.log", max_bytes=100)
    for number in range(50):
        file.write(f"line {number:02}".encode())
    file.close()
    assert {path.name for path in tmp_path.iterdir()} == {"edge-1.log", "edge-1.log.1"}
    assert all(path.stat().st_size <= 110 for path in tmp_path.iterdir())
    assert (tmp_path / "edge-1.log").read_text().endswith("line 49\n")


def test_hidden_children_go_to_their_file_only(tmp_path: Path) -> None:
    shown: list[str] = []
    sink = LogSink(tmp_path, shown.append, Formatter(colour=False), hidden=frozenset({"redis"}))
    sink.line("redis", b"Ready to accept connections")
    sink.line("auth", b"hello")
    sink.close()
    assert (tmp_path / "redis.log").read_bytes() == b"Ready to accept connections\n"
    assert shown == ["auth        hello"]


class _Stuck(io.StringIO):
    """A terminal that stands still until told."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def write(self, text: str) -> int:
        self.go.wait(5)
        return super().write(text)


def test_a_terminal_that_stands_still_loses_lines_and_says_how_many() -> None:
    stuck = _Stuck()
    terminal = Terminal(stuck, waiting=3)
    for number in range(10):
        terminal.line(str(number))  # returns at once
    stuck.go.set()
    deadline = time.monotonic() + 30
    while stuck.getvalue().count("\n") < 3 and time.monotonic() < deadline:  # as many as wait at least
        time.sleep(0.001)
    terminal.line("later")
    terminal.close()
    lines = stuck.getvalue().splitlines()
    assert lines[-1] == "later"
    assert any(line.startswith("… ") and line.endswith(" lines not shown") for line in lines)


def test_a_log_that_can_not_be_written_goes_on_once_it_can(tmp_path: Path) -> None:
    shown: list[str] = []
    sink = LogSink(tmp_path, shown.append, Formatter(colour=False), hidden=frozenset({"redis"}))
    (tmp_path / "redis.log").symlink_to("/dev/full")
    sink.line("redis", b"lost")
    assert shown == [f"{tmp_path}/redis.log can't be written: No space left on device"]
    (tmp_path / "redis.log").unlink()
    sink.line("redis", b"kept")
    sink.close()
    assert (tmp_path / "redis.log").read_bytes() == b"kept\n"
