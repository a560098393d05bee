"""Ends what SQLite does once it takes too long, or nobody waits for it."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager

from services.shared.errors import Unavailable

_STEPS = 100  # of SQLite's machine between two looks; a page that FTS5 reads is about one


class Stop:
    """Says whether work must end; set `is_over` from any thread."""

    def __init__(self, longest_s: float) -> None:
        """Create it; the time begins with `ending`."""
        self._longest_s, self._until, self.is_over = longest_s, math.inf, False

    def __call__(self) -> bool:
        return self.is_over or time.monotonic() >= self._until

    def check(self) -> None:
        """Raise `Unavailable` if the work must end; for loops between statements."""
        if self():
            raise Unavailable("the search takes too long")

    @contextmanager
    def ending(self, connection: sqlite3.Connection) -> Iterator[None]:
        """End what a connection does when it is time to; raises as `check`."""
        self._until = time.monotonic() + self._longest_s
        self.check()
        connection.set_progress_handler(self, _STEPS)
        try:
            yield
        except sqlite3.Error:
            self.check()
            raise
        finally:
            connection.set_progress_handler(None, 0)
