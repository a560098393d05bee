"""`thalamus retention` says what is kept of channels, and what was removed last."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import redis.asyncio

from cli.bundled import ROOT
from services.persistence.adapters.redis.hotlog import RedisHotLog
from services.persistence.adapters.redis.retention_turn import RedisTurn
from services.persistence.domain.retention import Swept
from services.persistence.service import PersistenceServicer
from services.shared.redis.pipeline import RedisPipeline
from services.shared.rpc.server import start_grpc_server
from tests.support.persistence import Site
from tests.support.retention import retention_of, with_retention
from thalamus.persistence.v1 import persistence_pb2_grpc as rpc

_PATHS = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "proto" / "gen")))}


async def thalamus(*arguments: str, url: str) -> tuple[int, str, str]:
    """Run `thalamus retention`; return exit code, output and errors."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("REDIS_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli.main", "retention", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=inherited | _PATHS | {"REDIS_URL": url},
    )
    said, wrong = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode(), wrong.decode()


async def test_what_was_removed_last_is_told(redis_url: str, redis_pipeline: RedisPipeline) -> None:
    code, said, remark = await thalamus(url=redis_url)
    assert (code, said) == (0, "")
    assert remark.startswith("nothing was looked at yet")
    await RedisTurn(redis_pipeline, lambda: 1_700_000_000).end(Swept(7, 1, 900), 10)
    code, said, _ = await thalamus("--json", url=redis_url)
    assert (code, json.loads(said)) == (0, {"at": 1_700_000_000, "channels": 7, "failed": 1, "removed": 900})
    code, said, _ = await thalamus(url=redis_url)
    assert said == "2023-11-14T22:13:20+00:00  7 channels  900 publications removed  1 channels failed\n"
    code, _, wrong = await thalamus(url="redis://127.0.0.1:9/0")
    assert (code not in (0, 2), wrong != "") == (True, True)


async def test_what_is_kept_of_a_channel_is_told(
    redis_conn: redis.asyncio.Redis, redis_pipeline: RedisPipeline, redis_url: str, tmp_path: Path
) -> None:
    site = Site(redis_conn, redis_pipeline, tmp_path / "log.sqlite3")
    process = site.process()
    for _ in range(3):
        await process.append(channel="many:a")
    await site.store.begin_removal("many:a", 1)
    hot = RedisHotLog(redis_pipeline, lambda: "first")
    namespaces = with_retention(many=(30, 12))
    retention, _ = retention_of(process.log, hot, site.store, namespaces, lambda: 0.0)
    servicer = PersistenceServicer(process.log, retention)
    server = await start_grpc_server(
        lambda grpc: rpc.add_PersistenceServiceServicer_to_server(servicer, grpc),
        host="127.0.0.1",
        port=0,
        service_token=None,
        service="persistence",
    )
    try:
        where = ("--persistence", f"127.0.0.1:{server.port}")
        code, said, _ = await thalamus("--json", *where, "many:a", "chat:nobody", url=redis_url)
        known, unknown = (json.loads(line) for line in said.splitlines())
        found = await site.store.stored_at("many:a", 2)
        assert found is not None
        assert known == {
            "channel": "many:a",
            "retention_days": 30,
            "retention_messages": 12,
            "removed": 1,
            "top": 3,
            "oldest": round(found.at * 1_000),
        }
        assert (code, unknown["top"], unknown["oldest"]) == (0, 0, 0)
        code, said, _ = await thalamus(*where, "many:a", "chat:nobody", url=redis_url)
        lines = said.splitlines()
        assert lines[0].startswith("many:a  keeps 30 days and 12 publications  has 2 to 3  since ")
        assert lines[1] == "chat:nobody  keeps everything  has nothing"
        assert not await site.store.has_begun("chat:nobody")
    finally:
        await server.stop(0)
        await site.close()
