"""`thalamus erasures`: lists what is deleted and not erased everywhere yet."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import click

from cli.errors import Unreachable
from cli.options import data_option, find_redis, json_option
from cli.output import printable, remark, say, say_json, when
from services.persistence.adapters.redis.rewrites import oldest_ms
from services.persistence.chat.erasure_marks import ErasureMarks, PendingErasure
from services.shared.errors import Unavailable
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
    pending, file_since = _read(find_redis(data), limit)
    rows = [("log", one.mark.channel, one.at_ms) for one in pending]
    if file_since is not None:
        rows.append(("aof", "", file_since))
    for target, channel, at_ms in rows:
        if as_json:
            say_json({"target": target, "channel": channel, "since": at_ms})
        else:
            say("  ".join(filter(None, (target, when(at_ms // 1_000), printable(channel)))))
    remark("nothing is pending" if not rows else f"{len(rows)} pending")


def _read(address: str, limit: int) -> tuple[Sequence[PendingErasure], int | None]:
    """Read what is pending in conversations, and since when in the append-only file.

    Raises:
        Unreachable: Redis does not answer, or refuses.
    """

    async def read() -> tuple[Sequence[PendingErasure], int | None]:
        redis = RedisPipeline(address)
        try:
            return await ErasureMarks(redis, time.time).oldest(limit), await oldest_ms(redis)
        finally:
            await redis.aclose()

    try:
        return asyncio.run(read())
    except Unavailable as error:
        raise Unreachable(str(error)) from error
