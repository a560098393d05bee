"""Runs a program whose stderr is a terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_READ = 65_536  # bytes at a time


@dataclass(frozen=True, slots=True)
class Done:
    """What the program left."""

    code: int
    stdout: str  # a pipe
    stderr: str  # what the terminal was sent, control sequences included


def run_on_terminal(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    ends_within_s: float,
) -> Done:
    """Run a command with stderr on a pseudo-terminal and stdout on a pipe."""
    ours, theirs = pty.openpty()
    sent: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # EIO: nobody has the other end open any more
            while chunk := os.read(ours, _READ):
                sent.append(chunk)

    reader = threading.Thread(target=read)
    environment = {**(os.environ if environment is None else environment), "TERM": "xterm"}
    try:
        with subprocess.Popen(command, env=environment, cwd=cwd, stdout=subprocess.PIPE, stderr=theirs) as process:
            os.close(theirs)
            reader.start()
            try:
                stdout, _ = process.communicate(timeout=ends_within_s)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        reader.join()
    finally:
        os.close(ours)
    return Done(process.returncode, stdout.decode(), b"".join(sent).decode(errors="replace"))
