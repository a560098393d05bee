"""Lua scripts of the hot log, run by hash, several in one round trip.

A server that does not know a script gets the texts of all scripts of this process, and the call is repeated. So later
calls find theirs: one that is repeated alone runs behind those that followed it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from redis import exceptions

from services.shared.errors import Unavailable

_FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Script:
    """Text and SHA-1 of a Lua script."""

    text: bytes
    sha: str


_TEXTS: dict[bytes, None] = {}  # of all scripts of this process; a dict as an ordered set
_NAMES: dict[str, str] = {}  # SHA-1 → file, of the same scripts


def load(*paths: Path) -> Script:
    """Load a script from a file, or from several that are concatenated."""
    text = b"".join(path.read_bytes() for path in paths)
    script = Script(text, hashlib.sha1(text, usedforsecurity=False).hexdigest())
    _TEXTS[text], _NAMES[script.sha] = None, paths[-1].name
    return script


def name_of(sha: str) -> str | None:
    """File of a script, such as `commit.lua`; None: this process has loaded none."""
    return _NAMES.get(sha)


APPEND_HOT = load(_FOLDER / "stamp.lua", _FOLDER / "append_hot.lua")
APPEND_STORED = load(_FOLDER / "stamp.lua", _FOLDER / "append_stored.lua")
COMMIT = load(_FOLDER / "commit.lua")
COUNT_WRITE = load(_FOLDER / "count_write.lua")
NOTE_QUEUED = load(_FOLDER / "note_queued.lua")
INIT = load(_FOLDER / "init.lua")
ADVANCE = load(_FOLDER / "advance.lua")
TOP = load(_FOLDER / "top.lua")
READ = load(_FOLDER / "read.lua")
RESET = load(_FOLDER / "reset.lua")
CLEAR = load(_FOLDER / "clear.lua")
REMEMBER = load(_FOLDER / "remember.lua")
MARK = load(_FOLDER / "mark.lua")
SETTLED = load(_FOLDER / "settled.lua")
UNSTORED = load(_FOLDER / "unstored.lua")
UNMARK = load(_FOLDER / "unmark.lua")
TRIM = load(_FOLDER / "rebuild.lua", _FOLDER / "trim.lua")
ERASE = load(_FOLDER / "rebuild.lua", _FOLDER / "erase.lua")
REST = load(_FOLDER / "rest.lua")
VERIFY = load(_FOLDER / "verify.lua")


class Call(NamedTuple):
    """One call of a script, with its keys and arguments."""

    script: Script
    keys: Sequence[str]
    arguments: Sequence[str | bytes | int]


Command = tuple[str | bytes | int, ...]


async def run_through(send: Callable[[Sequence[Command]], Awaitable[list[Any]]], calls: Sequence[Call]) -> list[Any]:
    """Run calls in order, in one round trip; in three if a script was unknown.

    Returns one result per call; a `redis.ResponseError` means that the server refused the call.

    Args:
        send: Sends commands and returns their results, in order.
    """
    results = await send([_command(call) for call in calls])
    missing = [index for index, found in enumerate(results) if isinstance(found, exceptions.NoScriptError)]
    if missing:
        await send([("SCRIPT", "LOAD", text) for text in _TEXTS])
        again = await send([_command(calls[index]) for index in missing])
        for index, result in zip(missing, again, strict=True):
            results[index] = result
    return results


def _command(call: Call) -> Command:
    """The EVALSHA command of a call."""
    return ("EVALSHA", call.script.sha, len(call.keys), *call.keys, *call.arguments)


def raise_for_error(result: Any) -> Any:
    """Return the result, unless the server refused the call.

    Raises:
        Unavailable: it refused: out of memory, loading, read only.
    """
    if isinstance(result, exceptions.RedisError):
        raise Unavailable(f"Redis refused: {result}") from result
    return result
