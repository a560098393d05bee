"""Checks and repairs the append-only file of the stack's Redis.

After a power cut some file systems show a file whose last part is zero bytes: its length was written, its content was
not. Redis refuses to start with such a file ("Bad file format"). What lies before the damage is whole, what lies behind
it was never synced. `redis-check-aof` cuts it off; the server's own program does so when it is called by that name.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path

from services.shared.process.config import ConfigError

_FOLDER = Path("redis") / "appendonlydir"
_MANIFEST = "appendonly.aof.manifest"
_CHUNK_BYTES = 65_536  # read at a time, from the end
_CHECK_TIMEOUT_S = 600.0
_REFUSED = "reading the append only file"  # part of Redis' message for a file that it can't read


def refuse_zeros(data: Path) -> None:
    """Check that the append-only file does not end in zero bytes. Reads only its end.

    Raises:
        ConfigError: it does. The message says where, how many, and what repairs it.
    """
    file = _newest(data)
    zeros = _zeros_at_end(file) if file is not None else 0
    if file is not None and zeros:
        raise ConfigError(
            f"the append-only file of Redis, {file}, ends in {zeros} zero bytes, as after a power cut: {_cure(file)}"
        )


def explained(reason: str, tail: tuple[str, ...], data: Path) -> str:
    """Return why Redis did not start, with the repair if its file is damaged."""
    file = _newest(data)
    if file is None or not any(_REFUSED in line for line in tail):
        return reason
    return f"{reason}: its append-only file, {file}, is damaged: {_cure(file)}"


def repair(server: Path, data: Path) -> str:
    """Cut off the unreadable end of the append-only file, after making a copy of it.

    Returns what was done, for people. `server` is the program of Redis or Valkey, which does the check. No Redis may
    run on the data.

    Raises:
        ConfigError: it can't be checked, copied or repaired.
    """
    file = _newest(data)
    if file is None:
        return "there is no append-only file yet: nothing to repair"
    said = _check(server, file)
    found = re.search(r"size=(\d+), ok_up_to=(\d+)", said)
    if found is None:
        raise ConfigError(f"{file} can't be checked: {said.strip()[-200:]}")
    size, good = int(found[1]), int(found[2])
    if size == good:
        return f"{file} is whole: nothing to repair"
    folder = file.parent
    copy = folder.with_name(f"{folder.name}.before-repair-{int(time.time())}")
    try:
        shutil.copytree(folder, copy)
    except OSError as error:  # of one file; several are a `shutil.Error`, which is an OSError
        shutil.rmtree(copy, ignore_errors=True)
        raise ConfigError(f"no copy of {folder} can be made, and nothing was repaired: {error}") from error
    said = _check(server, file, "--fix")
    if file.stat().st_size != good:
        raise ConfigError(f"{file} can't be repaired: {said.strip()[-200:]}")
    return f"{size - good} of {size} bytes were cut off the end of {file}; {copy} has all of it as it was"


def _cure(file: Path) -> str:
    by_hand = f"redis-check-aof --fix {shlex.quote(str(file))}"
    return f"`thalamus dev --repair` cuts off what can't be read and keeps a copy (by hand: {by_hand})"


def _newest(data: Path) -> Path | None:
    """Return the file that Redis appends to: the last one of the manifest."""
    try:
        lines = (data / _FOLDER / _MANIFEST).read_text(errors="replace").splitlines()
    except OSError:
        return None
    names = [words[1] for line in lines if len(words := line.split()) >= 6 and words[5] == "i"]
    file = data / _FOLDER / names[-1] if names else None
    return file if file is not None and file.is_file() else None


def _zeros_at_end(file: Path) -> int:
    """Return how many zero bytes the file ends in."""
    zeros = 0
    with file.open("rb") as opened:
        left = opened.seek(0, 2)
        while left:
            start = max(left - _CHUNK_BYTES, 0)
            opened.seek(start)
            chunk = opened.read(left - start)
            here = len(chunk) - len(chunk.rstrip(b"\0"))
            zeros += here
            if here < len(chunk):
                break
            left = start
    return zeros


def _check(server: Path, file: Path, *options: str) -> str:
    try:
        done = subprocess.run(
            ["redis-check-aof", *options, str(file)],  # the program acts by the name that it is called by
            executable=server,
            input="y\n",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_CHECK_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{file} can't be checked: {error}") from error
    return done.stdout + done.stderr
