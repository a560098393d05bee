"""Process of the webhook dispatcher: reads settings, wires parts, runs, stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from services.persistence.webhooks.config import WebhooksConfig
from services.persistence.webhooks.dispatcher import Dispatcher
from services.persistence.webhooks.endpoints import Endpoint, load_endpoints
from services.persistence.webhooks.letters import Letters, feed_group
from services.persistence.webhooks.sender import sender_of
from services.shared.feed.reader import FeedReader
from services.shared.process.cancellation import end_task
from services.shared.process.internal_http import start_internal_http
from services.shared.process.lifecycle import until_stopped
from services.shared.redis.pipeline import RedisPipeline
from services.shared.startup.service import run_service

logger = logging.getLogger("services.persistence.webhooks")

_CLAIM_AFTER_S = 10.0  # after that time another process stores events that one has read; storing takes 5 s at most
_GRACE_S = 3.0  # seconds for requests that are under way when the process stops


async def main(config: WebhooksConfig, stopping: asyncio.Event) -> None:
    """Run the dispatchers of all endpoints until `stopping` is set."""
    endpoints = load_endpoints(config.file)
    if not endpoints:
        logger.warning("no endpoint is configured: nothing is sent", extra={"file": str(config.file)})
    async with contextlib.AsyncExitStack() as opened:
        redis = RedisPipeline(config.redis_address())
        opened.push_async_callback(redis.aclose)
        dispatchers = [await _dispatcher(one, config.redis_address(), redis, opened) for one in endpoints]
        checks = {"running": True}
        internal = await start_internal_http(
            config.internal_host,
            config.internal_port,
            ready=lambda: checks | {"redis": all(one.answers for one in dispatchers)},
        )
        opened.push_async_callback(internal.close)
        tasks = [asyncio.create_task(one.run()) for one in dispatchers]
        try:
            names = [one.name for one in endpoints]
            logger.info("started", extra={"endpoints": names, "internal_port": internal.port})
            await until_stopped(stopping, *tasks)
            checks["running"] = False
        finally:
            for task in tasks:
                await end_task(task)
            await asyncio.gather(*(one.sending.drain(_GRACE_S) for one in dispatchers))


async def _dispatcher(
    endpoint: Endpoint, address: str, redis: RedisPipeline, opened: contextlib.AsyncExitStack
) -> Dispatcher:
    """Return the dispatcher of an endpoint; what it uses is closed with `opened`."""
    reader = FeedReader(
        address,
        feed_group(endpoint.name),
        types=endpoint.events,
        claim_after_s=_CLAIM_AFTER_S,
    )
    opened.push_async_callback(reader.close)
    sender = await asyncio.to_thread(sender_of, endpoint)
    opened.push_async_callback(sender.aclose)
    return Dispatcher(endpoint, reader, Letters(redis, endpoint.name), sender)


def run() -> None:
    """Run the process until it ends."""
    run_service("webhooks", WebhooksConfig, main)
