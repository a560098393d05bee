"""What persistence refuses over gRPC, whoever asks.

A real process, its store and its Redis stay as they were.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import redis.asyncio

from tests.persistence.test_replicas import Process
from thalamus.common.v1 import common_pb2
from thalamus.persistence.v1 import persistence_pb2 as pb
from thalamus.persistence.v1.persistence_pb2_grpc import PersistenceServiceStub

if TYPE_CHECKING:
    from thalamus.persistence.v1.persistence_pb2_grpc import PersistenceServiceAsyncStub

INVALID = common_pb2.ITEM_STATUS_INVALID
OK = common_pb2.ITEM_STATUS_OK
NAMES = {
    "empty": "",
    "too-long": "chat:" + "x" * 1_020,
    "blank": "chat:a b",
    "brace": "chat:a}b",
    "not-ascii": "chat:ü",
    "newline": "chat:a\n",
}


@pytest.fixture
async def stub(redis_url: str, tmp_path: Path) -> AsyncIterator[PersistenceServiceAsyncStub]:
    process = Process(redis_url, tmp_path / "log.sqlite3")
    try:
        await process.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{process.grpc_port}") as channel:
            yield PersistenceServiceStub(channel)
    finally:
        process.close()


def item(**members: Any) -> pb.AppendItem:
    sound: dict[str, Any] = {
        "channel": "chat:fine",
        "publication": common_pb2.Publication(data=b"1", id=bytes(16)).SerializeToString(),
        "publication_id": bytes(16),
        "key_user": "u:ann",
        "key": "k",
        "history_size": 9,
        "history_ttl_s": 60,
    }
    return pb.AppendItem(**{**sound, **members})


async def appended(stub: PersistenceServiceAsyncStub, *items: pb.AppendItem) -> list[int]:
    """Statuses in the order of the items."""
    stream = stub.Append(iter([pb.AppendBatch(items=items)]), timeout=60)
    found = {result.item: result.status async for reply in stream for result in reply.results}
    return [found[place] for place in range(len(items))]


async def status(call: Any) -> grpc.StatusCode:
    async def answered() -> None:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answered()
    assert caught.value.details()
    return caught.value.code()


async def test_a_name_that_no_channel_has_is_refused_by_every_method(
    stub: PersistenceServiceAsyncStub, tmp_path: Path, redis_conn: redis.asyncio.Redis
) -> None:
    for kind, name in NAMES.items():
        for call in (
            stub.Open(pb.OpenRequest(channel=name), timeout=60),
            stub.RemoveHistory(pb.RemoveHistoryRequest(channel=name), timeout=60),
            stub.Kept(pb.KeptRequest(channel=name), timeout=60),
            stub.Read(pb.ReadRequest(channel=name, limit=1), timeout=60),
        ):
            assert await status(call) is grpc.StatusCode.INVALID_ARGUMENT, name
        assert await appended(stub, item(channel=name), item(key=kind)) == [INVALID, OK]
    channels = {row[0] for row in sqlite3.connect(tmp_path / "log.sqlite3").execute("SELECT channel FROM channels")}
    assert channels == {"chat:fine"}
    assert {key async for key in redis_conn.scan_iter("t:{*")} >= {b"t:{chat:fine}:meta"}
    assert not [key async for key in redis_conn.scan_iter("t:{*") if b"chat:fine" not in key]


async def test_to_ask_for_a_channel_only_if_it_is_known_begins_none(
    stub: PersistenceServiceAsyncStub, tmp_path: Path, redis_conn: redis.asyncio.Redis
) -> None:
    asked = pb.OpenRequest(channel="chat:new", only_known=True)
    for _ in range(2):
        assert (await stub.Open(asked, timeout=60)).unknown
    assert sqlite3.connect(tmp_path / "log.sqlite3").execute("SELECT count(*) FROM channels").fetchone() == (0,)
    assert not [key async for key in redis_conn.scan_iter("t:{*")]
    opened = await stub.Open(pb.OpenRequest(channel="chat:new"), timeout=60)
    assert await stub.Open(asked, timeout=60) == opened


WRONG: dict[str, dict[str, Any]] = {
    "no-key": {"key": ""},
    "long-key": {"key": "k" * 129},
    "long-user": {"key_user": "u" * 8_195},
    "no-id": {"publication_id": b""},
    "long-id": {"publication_id": bytes(17)},
    "no-publication": {"publication": b"\xff"},
    "keeps-nothing": {"history_size": 0},
    "keeps-too-many": {"history_size": 1_000_001},
    "keeps-for-no-time": {"history_ttl_s": 0},
    "keeps-too-long": {"history_ttl_s": 2**32 - 1},
}


async def test_a_wrong_item_is_answered_and_the_others_of_its_batch_are_kept(stub: PersistenceServiceAsyncStub) -> None:
    items = [item(**members) for members in WRONG.values()]
    mixed = [one for number, wrong in enumerate(items) for one in (wrong, item(key=f"fine{number}"))]
    assert await appended(stub, *mixed) == [INVALID, OK] * len(items)
    (page,) = [page async for page in stub.Read(pb.ReadRequest(channel="chat:fine", limit=99), timeout=60)]
    assert [one.offset for one in page.publications] == list(range(1, len(items) + 1))


async def test_a_read_of_nothing_is_refused_and_more_than_may_be_is_cut(stub: PersistenceServiceAsyncStub) -> None:
    assert await appended(stub, item()) == [OK]
    none = stub.Read(pb.ReadRequest(channel="chat:fine"), timeout=60)
    assert await status(none) is grpc.StatusCode.INVALID_ARGUMENT
    most = stub.Read(pb.ReadRequest(channel="chat:fine", limit=2**32 - 1, since_offset=2**64 - 1), timeout=60)
    assert [len(page.publications) async for page in most] == [0]
