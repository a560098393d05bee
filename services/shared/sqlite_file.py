"""Files of an open SQLite database: whether they were replaced, or are locked.

SQLite goes on writing into such files, and everything it writes is gone after a restart.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from services.shared.errors import Unavailable

logger = logging.getLogger(__name__)
Identity = tuple[tuple[int, int] | None, ...]
T = TypeVar("T")

_AGAIN_S = 0.02  # pause between two attempts, seconds


def once_unlocked(work: Callable[[], T], within_s: float) -> T:
    """Call `work`, and call it again while another process holds the lock.

    Repeats for `within_s` seconds at most. SQLite waits for nearly all locks by itself, but not when a file is switched
    to a write-ahead log for the first time.

    Raises:
        sqlite3.Error: it failed for another reason, or the lock was held for too long.
    """
    until = time.monotonic() + within_s
    while True:
        try:
            return work()
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
        time.sleep(_AGAIN_S)


class FileWatch:
    """Refuses work on a database whose files were replaced, and logs the change once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_gone = False

    def check(self, is_same: bool) -> None:
        """Refuse work if the files are not those that were opened.

        Raises:
            Unavailable: they were deleted or replaced.
        """
        if not is_same and not self._is_gone:
            logger.critical("a database was deleted or replaced while in use", extra={"path": str(self._path)})
        elif is_same and self._is_gone:
            logger.warning("a database that was gone is back", extra={"path": str(self._path)})
        self._is_gone = not is_same
        if self._is_gone:
            raise Unavailable("its files were deleted or replaced: bring them back, or start the service anew")


def identity(path: Path) -> Identity:
    """Return device and inode of the database file and of its write-ahead log.

    None stands for a file that does not exist. Only meaningful for a database in use: the write-ahead log exists once a
    connection has read anything.
    """
    return tuple(_device_and_inode(name) for name in (path, f"{path}-wal"))


def _device_and_inode(path: Path | str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
