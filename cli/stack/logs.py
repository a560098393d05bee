"""Output of child processes: raw into log files, readable on the terminal."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from cli.output import printable

_MAX_FILE_BYTES = 10 * 1024 * 1024  # per file; one older file of the same size is kept
_WAITING_LINES = 2_000  # lines that wait for the terminal; more are dropped
_LAST_LINES_S = 1.0  # longest wait at the end until the waiting lines are printed, seconds
_SHOWN_APART = frozenset({"ts", "level", "service", "logger", "msg", "exc", "stack"})
_COLOURS = {"DEBUG": "2", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}
_NAME_COLOURS = ("36", "35", "34", "96", "95", "94")
_NAME_WIDTH = 11


class LogFile:
    """Appends lines to a file. When full it is renamed to `….1`, and a new one begins."""

    def __init__(self, path: Path, max_bytes: int = _MAX_FILE_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._file = path.open("ab", buffering=0)

    def write(self, line: bytes) -> None:
        """Append one line, given without its end."""
        if self._file.tell() + len(line) > self._max_bytes:
            self._file.close()
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            self._file = self._path.open("ab", buffering=0)
        self._file.write(line + b"\n")

    def close(self) -> None:
        self._file.close()


class Terminal:
    """Prints lines in its own thread: a stopped terminal can't stop the stack.

    Lines that don't fit the queue are dropped; their number is printed later.
    """

    def __init__(self, stream: TextIO, waiting: int = _WAITING_LINES) -> None:
        self._stream = stream
        self._queue: queue.Queue[str | None] = queue.Queue(waiting)
        self._missed = 0
        self._thread = threading.Thread(target=self._print, name="terminal", daemon=True)
        self._thread.start()

    def line(self, text: str) -> None:
        """Queue a line for printing, or drop it if the queue is full."""
        try:
            if self._missed:
                self._queue.put_nowait(f"… {self._missed} lines not shown")
                self._missed = 0
            self._queue.put_nowait(text)
        except queue.Full:
            self._missed += 1

    def close(self) -> None:
        """Print the waiting lines, for at most a second."""
        try:
            self._queue.put(None, timeout=_LAST_LINES_S)
        except queue.Full:
            return
        self._thread.join(_LAST_LINES_S)

    def _print(self) -> None:
        while (text := self._queue.get()) is not None:
            try:
                self._stream.write(f"{text}\n")
                self._stream.flush()
            except (OSError, ValueError):  # the terminal is gone; the log files have everything
                continue


class Formatter:
    """Makes a readable line of a JSON log line."""

    def __init__(self, colour: bool) -> None:
        self._colour = colour
        self._names: dict[str, str] = {}

    def format(self, name: str, line: bytes) -> str:
        """Return `time name level message field=value …`, with tracebacks below.

        Lines that are not JSON keep their text.
        """
        try:
            record = json.loads(line)
            moment, level, message = str(record["ts"]), str(record["level"]), str(record["msg"])
        except (ValueError, KeyError, TypeError):
            return f"{self._name(name)} {printable(line.decode('utf-8', 'replace'))}"
        fields = [f"{key}={_short(value)}" for key, value in record.items() if key not in _SHOWN_APART]
        text = self._line(moment[11:19], name, level, " ".join([printable(message), *fields]))
        for key in ("exc", "stack"):
            text += "".join(f"\n    {printable(part)}" for part in str(record.get(key, "")).splitlines())
        return text

    def event(self, moment: str, name: str, level: str, text: str) -> str:
        """Return an emphasised line for an event of the supervisor."""
        return self._line(moment, name, level, self._paint(text, "1" if level == "INFO" else f"1;{_COLOURS[level]}"))

    def _line(self, moment: str, name: str, level: str, text: str) -> str:
        return f"{moment} {self._name(name)} {self._paint(f'{level:<7}', _COLOURS.get(level, '0'))} {text}"

    def _name(self, name: str) -> str:
        colour = self._names.setdefault(name, _NAME_COLOURS[len(self._names) % len(_NAME_COLOURS)])
        return self._paint(f"{name:<{_NAME_WIDTH}}", colour)

    def _paint(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colour else text


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return printable(text if text and not any(char.isspace() for char in text) else json.dumps(text))


class LogSink:
    """Writes each line of each child to its file, and to the terminal.

    Children in `hidden` go to their file only.
    """

    def __init__(
        self,
        directory: Path,
        show: Callable[[str], None],
        formatter: Formatter,
        *,
        hidden: frozenset[str] = frozenset(),
    ) -> None:
        self._directory = directory
        self._show = show
        self._formatter = formatter
        self._hidden = hidden
        self._files: dict[str, LogFile] = {}

    def line(self, name: str, line: bytes) -> None:
        """Take one line of a child's output."""
        try:
            if name not in self._files:
                self._files[name] = LogFile(self._directory / f"{name}.log")
            self._files[name].write(line)
        except OSError as error:  # a full disk ends the log file, not the stack
            if (file := self._files.pop(name, None)) is not None:
                file.close()
            self._show(f"{self._directory / name}.log can't be written: {error.strerror}")
        if name not in self._hidden and line.strip():
            self._show(self._formatter.format(name, line))

    def close(self) -> None:
        for file in self._files.values():
            file.close()
