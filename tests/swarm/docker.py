"""The docker command line, as tests use it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any

_TIMEOUT_S = 120.0


class DockerError(Exception):
    """A command failed; the text is what it said."""


def docker(*arguments: str, timeout_s: float = _TIMEOUT_S, with_errors: bool = False) -> str:
    """What it printed, on stderr too where that is asked for. Raises DockerError."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode:
        raise DockerError(f"docker {' '.join(arguments[:4])}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout + done.stderr if with_errors else done.stdout


def rows(*arguments: str) -> list[dict[str, Any]]:
    """A list command with `--format json`, one object a line."""
    return [json.loads(line) for line in docker(*arguments, "--format", "json").splitlines() if line]


def until(true: Callable[[], bool], limit_s: float, what: str | Callable[[], str], every_s: float = 0.5) -> None:
    """Wait; raises TimeoutError with `what`, asked for then where it is a function."""
    ends = time.monotonic() + limit_s
    while not true():
        if time.monotonic() > ends:
            raise TimeoutError(f"after {limit_s:g} s: {what() if callable(what) else what}")
        time.sleep(every_s)
