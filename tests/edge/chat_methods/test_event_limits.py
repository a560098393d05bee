"""What clients publish to conversations counts for the limits of methods."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from services.edge.domain.conversations.event_rate import rate_of
from services.edge.domain.session.node import Node
from services.shared.chat_methods import Rate
from tests.edge.chat_methods.test_limits import Edges, NoRedis
from tests.edge.hooks.conftest import Serve, token
from tests.edge.hooks.conftest import serve as serve  # a fixture
from tests.support.chat_methods import CONV, GROUP, ChatServer, rpc
from tests.support.edge import OPEN, SIGNED_IN, Cluster, connected, replace_namespace, settle
from tests.support.full import sized
from tests.support.hook_backend import HookBackend, Question, table
from tests.support.wire_client import WireClient

CHAT = replace_namespace(OPEN, publish=SIGNED_IN)
MESSAGE = {"kind": "message", "text": "hi"}
KINDS = ["message", "edit", "delete", "reaction", "pin", "x.move", "no kind", "", "Reaction", "reactions"]


def limited(cluster: Cluster, **settings: Any) -> tuple[Node, Edges]:
    """An edge with the limits of conversations."""
    node = cluster.edge(commands_per_s=0)
    edges = Edges(NoRedis(), **settings)
    node.chat_limits = edges.limits[0]
    return node, edges


@pytest.mark.parametrize(
    ("event", "most"),
    [
        (MESSAGE, 30),
        ({"kind": "edit", "of": 3, "text": "x"}, 30),
        ({"kind": "delete", "of": 3}, 30),
        ({"kind": "x.move", "to": 3}, 30),
        ({"text": "no kind"}, 30),
        ({"kind": "reaction", "of": 3, "name": "x", "op": "add"}, 20),
        ({"op": "add", "of": 3, "kind": "pin"}, 20),
    ],
)
async def test_a_publication_over_the_limit_is_not_passed_on(event: dict[str, Any], most: int) -> None:
    cluster = Cluster(conv=CONV)
    cluster.chat.begin("alice")
    node, edges = limited(cluster)
    alice = await connected(cluster, node)
    await alice.call(subscribe={"channel": GROUP})
    for _ in range(most):
        await alice.post(publish={"channel": GROUP, "data": event})
        await settle()
    assert len(cluster.chat.appends) == most
    reply = await alice.reply(publish={"channel": GROUP, "data": event})
    assert reply["error"]["code"] == 111
    assert reply["error"]["retry_after_ms"] > 0
    assert len(cluster.chat.appends) == most
    assert edges.refusals.by_limit["reactions" if most == 20 else "messages"] == 1


async def test_methods_and_publications_of_a_user_share_their_limits() -> None:
    cluster = Cluster(conv=CONV)
    cluster.chat.begin("alice")
    node, _ = limited(cluster)
    async with ChatServer() as server:
        server.methods(node)
        alice, other_device = await connected(cluster, node), await connected(cluster, node)
        for _ in range(15):
            await other_device.call(publish={"channel": GROUP, "data": MESSAGE})
            assert "error" not in await rpc(alice, "messages.send", {"channel": GROUP, "text": "hi"})
        assert await alice.error(publish={"channel": GROUP, "data": MESSAGE}) == 111
        assert (await rpc(alice, "messages.send", {"channel": GROUP, "text": "hi"}))["error"]["code"] == 111


async def test_publications_of_other_namespaces_do_not_count() -> None:
    cluster = Cluster(conv=CONV, chat=CHAT)
    cluster.chat.begin("alice")
    node, edges = limited(cluster)
    alice = await connected(cluster, node)
    for _ in range(40):
        await alice.call(publish={"channel": "chat:a", "data": MESSAGE})
    assert edges.shared.asked == 0
    await alice.call(publish={"channel": GROUP, "data": MESSAGE})


async def test_a_limit_that_is_off_reads_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(conv=CONV)
    cluster.chat.begin("alice")
    node, edges = limited(cluster, messages_per_user_per_s=0, reactions_per_user_per_s=0)

    def read(_: bytes) -> Rate:
        raise AssertionError("nobody wants to know")

    monkeypatch.setattr("services.edge.domain.conversations.limits.rate_of", read)
    alice = await connected(cluster, node)
    for _ in range(40):
        await alice.call(publish={"channel": GROUP, "data": MESSAGE})
    assert edges.shared.asked == 0


async def test_what_a_hook_sees_counts_once_and_first(serve: Serve) -> None:
    cluster = Cluster(conv=CONV)
    cluster.chat.begin("bob")

    async def answer(_: Question) -> Any:
        return {}

    async with HookBackend(answer) as backend:
        toml = table("moderation", ["publish"], backend.url, namespaces=["conv"])
        async with serve(toml, cluster, commands_per_s=0) as (edge, url), WireClient(url) as bob:
            edge.node.chat_limits = Edges(NoRedis()).limits[0]
            await bob.connect(token("bob"))
            for _ in range(30):
                await bob.publish(GROUP, MESSAGE)
            asked = len(cluster.chat.checks)
            assert (await bob.error(publish={"channel": GROUP, "data": MESSAGE}))["code"] == 111
            assert len(backend.questions) == len(cluster.chat.appends) == 30
            assert len(cluster.chat.checks) == asked


def test_the_limit_follows_from_the_kind_wherever_it_stands() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(sized(2_000, 200_000)):
        kind = rng.choice(KINDS)
        event: dict[str, Any] = {"text": '{"kind":"reaction"}', "of": 3, "meta": {"kind": rng.choice(KINDS)}}
        members = [*event.items(), ("kind", kind)]
        rng.shuffle(members)
        text = json.dumps(dict(members), indent=rng.choice([None, 1]))
        if rng.random() < 0.3:
            text = text.replace('"kind": "r', '"\\u006bind": "\\u0072')
        wanted = Rate.REACTIONS if kind in ("reaction", "pin") else Rate.MESSAGES
        assert rate_of(text.encode()) is wanted, text


@pytest.mark.parametrize(
    "data", [b"", b"1", b"[]", b"{", b'{"kind":1}', b'{"kind":"\xff"}', b'{"kind":"pin', b"[" * 9999]
)
def test_what_is_no_event_counts_as_a_message(data: bytes) -> None:
    assert rate_of(data) is Rate.MESSAGES


async def test_a_namespace_of_another_name_counts_too() -> None:
    cluster = Cluster(talks=replace(CONV, name="talks"))
    channel = GROUP.replace("conv:", "talks:")
    cluster.chat.begin("alice", channel=channel)
    node, _ = limited(cluster)
    alice = await connected(cluster, node)
    for _ in range(30):
        await alice.call(publish={"channel": channel, "data": MESSAGE})
    assert await alice.error(publish={"channel": channel, "data": MESSAGE}) == 111
