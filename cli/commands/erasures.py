"""`thalamus erasures`: lists what is deleted and not erased everywhere yet."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import click

from cli.options import data_option, json_option
from cli.output import printable, remark, say, say_json, when
from cli.redis_work import with_redis
from services.persistence.adapters.redis.rewrites import oldest_ms
from services.persistence.chat.erasure_marks import ErasureMarks, PendingErasure
from services.shared.redis.pipeline import RedisPipeline


@click.command("erasures")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Most conversations to list."
)
@data_option
@json_option
def command(limit: int, data: Path, as_json: bool) -> None:
    """List what is deleted and not erased everywhere yet, the oldest first.

    `log`: content of a conversation, in the store and in Redis. `aof`: the append-only file of Redis, which is
    rewritten 12 hours after the first erasure. The files of the store are no part of this: see the metric
    `thalamus_erasure_oldest_seconds`.

    Reads REDIS_URL, REDIS_PASSWORD_FILE and REDIS_PREFIX, or asks the Redis of the running stack.
    """

    async def read(redis: RedisPipeline) -> tuple[Sequence[PendingErasure], int | None]:
        return await ErasureMarks(redis, time.time).oldest(limit), await oldest_ms(redis)

    pending, file_since = with_redis(data, read)
    rows = [("log", one.mark.channel, one.at_ms) for one in pending]
    if file_since is not None:
        rows.append(("aof", "", file_since))
    for target, channel, at_ms in rows:
        if as_json:
            say_json({"target": target, "channel": channel, "since": at_ms})
        else:
            say("  ".join(filter(None, (target, when(at_ms // 1_000), printable(channel)))))
    remark("nothing is pending" if not rows else f"{len(rows)} pending")
