"""Objects as files of a directory, on a disk of the host or one that hosts share.

A file appears under its name only when all of it is on the disk. Files and directories are for the user of the process
alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from services.persistence.archive.ports import ObjectMissing, StoredObject
from services.shared.errors import Unavailable

_UNFINISHED = ".part"  # how the name of a file ends that is being written
_LISTED_AT_ONCE = 500
_THREADS = 4  # of their own: a disk of the network that hangs must not hold up other work of the process
_LONGEST_S = 30.0  # longest wait for a call, seconds
_OWN_FOLDER, _OWN_FILE = 0o700, 0o600
T = TypeVar("T")


class _Missing(Unavailable):
    """There is no such file or directory."""


class Directory:
    """`ObjectStore` in a directory."""

    def __init__(self, path: Path) -> None:
        """Create it; the directory is made with the first object."""
        self._path = path
        self._executor = ThreadPoolExecutor(_THREADS, "archive")

    async def put(self, name: str, body: bytes) -> None:
        await self._run(lambda: self._put(self._path / name, body))

    async def get(self, name: str) -> bytes:
        try:
            return await self._run((self._path / name).read_bytes)
        except _Missing as error:
            raise ObjectMissing(name) from error

    async def delete(self, name: str) -> None:
        await self._run(lambda: (self._path / name).unlink(missing_ok=True))

    async def list(self, prefix: str) -> AsyncIterator[StoredObject]:
        found = self._files(prefix)
        while some := await self._run(lambda: [one for _, one in zip(range(_LISTED_AT_ONCE), found, strict=False)]):
            for one in some:
                yield one

    async def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)  # a directory that hangs does not keep it

    async def _run(self, work: Callable[[], T]) -> T:
        """Run something in a thread, and wait for it for a while.

        Raises:
            Unavailable: it failed, or takes too long.
        """
        try:
            async with asyncio.timeout(_LONGEST_S):
                return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        except TimeoutError as error:
            raise Unavailable("the archive does not answer") from error
        except FileNotFoundError as error:
            raise _Missing(f"the archive can't be used: {error.strerror}") from error
        except OSError as error:
            raise Unavailable(f"the archive can't be used: {error.strerror}") from error

    def _put(self, path: Path, body: bytes) -> None:
        _make(path.parent)
        unfinished = path.with_name(path.name + _UNFINISHED)
        try:
            with open(unfinished, "wb", opener=_open_own) as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise
        _sync(path.parent)

    def _files(self, prefix: str) -> Iterator[StoredObject]:
        for folder, _, names in os.walk(self._path / prefix):
            for name in names:
                path = Path(folder) / name
                try:
                    modified = path.stat().st_mtime
                except FileNotFoundError:  # deleted meanwhile
                    continue
                yield StoredObject(path.relative_to(self._path).as_posix(), modified)


def _make(folder: Path) -> None:
    """Make a directory for nobody else, and those above it that are missing."""
    if folder.is_dir():
        return
    _make(folder.parent)
    folder.mkdir(_OWN_FOLDER, exist_ok=True)
    _sync(folder.parent)


def _open_own(path: str, flags: int) -> int:
    return os.open(path, flags, _OWN_FILE)


def _sync(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
