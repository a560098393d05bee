"""Presence: reads its settings, connects its parts, runs, and stops gracefully."""

from __future__ import annotations

import asyncio
import logging
import os
import random

from services.presence.adapters.redis_roster import RedisRoster
from services.presence.config import PresenceConfig
from services.presence.domain.sweeper import sweep
from services.presence.service import PresenceServicer
from services.shared.errors import Unavailable
from services.shared.hotlog.keys import use_prefix
from services.shared.incarnation.gate import RunTracker
from services.shared.process.cancellation import end_task
from services.shared.process.internal_http import start_internal_http
from services.shared.process.lifecycle import run
from services.shared.process.logs import setup_logging
from services.shared.process.secrets import read_service_tokens, redis_address
from services.shared.process.variables import read_checked_env, warn_of_retired
from services.shared.redis.client import check_server, redis_client
from services.shared.redis.pipeline import RedisPipeline
from services.shared.rpc.server import start_grpc_server
from thalamus.presence.v1 import presence_pb2_grpc as rpc

logger = logging.getLogger("services.presence")

_GRACE_S = 3.0  # time for calls that run when presence is stopped, seconds


async def main(stopping: asyncio.Event) -> None:
    config = read_checked_env(PresenceConfig, os.environ, "PRESENCE_")
    setup_logging("presence", level=config.log_level)
    warn_of_retired(os.environ, "PRESENCE_")
    use_prefix(config.redis_prefix)
    tokens = read_service_tokens(config.service_token_file, config.service_token_previous_file)
    watch = RunTracker()
    address = redis_address(config.redis_url, config.redis_password_file)
    pipeline = RedisPipeline(address, gate=watch)
    roster = RedisRoster(pipeline, lambda: watch.run_id, sweep_s=config.sweep_s)
    checks = {"redis": False}
    internal = await start_internal_http(config.internal_host, config.internal_port, ready=lambda: checks)
    server = await start_grpc_server(
        lambda grpc: rpc.add_PresenceServiceServicer_to_server(PresenceServicer(roster, config.lease_ttl_s), grpc),
        host=config.host,
        port=config.grpc_port,
        service_token=tokens.current,
        previous_service_token=tokens.previous,
        service="presence",
    )
    sweeping = asyncio.create_task(_sweep(config, address, roster, checks))
    try:
        logger.info("started", extra={"grpc_port": server.port, "internal_port": internal.port})
        stopped = asyncio.create_task(stopping.wait())
        done, _ = await asyncio.wait([stopped, sweeping], return_when=asyncio.FIRST_COMPLETED)
        if sweeping in done:
            await sweeping  # the sweeper ends only with an error: raise it
        checks["stopping"] = False
        await server.stop(_GRACE_S)
    finally:
        await end_task(sweeping)
        await internal.close()
        await pipeline.aclose()


async def _sweep(config: PresenceConfig, address: str, roster: RedisRoster, checks: dict[str, bool]) -> None:
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
        await asyncio.sleep(config.sweep_s * random.uniform(0.8, 1.2))


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
    run(main, "presence")
