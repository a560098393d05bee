"""Presence: reads its settings, connects its parts, runs, and stops gracefully."""

from __future__ import annotations

import asyncio
import logging
import random

from services.presence.adapters.redis_roster import SWEEP_S, RedisRoster
from services.presence.config import PresenceConfig
from services.presence.domain.sweeper import sweep
from services.presence.service import PresenceServicer
from services.shared.errors import Unavailable
from services.shared.incarnation.gate import RunTracker
from services.shared.process.cancellation import end_task
from services.shared.process.internal_http import start_internal_http
from services.shared.process.lifecycle import until_stopped
from services.shared.redis.client import check_server, redis_client
from services.shared.redis.pipeline import RedisPipeline
from services.shared.startup.grpc_server import GRACE_S, serve_grpc
from services.shared.startup.service import run_service
from thalamus.presence.v1 import presence_pb2_grpc as rpc

logger = logging.getLogger("services.presence")


async def main(config: PresenceConfig, stopping: asyncio.Event) -> None:
    """Run presence until `stopping` is set or its sweeper fails."""
    tokens = config.service_tokens()
    watch = RunTracker()
    address = config.redis_address()
    pipeline = RedisPipeline(address, gate=watch)
    roster = RedisRoster(pipeline, lambda: watch.run_id, feed_max_entries=config.feed.max_entries)
    checks = {"redis": False}
    internal = await start_internal_http(config.internal_host, config.internal_port, ready=lambda: checks)
    servicer = PresenceServicer(roster, config.lease_ttl_s)
    server = await serve_grpc(
        "presence", config, tokens, lambda grpc: rpc.add_PresenceServiceServicer_to_server(servicer, grpc)
    )
    sweeping = asyncio.create_task(_sweep(address, roster, checks))
    try:
        logger.info("started", extra={"grpc_port": server.port, "internal_port": internal.port})
        await until_stopped(stopping, sweeping)
        checks["stopping"] = False
        await server.stop(GRACE_S)
    finally:
        await end_task(sweeping)
        await internal.close()
        await pipeline.aclose()


async def _sweep(address: str, roster: RedisRoster, checks: dict[str, bool]) -> None:
    """Sweep at intervals until cancelled, and keep the readiness check up to date."""
    await _wait_for_redis(address, checks)
    while True:
        try:
            await sweep(roster)
            checks["redis"] = True
        except Unavailable as error:
            if checks["redis"]:
                logger.warning("a sweep was not possible", extra={"error": str(error)})
            checks["redis"] = False
        await asyncio.sleep(SWEEP_S * random.uniform(0.8, 1.2))


async def _wait_for_redis(address: str, checks: dict[str, bool]) -> None:
    said = ""
    async with redis_client(address, max_connections=1) as client:
        while True:
            try:
                await check_server(client)
                checks["redis"] = True
                return
            except Unavailable as error:
                if str(error) != said:
                    said = str(error)
                    logger.warning("not ready", extra={"check": "redis", "error": said})
                await asyncio.sleep(0.2)


if __name__ == "__main__":
    run_service("presence", PresenceConfig, main)
