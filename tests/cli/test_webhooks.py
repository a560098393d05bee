"""`thalamus webhooks` finds the Redis of the running stack, and its prefix."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import msgspec
import redis.asyncio

from cli.bundled import ROOT
from cli.running import RunningStack, write_running
from services.persistence.webhooks.letters import Letter, Letters, feed_group
from services.shared.feed.reader import FeedReader
from services.shared.redis.pipeline import RedisPipeline

_PATHS = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "proto" / "gen")))}


async def thalamus(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Run `thalamus webhooks`; return exit code, output and errors."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("REDIS_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli.main", "webhooks", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=inherited | _PATHS | environment,
    )
    said, wrong = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode(), wrong.decode()


async def dead(client: redis.asyncio.Redis, prefix: str, letter: Letter) -> None:
    """Put a dead letter of `crm` there."""
    await client.sadd(f"{prefix}:webhooks:endpoints", "crm")
    await client.hset(f"{prefix}:webhooks:{{crm}}:letters", letter.id, msgspec.json.encode(letter))
    await client.zadd(f"{prefix}:webhooks:{{crm}}:dead", {letter.id: 1_000_000_000_000})


async def keys_of(client: redis.asyncio.Redis) -> set[str]:
    return {bytes(key).decode() for key in await client.keys("*")}  # type: ignore[arg-type]


async def test_the_running_stack_says_where_its_redis_is_and_with_which_prefix(
    redis_conn: redis.asyncio.Redis, redis_url: str, tmp_path: Path
) -> None:
    stack = RunningStack(
        pid=os.getpid(),
        edges=[],
        auth="",
        redis=redis_url,
        service_token_file="",
        internal={},
        pids={},
        redis_prefix="other",
    )
    write_running(tmp_path, stack)
    await dead(redis_conn, "other", Letter(id="msg_1", body="{}", events=3, tries=10, error="status 500\x1b"))
    code, said, wrong = await thalamus("list", "--data", str(tmp_path))
    assert (code, said) == (0, "crm  msg_1  3 events  2001-09-09T01:46:40+00:00  status 500\\x1b\n"), wrong
    assert wrong == "1 dead letter\n"


async def test_variables_say_it_in_a_container(redis_conn: redis.asyncio.Redis, redis_url: str, tmp_path: Path) -> None:
    for name in ("msg_1", "msg_2"):
        await dead(redis_conn, "mine", Letter(id=name, body="{}", events=1))
    settings = {"REDIS_URL": redis_url, "REDIS_PREFIX": "mine"}
    code, said, wrong = await thalamus("drop", "crm", "--all", "--json", "--data", str(tmp_path), **settings)
    assert code == 0, wrong
    assert said.splitlines() == [f'{{"endpoint":"crm","id":"{name}","done":"dropped"}}' for name in ("msg_1", "msg_2")]
    assert await redis_conn.keys("mine:webhooks:{crm}:*") == []


async def test_what_is_kept_for_an_endpoint_that_was_taken_out_is_listed_and_dropped(
    redis_conn: redis.asyncio.Redis, redis_url: str, tmp_path: Path
) -> None:
    """Nothing of it stays, and other endpoints keep theirs."""
    settings = {"REDIS_URL": redis_url, "REDIS_PREFIX": "t"}
    redis = RedisPipeline(redis_url)
    for endpoint in ("crm", "erp"):
        letters = Letters(redis, endpoint)
        for name in ("msg_1", "msg_2", "msg_3"):
            await letters.store(Letter(id=name, body="{}", events=1))
        await letters.dead(Letter(id="msg_3", body="{}", events=1, error="status 500"), 9)
        reader = FeedReader(redis_url, feed_group(endpoint))
        await reader.next(wait_s=0.0)
        await reader.close()
    await redis.aclose()
    before = await keys_of(redis_conn)
    code, said, wrong = await thalamus("list", "--data", str(tmp_path), **settings)
    assert code == 0, wrong
    assert [line.split()[:2] for line in said.splitlines()[:2]] == [["crm", "msg_3"], ["erp", "msg_3"]]
    assert said.splitlines()[2:] == ["crm  2 batches wait", "erp  2 batches wait"]
    code, said, wrong = await thalamus("drop", "crm", "--endpoint", "--all", "--data", str(tmp_path), **settings)
    assert (code, await keys_of(redis_conn)) == (2, before), wrong
    code, said, wrong = await thalamus("drop", "crm", "--endpoint", "--data", str(tmp_path), **settings)
    assert (code, said) == (0, "dropped: crm, 2 batches that waited, 1 dead letter\n"), wrong
    left = await keys_of(redis_conn)
    assert not [key for key in left if "crm" in key]
    assert before - left == {key for key in before if "crm" in key}
    groups = [group["name"] for group in await redis_conn.xinfo_groups("t:events:{0}")]
    assert groups == [b"webhooks.erp"]
    assert await redis_conn.smembers("t:webhooks:endpoints") == {b"erp"}
    code, said, wrong = await thalamus("list", "--json", "--data", str(tmp_path), **settings)
    assert '{"endpoint":"erp","waiting":2}' in said.splitlines()
    assert "crm" not in said


async def test_without_redis_the_command_says_so_and_ends_with_3(tmp_path: Path) -> None:
    code, _, wrong = await thalamus("list", "--data", str(tmp_path), REDIS_URL="redis://127.0.0.1:1/0")
    assert (code, "Redis does not answer" in wrong) == (3, True)
