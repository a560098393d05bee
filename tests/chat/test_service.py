"""The chat service over gRPC, of a real process."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from services.persistence.chat.conversions import options_of
from services.persistence.chat.new_events import Options
from services.shared.errors import ThalamusError
from services.shared.hotlog.hotlog import GRANTS
from tests.persistence.test_replicas import Process
from tests.support.chat import GROUP
from thalamus.chat.v1 import chat_pb2 as pb
from thalamus.chat.v1.chat_pb2_grpc import ChatServiceStub
from thalamus.common.v1 import common_pb2
from thalamus.persistence.v1 import persistence_pb2
from thalamus.persistence.v1.persistence_pb2_grpc import PersistenceServiceStub

if TYPE_CHECKING:
    from thalamus.chat.v1.chat_pb2_grpc import ChatServiceAsyncStub

OPTIONS = pb.NamespaceOptions(
    history_size=100, history_ttl_s=3_600, feed=True, group_max_members=100, max_data_bytes=4_096
)
DIRECT = "conv:d.rd6fba6cbp2cavo6nolfqseq4o"


def item(author: str, event: dict[str, Any], channel: str, **fields: Any) -> pb.EventItem:
    publication_id = uuid.uuid4().bytes
    publication = common_pb2.Publication(data=json.dumps(event).encode(), id=publication_id)
    publication.info.user = author
    values = {"publication": publication.SerializeToString(), "publication_id": publication_id, "options": OPTIONS}
    return pb.EventItem(channel=channel, key_user=f"u:{author}", **{**values, **fields})


async def append(stub: ChatServiceAsyncStub, *items: pb.EventItem) -> list[pb.EventResult]:
    stream = stub.Append(iter([pb.EventBatch(items=items)]), timeout=60)
    found = {result.item: result async for reply in stream for result in reply.results}
    return [found[place] for place in range(len(items))]


async def check(stub: ChatServiceAsyncStub, *pairs: tuple[str, str]) -> list[pb.CheckResult]:
    batch = pb.CheckBatch(items=[pb.CheckItem(channel=channel, user=user) for channel, user in pairs])
    found = {result.item: result async for reply in stub.Check(iter([batch]), timeout=60) for result in reply.results}
    return [found[place] for place in range(len(pairs))]


@pytest.fixture
async def connection(redis_url: str, tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    process = Process(redis_url, tmp_path / "log.sqlite3")
    try:
        await process.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{process.grpc_port}") as channel:
            yield channel
    finally:
        process.close()


@pytest.fixture
def stub(connection: grpc.aio.Channel) -> ChatServiceAsyncStub:
    return ChatServiceStub(connection)


def test_options_are_those_of_the_event_and_checked_each_time() -> None:
    """They are converted once. Mutant: whichever options came first."""
    other = pb.NamespaceOptions(history_size=7, history_ttl_s=60, group_max_members=3, max_data_bytes=9)
    for _ in range(2):
        assert options_of(OPTIONS) == Options(100, 3_600, True, 100, 4_096)
        assert options_of(other) == Options(7, 60, False, 3, 9)
        with pytest.raises(ThalamusError):
            options_of(pb.NamespaceOptions(history_size=7, history_ttl_s=60, group_max_members=3))


async def test_members_of_a_group_talk_and_others_learn_nothing(
    stub: ChatServiceAsyncStub, connection: grpc.aio.Channel
) -> None:
    log = PersistenceServiceStub(connection)
    for made in (
        item("u1", {"kind": "conversation", "op": "create", "settings": {"history": "joined"}}, GROUP),
        item("u1", {"kind": "member", "op": "add", "user": "u2"}, GROUP),
    ):
        terms = persistence_pb2.AppendTerms(publication_id=made.publication_id, flags=GRANTS)
        plain = persistence_pb2.AppendItem(
            channel=GROUP,
            publication=made.publication,
            key=made.publication_id.hex(),
            history_size=9,
            history_ttl_s=60,
            terms=terms,
        )
        async for reply in log.Append(iter([persistence_pb2.AppendBatch(items=[plain])]), timeout=60):
            assert [one.status for one in reply.results] in ([], [common_pb2.ITEM_STATUS_OK])
    results = await append(
        stub,
        item("u2", {"kind": "message", "text": "Hi", "cid": "a"}, GROUP),
        item("u3", {"kind": "message", "text": "Hi"}, GROUP),
        item("u1", {"kind": "x.poll"}, GROUP),
    )
    assert [one.position.offset for one in results if one.HasField("position")] == [3, 4]
    refused = results[1].refusal
    (stranger,) = await append(stub, item("u3", {"kind": "message", "text": "Hi"}, GROUP[:-1] + "b"))
    assert stranger.refusal == refused
    assert (refused.code, refused.why) == (103, "not_allowed")
    edits = [item(user, {"kind": "edit", "of": 3, "text": "Ho"}, GROUP) for user in ("u2", "u1")]
    assert [one.position.offset for one in await append(stub, edits[0])] == [5]
    deletes = await append(stub, item("u1", {"kind": "delete", "of": 3}, GROUP), edits[1])
    assert deletes[0].position.offset
    assert "deleted" in (deletes[1].void, deletes[1].refusal.why) or deletes[1].position.offset == 6
    (late,) = await append(stub, item("u2", {"kind": "edit", "of": 3, "text": "Ha"}, GROUP))
    assert (late.refusal.code, late.refusal.why) == (410, "deleted")
    (again,) = await append(stub, item("u2", {"kind": "message", "text": "Hi", "cid": "a"}, GROUP))
    assert (again.position.offset, again.repeated_key) == (3, True)
    told = await check(stub, (GROUP, "u1"), (GROUP, "u2"), (GROUP, "u3"))
    assert [(one.reads, one.posts, one.history_from) for one in told] == [
        (True, True, 0),
        (True, True, 2),
        (False, False, 0),
    ]
    assert {(one.as_of.offset, one.as_of.epoch) for one in told} == {(7, results[0].position.epoch)}


async def test_clients_publish_into_what_exists_and_create_nothing(stub: ChatServiceAsyncStub) -> None:
    create = {"kind": "conversation", "op": "create", "type": "direct", "users": ["u1", "u2"]}
    refused = await append(
        stub,
        item("u1", create, DIRECT),
        item("u1", {"kind": "message", "text": "Hi"}, DIRECT),
        item("u1", {"kind": "message"}, DIRECT),
        item("u1", {"kind": "erased", "was": "message", "by": 1}, DIRECT),
        item("u1", {"kind": "message", "text": "x" * 5_000}, DIRECT),
        item("u1", {"kind": "message", "text": "Hi"}, DIRECT, publication_id=b"short"),
        item("u1", {"kind": "message", "text": "Hi"}, DIRECT, publication=b"\xff"),
        item("u1", {"kind": "message", "text": "Hi"}, DIRECT, options=pb.NamespaceOptions()),
    )
    assert [one.refusal.code for one in refused] == [103, 103, 107, 103, 106, 107, 107, 107]
    assert [one.HasField("position") for one in refused] == [False] * 8
    assert refused[2].refusal.text == "`text`, `attachments` and `meta` are all empty"
    (unknown,) = await check(stub, (GROUP, "u1"))
    assert (unknown.reads, unknown.posts, unknown.as_of.offset) == (False, False, 0)


async def test_what_can_be_no_channel_or_user_is_answered_without_harm_to_the_others(
    stub: ChatServiceAsyncStub,
) -> None:
    told = await check(stub, (GROUP, ""), ("", "u1"), (GROUP, "u" * 2_000), ("has space", "u1"), (GROUP, "u1"))
    assert [(one.reads, one.unavailable) for one in told] == [(False, False)] * 5


async def test_queued_events_count_writes_of_redis_which_edges_are_told(stub: ChatServiceAsyncStub) -> None:
    """A Redis with fewer has lost something. What is stored first counts none."""
    queued = pb.NamespaceOptions()
    queued.CopyFrom(OPTIONS)
    queued.queued = True
    called = await stub.Call(
        pb.CallRequest(
            method="conversations.create",
            info=common_pb2.ClientInfo(user="ann"),
            params=b'{"type":"group"}',
            namespace="conv",
            options=queued,
        ),
        timeout=30,
    )
    assert called.generation > 0
    channel = json.loads(called.result)["channel"]

    async def writes(event: dict[str, Any]) -> int:
        batch = pb.EventBatch(items=[item("ann", event, channel, options=queued)])
        replies = [reply async for reply in stub.Append(iter([batch]), timeout=30)]
        (result,) = [one for reply in replies for one in reply.results]
        assert result.position.offset, result
        assert {reply.generation for reply in replies} == {called.generation}
        return replies[-1].writes

    first = await writes({"kind": "message", "text": "one"})
    assert first > called.writes
    assert await writes({"kind": "message", "text": "two"}) > first
    second = await writes({"kind": "edit", "of": 2, "text": "three"})
    assert await writes({"kind": "delete", "of": 2}) == second
