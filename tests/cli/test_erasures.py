"""`thalamus erasures` lists what is not erased everywhere yet."""

from __future__ import annotations

import asyncio
import json
import os
import sys

import redis.asyncio

from cli.bundled import ROOT
from services.persistence.chat.erasure_marks import ErasureMarks
from services.shared.hotlog import keys
from services.shared.redis.pipeline import RedisPipeline

_PATHS = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "proto" / "gen")))}


async def thalamus(*arguments: str, url: str) -> tuple[int, str, str]:
    """Run `thalamus erasures`; return exit code, output and errors."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("REDIS_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli.main", "erasures", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=inherited | _PATHS | {"REDIS_URL": url},
    )
    said, wrong = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode(), wrong.decode()


async def test_what_is_pending_is_listed_oldest_first(
    redis_conn: redis.asyncio.Redis, redis_pipeline: RedisPipeline, redis_url: str
) -> None:
    assert await thalamus(url=redis_url) == (0, "", "nothing is pending\n")
    now = 1_700_000_000
    for number, channel in enumerate(("conv:g.b", "conv:g.a b"), 1):
        await ErasureMarks(redis_pipeline, lambda: now + number).set([(channel, 9)])  # noqa: B023
    await redis_conn.hset(keys.erasures(), mapping={"since": now * 1_000, "covers": (now - 60) * 1_000})
    code, said, _ = await thalamus("--json", url=redis_url)
    assert code == 0
    assert [json.loads(line) for line in said.splitlines()] == [
        {"target": "log", "channel": "conv:g.b", "since": (now + 1) * 1_000},
        {"target": "log", "channel": "conv:g.a b", "since": (now + 2) * 1_000},
        {"target": "aof", "channel": "", "since": (now - 60) * 1_000},
    ]
    code, said, remark = await thalamus("--limit", "1", url=redis_url)
    assert (code, remark) == (0, "2 pending\n")
    assert [line.split("  ")[0] for line in said.splitlines()] == ["log", "aof"]


async def test_a_redis_that_is_not_there_is_said_so() -> None:
    code, said, wrong = await thalamus(url="redis://127.0.0.1:9/0")
    assert code not in (0, 2)
    assert (said, wrong != "") == ("", True)
