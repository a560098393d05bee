"""The client of conversations, against gRPC servers of two versions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from services.edge.adapters import publication_codec as codec
from services.edge.adapters.chat_client import ChatClient, chat_client
from services.edge.adapters.persistence_client import PersistenceClient
from services.edge.domain.chat.ports import Access
from services.edge.domain.model import AppendResult, ClientInfo, Publication, StreamPosition
from services.shared.errors import ErrorCode, ThalamusError, Unavailable
from services.shared.incarnation.calls import Known
from services.shared.namespaces import ChannelEvent, Durability
from services.shared.rpc.replicas import Replicas
from tests.support.chat_service import Replica
from tests.support.edge import OPEN
from tests.support.edge_chat import CONV, GROUP
from tests.support.waiting import until
from thalamus.chat.v1 import chat_pb2 as pb
from thalamus.common.v1.common_pb2 import Position

BY_ANN = Publication(b'{"kind":"message","text":"hi"}', ClientInfo("ann", "c1"), id=bytes(16))


class Site:
    """Replicas, and an edge's clients of them."""

    def __init__(self, replicas: list[Replica]) -> None:
        self.servers = replicas
        self.addresses = {one.address for one in replicas}
        self.replicas = Replicas("persistence:9003", service_token=None, service="test", resolve=self._resolve)
        self.chat = ChatClient(self.replicas)
        self.store = PersistenceClient(self.replicas)

    async def _resolve(self, host: str, port: int) -> set[str]:
        return set(self.addresses)

    async def append(self, key: str = "") -> AppendResult:
        return await self.chat.append(GROUP, BY_ANN, key_user="u:ann", key=key, namespace=CONV)

    async def works(self) -> bool:
        """Whether conversations answer; any answer but 100 does."""
        try:
            await self.chat.check(GROUP, "ann")
            await self.append()
        except Unavailable:
            return False
        return True

    async def until_it(self, works: bool) -> None:
        async with asyncio.timeout(30):
            while await self.works() is not works:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def site(*has_conversations: bool) -> AsyncIterator[Site]:
    servers = [Replica(has_conversations=has) for has in has_conversations]
    for server in servers:
        await server.start()
    made = Site(servers)
    await made.replicas.start()
    await made.chat.start()
    await made.store.start()
    try:
        yield made
    finally:
        await made.chat.close()
        await made.store.close()
        await made.replicas.close()
        for server in servers:
            await server.stop()


async def test_an_event_carries_what_persistence_needs() -> None:
    namespace = replace(
        CONV,
        history_size=7,
        history_ttl_s=60,
        group_max_members=50,
        max_data_bytes=900,
        receipts_max_members=9,
        events=frozenset({ChannelEvent.PUBLICATION}),
    )
    async with site(True) as one:
        await one.until_it(works=True)
        result = await one.chat.append(GROUP, BY_ANN, key_user="u:ann", key="", namespace=namespace)
        assert result.position.epoch == "e"
        item = one.servers[0].chat.events[-1]
        assert codec.decode(item.publication, 0) == BY_ANN
        assert (item.channel, item.publication_id, item.key_user, item.key) == (GROUP, bytes(16), "u:ann", "")
        await one.chat.append(GROUP, BY_ANN, key_user="u:ann", key="k", namespace=namespace)
        assert one.servers[0].chat.events[-1].key == "k"
    options = ChatClient.options(one.chat, replace(namespace, name="other"))
    assert options == pb.NamespaceOptions(
        history_size=7,
        history_ttl_s=60,
        group_max_members=50,
        max_data_bytes=900,
        feed=True,
        receipts_max_members=9,
        typing_max_members=namespace.typing_max_members,
    )


@pytest.mark.parametrize(
    ("refusal", "code", "message", "retry_after_s"),
    [
        (pb.Refusal(code=100), 100, "", 0),
        (pb.Refusal(code=103, why="not_allowed", text="there is one"), 103, "permission denied", 0),
        (pb.Refusal(code=107, text="`of` is missing"), 107, "`of` is missing", 0),
        (pb.Refusal(code=106), 106, "limit exceeded", 0),
        (pb.Refusal(code=111, retry_after_ms=2_500), 111, "too many requests", 2.5),
        (pb.Refusal(code=404), 404, "not found", 0),
        (pb.Refusal(code=409, text="edited since"), 409, "edited since", 0),
        (pb.Refusal(code=410), 410, "gone", 0),
        (pb.Refusal(code=77, text="of a later version"), 100, "", 0),
    ],
)
async def test_refusals_are_errors_with_their_codes(
    refusal: pb.Refusal, code: int, message: str, retry_after_s: float
) -> None:
    async with site(True) as one:
        await one.until_it(works=True)
        one.servers[0].chat.outcomes["k"] = pb.EventResult(refusal=refusal)
        with pytest.raises(ThalamusError) as refused:
            await one.append("k")
    assert (refused.value.code, refused.value.retry_after_s) == (ErrorCode(code), retry_after_s)
    assert isinstance(refused.value, Unavailable) is (code == 100)
    assert code == 100 or str(refused.value) == message


