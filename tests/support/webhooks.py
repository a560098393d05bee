"""Endpoints of webhooks, events for them, and dispatchers that run in the test."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import redis.asyncio

from services.persistence.webhooks.dispatcher import Dispatcher
from services.persistence.webhooks.endpoints import DEFAULT_TYPES, Endpoint
from services.persistence.webhooks.letters import Letters
from services.persistence.webhooks.sender import sender_of
from services.shared.feed.reader import FeedReader
from services.shared.hotlog import keys
from services.shared.process.cancellation import end_task
from services.shared.redis.pipeline import RedisPipeline
from thalamus.common.v1 import common_pb2

SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two characters"[:32]).decode()
OTHER_SECRET = "whsec_" + base64.b64encode(b"another one of thirty-two letters"[:32]).decode()
_LUA = Path(keys.__file__).parents[1] / "feed" / "lifecycle.lua"
_TELL = _LUA.read_text() + "\nreturn tell(KEYS[1], 100000, KEYS[2], ARGV[1], ARGV[2], ARGV[3], nil)"


async def tell(
    client: redis.asyncio.Redis, kind: str, user: str = "", client_id: str = "", *, channel: str = ""
) -> int:
    """Write a lifecycle event as presence does; return its number."""
    member = common_pb2.ClientInfo(user=user, client=client_id).SerializeToString() if user else b""
    whose = channel or f"/u{user}"
    number = await client.eval(
        _TELL, 2, keys.lifecycle(keys.feed_shard(whose)), f"t:test:counter:{whose}", kind, channel, member
    )
    return int(number)


def endpoint(url: str, folder: Path, *secrets: str, name: str = "crm", **options: Any) -> Endpoint:
    """Return an endpoint whose secrets are in files of the folder."""
    files = []
    for place, secret in enumerate(secrets or (SECRET,)):
        files.append(folder / f"{name}.secret.{place}")
        files[-1].write_text(secret + "\n")
    options = {"events": DEFAULT_TYPES, "timeout_s": 10.0, **options}
    return Endpoint(name=name, url=url, secret_files=tuple(files), **options)


def webhooks_file(folder: Path, url: str, **options: Any) -> Path:
    """Return a file with the endpoint `crm`, whose secret is `SECRET`."""
    (folder / "secret").write_text(SECRET)
    lines = [f"{name} = {json.dumps(value)}" for name, value in options.items()]
    path = folder / "webhooks.toml"
    path.write_text(f'[endpoints.crm]\nurl = "{url}"\nsecret_files = ["secret"]\n' + "\n".join(lines) + "\n")
    return path


@contextlib.asynccontextmanager
async def dispatching(
    redis_url: str, to: Endpoint, *, pause: Callable[[int], float] = lambda _: 0.01, claim_after_s: float = 0.5
) -> AsyncIterator[Dispatcher]:
    """Run a dispatcher; outside nothing of it goes on."""
    pipeline = RedisPipeline(redis_url)
    reader = FeedReader(redis_url, f"webhooks.{to.name}", types=to.events, claim_after_s=claim_after_s)
    async with contextlib.aclosing(sender_of(to)) as sender:
        dispatcher = Dispatcher(to, reader, Letters(pipeline, to.name), sender, pause=pause)
        task = asyncio.create_task(dispatcher.run())
        try:
            yield dispatcher
        finally:
            await end_task(task)
            await dispatcher.sending.drain(0)
            await reader.close()
            await pipeline.aclose()
