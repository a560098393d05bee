"""Scripts by hash, many in one round trip; a server that does not know one is told."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis.asyncio
from redis import exceptions

from services.shared.errors import CONNECTION_LOST, Unavailable

_FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua text and its hash."""

    text: bytes
    sha: str


def load(path: Path) -> Script:
    """The script in a file."""
    text = path.read_bytes()
    return Script(text, hashlib.sha1(text, usedforsecurity=False).hexdigest())


APPEND = load(_FOLDER / "append.lua")
COMMIT = load(_FOLDER / "commit.lua")
INIT = load(_FOLDER / "init.lua")
ADVANCE = load(_FOLDER / "advance.lua")
TOP = load(_FOLDER / "top.lua")
READ = load(_FOLDER / "read.lua")
RESET = load(_FOLDER / "reset.lua")
MARK = load(_FOLDER / "mark.lua")
SETTLED = load(_FOLDER / "settled.lua")
UNSTORED = load(_FOLDER / "unstored.lua")
UNMARK = load(_FOLDER / "unmark.lua")
TRIM = load(_FOLDER / "trim.lua")
VERIFY = load(_FOLDER / "verify.lua")
BEAT = load(_FOLDER / "beat.lua")
RENEW = load(_FOLDER / "renew.lua")


@dataclass(frozen=True, slots=True)
class Call:
    """One run of a script."""

    script: Script
    keys: Sequence[str]
    arguments: Sequence[str | bytes | int]


async def run(client: redis.asyncio.Redis, calls: Sequence[Call], *, timeout_s: float) -> list[Any]:
    """Run the scripts in order, in one round trip (two where the server did not know one).

    Returns one result per call; a result that is a `redis.ResponseError` was refused by the server.

    Raises:
        Unavailable: no answer; which of them ran is unknown.
    """
    try:
        async with asyncio.timeout(timeout_s):
            results = await _pipeline(client, calls)
            missing = [index for index, found in enumerate(results) if isinstance(found, exceptions.NoScriptError)]
            if missing:
                for script in {calls[index].script for index in missing}:
                    await client.script_load(script.text)
                again = await _pipeline(client, [calls[index] for index in missing])
                for index, result in zip(missing, again, strict=True):
                    results[index] = result
    except (exceptions.ConnectionError, exceptions.TimeoutError, *CONNECTION_LOST) as error:
        raise Unavailable(f"Redis does not answer: {error}") from error
    return results


async def _pipeline(client: redis.asyncio.Redis, calls: Sequence[Call]) -> list[Any]:
    async with client.pipeline(transaction=False) as pipeline:
        for call in calls:
            pipeline.evalsha(call.script.sha, len(call.keys), *call.keys, *call.arguments)
        return list(await pipeline.execute(raise_on_error=False))


def refuse(result: Any) -> Any:
    """The result, unless the server refused the call.

    Raises:
        Unavailable: it did: out of memory, loading, read only.
    """
    if isinstance(result, exceptions.RedisError):
        raise Unavailable(f"Redis refused: {result}") from result
    return result