async def test_what_is_void_was_published_all_the_same() -> None:
    async with site(True) as one:
        await one.until_it(works=True)
        one.servers[0].chat.outcomes["k"] = pb.EventResult(void="deleted", repeated_key=True)
        assert (await one.append("k")).repeated_key


async def test_an_answer_about_membership() -> None:
    async with site(True) as one:
        await one.until_it(works=True)
        chat = one.servers[0].chat
        as_of = Position(offset=9, epoch="e")
        chat.access["ann"] = pb.CheckResult(reads=True, posts=True, history_from=4, as_of=as_of)
        chat.access["bob"] = pb.CheckResult(as_of=as_of)
        chat.access["cid"] = pb.CheckResult(unavailable=True)
        assert await one.chat.check(GROUP, "ann") == Access(True, True, 4, StreamPosition(9, "e"))
        assert await one.chat.check(GROUP, "bob") == Access(False, False, 0, StreamPosition(9, "e"))
        with pytest.raises(Unavailable):
            await one.chat.check(GROUP, "cid")
        assert chat.checks[-3:] == [(GROUP, "ann"), (GROUP, "bob"), (GROUP, "cid")]


async def test_while_one_of_before_is_connected_nobody_is_asked() -> None:
    async with site(True, False) as both:
        new = both.servers[0].chat
        await until(lambda: new.opened >= 2)
        await both.until_it(works=False)
        asked = len(new.events), len(new.checks)
        for _ in range(50):
            assert not await both.works()
            await asyncio.sleep(0.01)
        assert (len(new.events), len(new.checks)) == asked
        stored = await both.store.append("chat:a", BY_ANN, key_user="u", key="k", history_size=9, history_ttl_s=9)
        assert stored.position.offset  # everything else goes on


async def test_a_rolling_update_and_its_rollback() -> None:
    """One replica after the other is updated at its address, and then taken back."""
    async with site(False, False) as both:
        first, second = both.servers
        await both.until_it(works=False)
        await first.becomes(has_conversations=True)
        await until(lambda: first.chat.opened >= 2, 8)
        assert not await both.works()
        await second.becomes(has_conversations=True)
        await both.until_it(works=True)
        await first.becomes(has_conversations=False)
        await both.until_it(works=False)
        await first.becomes(has_conversations=True)
        await both.until_it(works=True)


async def test_one_of_before_that_is_gone_is_forgotten() -> None:
    async with site(True, False) as both:
        new, old = both.servers
        await both.until_it(works=False)
        await old.stop()
        await both.until_it(works=True)  # it may come back as another version
        await old.start()
        await both.until_it(works=False)
        both.addresses.discard(old.address)
        await both.replicas.refresh()
        await both.until_it(works=True)
        assert new.chat.events


async def test_a_replica_of_this_version_that_dies_costs_nothing() -> None:
    async with site(True, True) as both:
        await until(lambda: all(server.chat.opened >= 2 for server in both.servers))
        await both.until_it(works=True)
        await both.servers[0].stop()
        for _ in range(20):
            assert await both.works()


async def test_without_namespaces_with_conversations_nothing_is_opened() -> None:
    replica = Replica()
    await replica.start()
    one = Site([replica])
    await one.replicas.start()
    try:
        assert chat_client(one.replicas, [OPEN, replace(OPEN, name="chat")]) is None
        assert chat_client(one.replicas, [OPEN, CONV]) is not None
    finally:
        await one.replicas.close()
        await replica.stop()


async def test_events_are_queued_once_every_persistence_knows_that() -> None:
    knows = False
    async with site(True) as one:
        chat = ChatClient(one.replicas, takes_queued=lambda: knows)
        queued = replace(CONV, durability=Durability.QUEUED)
        assert not chat.options(queued).queued
        knows = True
        assert chat.options(queued).queued
        assert not chat.options(replace(CONV, name="other")).queued


async def test_an_edge_hears_what_persistence_has_seen_of_redis() -> None:
    seen: list[Known] = []
    async with site(True) as one:
        chat = ChatClient(one.replicas, saw=seen.append)
        chat.note(pb.EventResults(generation=3, writes=41))
        chat.note(pb.CallResponse())  # of an earlier version
        chat.note(pb.CallResponse(generation=3, writes=42))
    assert seen == [Known(3, 41), Known(3, 42)]
