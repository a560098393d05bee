"""For processes that run child processes: restart delays and cleanup of children."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

_GUARD = Path(__file__).with_name("guard.py")


@dataclass(slots=True)
class Backoff:
    """Delay before the next start of a process that ended.

    The delay doubles with every quick end, and is reset after a run of `healthy_after_s` seconds.
    """

    first_s: float = 0.25
    most_s: float = 10.0
    healthy_after_s: float = 30.0
    _next_s: float = field(default=0.0)

    def delay_s(self, ran_s: float) -> float:
        """Return the delay after a run of `ran_s` seconds."""
        if ran_s >= self.healthy_after_s or self._next_s == 0.0:
            self._next_s = self.first_s
        delay = self._next_s
        self._next_s = min(self._next_s * 2, self.most_s)
        return delay


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
