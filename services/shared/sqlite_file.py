"""Whether the files of an SQLite database are still those that were opened.

SQLite goes on writing into files that were deleted or replaced under it, and nothing of that is there after a restart.
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

_AGAIN_S = 0.02


def once_unlocked(work: Callable[[], T], within_s: float) -> T:
    """Do it, again and again for so long while another process has the lock.

    SQLite waits for locks by itself, but for one: a file that is to have a write-ahead log for the first time.

    Raises:
        sqlite3.Error: it can't be done.
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
    """Of one database that is in use; told what was found, it says so once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_gone = False

    def check(self, is_the_same: bool) -> None:
        """Go on only with the files that were opened.

        Raises:
            Unavailable: they are not there any more.
        """
        if not is_the_same and not self._is_gone:
            logger.critical("a database was deleted or replaced while in use", extra={"path": str(self._path)})
        elif is_the_same and self._is_gone:
            logger.warning("a database that was gone is back", extra={"path": str(self._path)})
        self._is_gone = not is_the_same
        if self._is_gone:
            raise Unavailable("its files were deleted or replaced: bring them back, or start the service anew")


def identity(path: Path) -> Identity:
    """Device and inode of the database and of its write-ahead log; None for one that is not there.

    Of a database in use: a connection that has read anything has made the log.
    """
    return tuple(_of(name) for name in (path, f"{path}-wal"))


def _of(path: Path | str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
