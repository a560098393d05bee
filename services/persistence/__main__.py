"""Persistence: reads its settings, wires, runs, stops gracefully."""

from __future__ import annotations

import asyncio
import logging
import os

from services.persistence.adapters.redis_beacon import RedisBeacon
from services.persistence.adapters.redis_hotlog import RedisHotLog
from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.config import PersistenceConfig
from services.persistence.domain.log import Log
from services.persistence.health import Caretaker
from services.persistence.service import PersistenceServicer
from services.shared.cancellation import end_task
from services.shared.config import read_env, read_secret_file
from services.shared.grpc_server import start_grpc_server
from services.shared.internal_http import start_internal_http
from services.shared.lifecycle import run
from services.shared.logs import setup_logging
from services.shared.redis import redis_client
from services.shared.redis_life import LifeGate
from thalamus.persistence.v1 import persistence_pb2_grpc as rpc

logger = logging.getLogger("services.persistence")

_GRACE_S = 3.0


async def main(stopping: asyncio.Event) -> None:
    config = read_env(PersistenceConfig, os.environ, "PERSISTENCE_")
    setup_logging("persistence", level=config.log_level)
    token = read_secret_file(config.service_token_file, "SERVICE_TOKEN_FILE") if config.service_token_file else None
    store = SqliteLogStore(config.db)
    gate = LifeGate()
    client = redis_client(config.redis_url, gate=gate)
    hot = RedisHotLog(client, lambda: gate.token)
    beacon = RedisBeacon(config.redis_url)
    log = Log(
        hot,
        store,
        max_unstored=config.max_unstored,
        max_waiting=config.max_waiting,
        max_batch=config.max_batch,
    )
    caretaker = Caretaker(beacon, store, log, gate, every_s=config.sweep_s)
    internal = await start_internal_http(config.internal_host, config.internal_port, ready=caretaker.ready)
    server = await start_grpc_server(
        lambda grpc: rpc.add_PersistenceServiceServicer_to_server(PersistenceServicer(log), grpc),
        host=config.host,
        port=config.grpc_port,
        service_token=token,
        service="persistence",
    )
    tasks = [asyncio.create_task(log.run()), asyncio.create_task(caretaker.run())]
    try:
        logger.info("started", extra={"grpc_port": server.port, "internal_port": internal.port})
        stopped = asyncio.create_task(stopping.wait())
        done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stopped}:
            await task  # a loop that ended by itself has failed
        caretaker.stopping()
        await server.stop(_GRACE_S)
        await log.drain(_GRACE_S)
    finally:
        for task in tasks:
            await end_task(task)
        await internal.close()
        await client.aclose()
        await beacon.close()
        await store.close()


if __name__ == "__main__":
    run(main, "persistence")
