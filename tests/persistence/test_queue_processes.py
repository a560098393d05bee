"""Persistence and a worker as processes, with moto's SQS between them."""

from __future__ import annotations

from pathlib import Path

from services.edge.adapters.persistence_client import PersistenceClient
from services.edge.domain.model import Publication
from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.queue.settings import SqsSettings
from services.shared.rpc.replicas import Replicas
from tests.persistence.test_replicas import Process
from tests.support.redis import RedisServer
from tests.support.sqs import environment_of
from tests.support.sqs import sqs_address as sqs_address
from tests.support.sqs import sqs_settings as sqs_settings
from tests.support.waiting import until

CHANNEL = "post:processes"


async def test_a_worker_stores_what_persistence_acknowledged(
    own_redis: RedisServer, tmp_path: Path, sqs_settings: SqsSettings
) -> None:
    path = tmp_path / "log.sqlite3"
    persistence = Process(own_redis.url, path, **environment_of(sqs_settings))
    worker = Process(own_redis.url, path, **environment_of(sqs_settings))
    replicas = Replicas(f"127.0.0.1:{persistence.grpc_port}", service_token=None, service="persistence")
    client, store = PersistenceClient(replicas), None
    try:
        await persistence.start()
        await worker.start("worker")
        await replicas.start()
        await client.start()
        offsets = []
        for number in range(20):
            publication = Publication(b"x", None, {}, number.to_bytes(16, "big"), "", 1)
            result = await client.append(
                CHANNEL, publication, key_user="u", key=str(number), history_size=10, history_ttl_s=60, queued=True
            )
            offsets.append(result.position.offset)
        assert offsets == list(range(1, 21))
        store = SqliteLogStore(path)

        async def all_is_stored() -> bool:
            return (await store.open(CHANNEL)).top == 20

        await until(all_is_stored)
        assert 'outcome="stored"' in await worker.metrics()
    finally:
        await client.close()
        await replicas.close()
        if store is not None:
            await store.close()
        persistence.close()
        worker.close()
