"""For processes that run child processes: restart delays and cleanup of children."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

from services.shared.process.backoff import Backoff

_GUARD = Path(__file__).with_name("guard.py")


def restart_backoff() -> Backoff:
    """Delays before a process that ended is started again: 250 ms, doubling to 10 s.

    Without jitter: the processes of one host are few. A run of 30 s counts as a success.
    """
    return Backoff(0.25, 10.0, jitter=0.0, healthy_after_s=30.0)


class Guard:
    """Makes sure that children end when this process does. See guard.py.

    One guard serves all children of a parent.
    """

    def __init__(self, mode: str = "signal" if sys.platform == "linux" else "pipe") -> None:
        self._mode = mode
        self._pipe, self._held = os.pipe()

    def command(self, command: tuple[str, ...]) -> tuple[str, ...]:
        """Return the command that runs `command` under the guard."""
        return (sys.executable, "-I", "-S", str(_GUARD), self._mode, str(os.getpid()), str(self._pipe), *command)

    def passed_files(self) -> tuple[int, ...]:
        """Return the file descriptors that the guarded command must inherit."""
        return (self._pipe,) if self._mode == "pipe" else ()

    def close(self) -> None:
        """Release the pipe. Call it only after all children have ended."""
        os.close(self._pipe)
        os.close(self._held)


def describe_exit(code: int) -> str:
    """Return an asyncio exit code in words; negative codes are signals."""
    if code >= 0:
        return f"exited with code {code}"
    with contextlib.suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"
