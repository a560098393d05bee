"""Puts a copy of an SQLite store in the place of the store.

A write-ahead log (`-wal`) beside a file is applied to it, whichever file it was written for. The log of the old file
would turn a copy into the old state again, or into a mixture. So it must go before the copy comes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from cli.errors import Refused

_TABLES = {"channels", "log"}  # of a store, since its first version


def refuse_other_log(path: Path) -> None:
    """Refuse a store with a write-ahead log, which may be that of an earlier file.

    Raises:
        Refused: there is one. A service that ended in order leaves none.
    """
    log = _log_of(path)
    if log.exists() and log.stat().st_size:
        raise Refused(
            f"{log} is there, and SQLite would apply it to the copy: stop persistence if it runs, or use `--from COPY`,"
            " which removes what belonged to the store of before"
        )


def put_in_place(copy: Path, path: Path) -> None:
    """Replace the store, and the files beside it, by the copy in one step.

    A write-ahead log beside the copy is part of it.

    Raises:
        Refused: the copy is no sound store, or the store is in use; then nothing was changed.
    """
    if not copy.is_file():
        raise Refused(f"{copy}: there is no such file")
    fresh = path.with_name(f"{path.name}.restoring")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.unlink(missing_ok=True)
        _copy(copy, fresh)
        _refuse_in_use(path)
        if path.exists():
            _same_owner(path, fresh)
        for old in (_log_of(path), path.with_name(f"{path.name}-shm")):
            old.unlink(missing_ok=True)
        os.replace(fresh, path)
        _sync(path.parent)
    except OSError as error:
        raise Refused(f"{path}: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)


def _copy(copy: Path, fresh: Path) -> None:
    """Write a sound copy of a store, synced.

    Raises:
        Refused: it is none.
    """
    mode = "mode=ro" if _log_of(copy).exists() else "mode=ro&immutable=1"  # without a log, it needs no files beside it
    try:
        with (
            closing(sqlite3.connect(f"file:{quote(str(copy.absolute()))}?{mode}", uri=True)) as source,
            closing(sqlite3.connect(fresh)) as target,
        ):
            source.backup(target)
            (said,) = target.execute("PRAGMA quick_check(1)").fetchone()
            found = {name for (name,) in target.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error as error:
        raise Refused(f"{copy}: {error}") from error
    if said != "ok":
        raise Refused(f"{copy} is damaged: {said}")
    if not found >= _TABLES:
        raise Refused(f"{copy} is no store of persistence")
    _sync(fresh)


def _refuse_in_use(path: Path) -> None:
    """Refuse a store that another process has open; a damaged one may be replaced."""
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as opened:
            opened.execute("PRAGMA locking_mode = EXCLUSIVE")
            opened.execute("BEGIN EXCLUSIVE")
            opened.execute("ROLLBACK")
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
            raise Refused(f"{path} is in use: stop persistence first") from error


def _same_owner(path: Path, fresh: Path) -> None:
    shutil.copymode(path, fresh)
    with contextlib.suppress(PermissionError):  # only root may give files away
        os.chown(fresh, path.stat().st_uid, path.stat().st_gid)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")
