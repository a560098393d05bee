"""Persistence: reads its settings, wires, runs, stops gracefully."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random

from services.persistence.adapters.redis_hotlog import RedisHotLog
from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.config import PersistenceConfig
from services.persistence.domain.log import Log
from services.persistence.metrics import SWEPT
from services.persistence.service import PersistenceServicer
from services.shared.config import read_env, read_secret_file
from services.shared.errors import Unavailable
from services.shared.grpc_server import start_grpc_server
from services.shared.internal_http import start_internal_http
from services.shared.lifecycle import run
from services.shared.logs import setup_logging
from services.shared.redis import check_server, redis_client
from thalamus.persistence.v1 import persistence_pb2_grpc as rpc

logger = logging.getLogger("services.persistence")

_GRACE_S = 3.0
_SWEEP_AGE_S = 1.0
_SWEEP_LIMIT = 200


class Health:
    """What readiness says; kept up to date by the sweep."""

    def __init__(self) -> None:
        self.checks = {"redis": False, "store": False}

    def ready(self) -> dict[str, bool]:
        return dict(self.checks)


async def main(stopping: asyncio.Event) -> None:
    config = read_env(PersistenceConfig, os.environ, "PERSISTENCE_")
    setup_logging("persistence", level=config.log_level)
    token = read_secret_file(config.service_token_file, "SERVICE_TOKEN_FILE") if config.service_token_file else None
    store = SqliteLogStore(config.db)
    client = redis_client(config.redis_url)
    hot = RedisHotLog(client)
    log = Log(
        hot,
        store,
        max_unstored=config.max_unstored,
        max_waiting=config.max_waiting,
        max_batch=config.max_batch,
    )
    health = Health()
    internal = await start_internal_http(config.internal_host, config.internal_port, ready=health.ready)
    server = await start_grpc_server(
        lambda grpc: rpc.add_PersistenceServiceServicer_to_server(PersistenceServicer(log), grpc),
        host=config.host,
        port=config.grpc_port,
        service_token=token,
        service="persistence",
    )
    tasks = [asyncio.create_task(log.run()), asyncio.create_task(_sweep(config, client, store, log, health))]
    try:
        logger.info("started", extra={"grpc_port": server.port, "internal_port": internal.port})
        stopped = asyncio.create_task(stopping.wait())
        done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stopped}:
            await task  # a loop that ended by itself has failed
        health.checks["stopping"] = False
        await server.stop(_GRACE_S)
        await log.drain(_GRACE_S)
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await internal.close()
        await client.aclose()
        await store.close()


async def _sweep(config: PersistenceConfig, client: object, store: SqliteLogStore, log: Log, health: Health) -> None:
    """Every second: does Redis still live the same life, can the store be written, is anything unfinished."""
    run_id = ""
    while True:
        try:
            info = await check_server(client)  # type: ignore[arg-type]
            health.checks["redis"] = True
            if run_id and info.run_id != run_id:
                logger.warning("Redis has begun a new life; channels are compared with the store")
                log.forget_verified()
            run_id = info.run_id
        except Unavailable:
            health.checks["redis"] = False
        try:
            await store.check()
            health.checks["store"] = True
            if health.checks["redis"]:
                SWEPT.inc(await log.sweep(_SWEEP_AGE_S, _SWEEP_LIMIT))
        except Unavailable as error:
            health.checks["store"] = health.checks["store"] and "store" not in str(error)
            logger.warning("a sweep was not possible", extra={"error": str(error)})
        await asyncio.sleep(config.sweep_s * random.uniform(0.8, 1.2))


if __name__ == "__main__":
    run(main, "persistence")
