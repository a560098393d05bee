"""One SQLite file, and the threads that read and write it.

The stores of a process that share a file share this: one thread and one connection that write, so that they never wait
for each other's lock, one of each that read, and one or more that search.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from services.persistence.metrics import STORE_SECONDS
from services.shared.errors import Unavailable
from services.shared.process.config import ConfigError
from services.shared.sqlite_file import FileWatch, Identity, identity, once_unlocked

logger = logging.getLogger(__name__)

_BUSY_MS = 2_000  # longest wait for the lock of another process
Role = Literal["read", "write", "scrub", "search", "archive"]
T = TypeVar("T")


class SqliteDatabase:
    """An open file with its threads; several processes may share the file."""

    def __init__(self, path: Path, schema: str, *, searchers: int = 1) -> None:
        """Open the file, and create what is missing.

        Args:
            path: Of the file.
            schema: Statements that create tables unless they are there.
            searchers: Threads that search, with a connection each.

        Raises:
            ConfigError: the file can't be opened or created.
        """
        self._path = path
        self._executors = {
            "read": ThreadPoolExecutor(1, "store-reader"),
            "write": ThreadPoolExecutor(1, "store-writer"),
            "scrub": ThreadPoolExecutor(1, "store-scrubber"),
            "search": ThreadPoolExecutor(searchers, "store-searcher"),
            "archive": ThreadPoolExecutor(1, "store-archiver"),
        }
        self._connections: dict[str, sqlite3.Connection] = {}  # by role, and thread where it has several
        self._opened: dict[str, Identity] = {}  # the files that each of them opened
        self._watch = FileWatch(path)
        self.create(schema)
        self._file = identity(path)[0]

    def create(self, schema: str) -> None:
        """Create the tables that are missing; called before the file is used.

        Raises:
            ConfigError: the file can't be opened or created.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            once_unlocked(partial(self._create, schema), _BUSY_MS / 1000)
        except (sqlite3.Error, OSError) as error:
            raise ConfigError(f"PERSISTENCE_DB: {self._path} can't be used: {error}") from error

    def first(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Read something before the file is used, on a connection of its own.

        Raises:
            ConfigError: the file can't be read.
        """
        try:
            with closing(self._connect()) as connection:
                return once_unlocked(partial(work, connection), _BUSY_MS / 1000)
        except sqlite3.Error as error:
            raise ConfigError(f"PERSISTENCE_DB: {self._path} can't be used: {error}") from error

    async def close(self) -> None:
        """Finish running operations, then close the file."""
        for executor in self._executors.values():
            await asyncio.to_thread(executor.shutdown)
        for connection in self._connections.values():
            connection.close()

    async def run(self, role: Role, op: str, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run an operation in the thread of its role; `op` names it in the metrics.

        Raises:
            Unavailable: SQLite failed, or the files were deleted or replaced.
        """
        return await asyncio.get_running_loop().run_in_executor(self._executors[role], self._call, role, op, work)

    def _create(self, schema: str) -> None:
        with closing(self._connect()) as connection:
            connection.executescript(schema)

    def _connect(self) -> sqlite3.Connection:
        """Open a connection with write-ahead log and full synchronisation."""
        connection = sqlite3.connect(self._path, timeout=_BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA wal_autocheckpoint = 16000")
        connection.execute("PRAGMA cache_size = -32768")
        return connection

    def _call(self, role: str, op: str, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run an operation; called in the thread of its role.

        After a failure the connection is made again, since a full or broken disk may recover.
        """
        started = time.perf_counter()
        key = f"search {threading.get_ident()}" if role == "search" else role
        try:
            if key not in self._connections:
                self._watch.check(identity(self._path)[0] == self._file)
                connection = self._connections[key] = self._connect()
                connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
                self._opened[key] = identity(self._path)
            done = work(self._connections[key])
            # If the files were replaced meanwhile, what was written is lost at the next start.
            self._watch.check(identity(self._path) == self._opened[key])
            return done
        except sqlite3.Error as error:
            logger.error("the store failed", extra={"op": op, "error": str(error)})
            broken = self._connections.pop(key, None)
            if broken is not None:
                broken.close()
            raise Unavailable(f"the store can't: {error}") from error
        finally:
            STORE_SECONDS.labels(op).observe(time.perf_counter() - started)


class Transaction:
    """A transaction: BEGIN, then COMMIT, or ROLLBACK on an exception.

    The kind "IMMEDIATE" takes the lock for writing at once; "DEFERRED" is for reads that are to see the same state.
    """

    def __init__(self, connection: sqlite3.Connection, kind: Literal["IMMEDIATE", "DEFERRED"] = "IMMEDIATE") -> None:
        self._connection, self._kind = connection, kind

    def __enter__(self) -> None:
        self._connection.execute(f"BEGIN {self._kind}")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._connection.execute("COMMIT")
        elif self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
