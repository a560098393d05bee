"""Checks before a stack starts. A failure is one line that says what to change."""

from __future__ import annotations

import fcntl
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.persistence.notifier.options import load_options
from services.persistence.webhooks.endpoints import load_endpoints
from services.shared.namespaces import load_namespaces
from services.shared.process.config import ConfigError, read_secret_file

_HOW = "choose another with --data or THALAMUS_DATA"
_SERVICE_TOKEN_BYTES = 32
_LOCK = "dev.lock"


def prepare_data(data: Path) -> None:
    """Create the data directory and its subdirectories; check that they are writable.

    Raises:
        ConfigError: that is impossible.
    """
    for directory in (data, data / "redis", data / "logs"):
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=directory):
                pass
        except (FileExistsError, NotADirectoryError) as error:
            raise ConfigError(f"data directory {directory} can't be made, a file is in its place: {_HOW}") from error
        except OSError as error:
            raise ConfigError(f"data directory {directory} is not writable ({error.strerror}): {_HOW}") from error


def check_namespaces(path: Path) -> None:
    """Read the namespace file as the services will.

    Raises:
        ConfigError: it is missing or wrong.
    """
    if not path.is_file():
        raise ConfigError(f"namespace file {path} does not exist: name one with --config or CHANNELS_FILE")
    load_namespaces(path)


def used_webhooks(path: Path | None) -> Path | None:
    """Return the file of endpoints as a whole path; None if it names none.

    Raises:
        ConfigError: it is missing or wrong.
    """
    return path.resolve() if path is not None and load_endpoints(path) else None


def used_push(path: Path | None) -> Path | None:
    """Return the file of notifications as a whole path; None if nobody is notified.

    Raises:
        ConfigError: it is missing or wrong.
    """
    return path.resolve() if path is not None and load_options(path).rules else None


@contextmanager
def only_one(data: Path) -> Iterator[None]:
    """Lock the data directory for this process; the lock ends with the process.

    Raises:
        ConfigError: another process holds it.
    """
    with (data / _LOCK).open("a+b", buffering=0) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            holder = lock.readall().decode("ascii", "replace").strip() or "unknown"
            raise ConfigError(f"data directory {data} is in use by `thalamus dev` (pid {holder}): {_HOW}") from error
        lock.truncate(0)
        try:
            lock.write(b"%d\n" % os.getpid())
        except OSError as error:
            raise ConfigError(f"{data / _LOCK} can't be written: {error.strerror}") from error
        yield


def service_token(environment_file: str | None, data: Path) -> Path:
    """Return the file with the service token; create it at the first start.

    Raises:
        ConfigError: a named file can't be read, or ours can't be written.
    """
    path = Path(environment_file) if environment_file else data / "service.token"
    if not environment_file and not path.exists():
        write_secret(path, secrets.token_urlsafe(_SERVICE_TOKEN_BYTES))
    read_secret_file(path, "SERVICE_TOKEN_FILE")
    return path


def write_secret(path: Path, secret: str) -> None:
    """Write a file that only this user may read, replacing it as a whole.

    Raises:
        ConfigError: it can't be written.
    """
    temporary = path.with_name(f"{path.name}.new")
    try:
        temporary.unlink(missing_ok=True)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{secret}\n")
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} can't be written: {error.strerror}") from error
