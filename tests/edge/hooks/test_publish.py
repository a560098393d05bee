"""The hook of publications: what it sees, refuses, replaces and skips."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from services.edge.domain import commands as c
from services.edge.domain.session.handlers.publish import publish
from services.shared.namespaces import DataFormat, Permission
from tests.edge.hooks.conftest import CHAT, Serve, token
from tests.support.edge import Cluster, replace_namespace
from tests.support.hook_backend import HookBackend, Question, table
from tests.support.wire_client import WireClient


def moderation(backend: HookBackend, **options: Any) -> str:
    return table("moderation", ["publish"], backend.url, namespaces=["chat"], **options)


async def answering(answers: dict[str, Any], question: Question) -> Any:
    return answers.get(question["data"], {})


async def test_a_hook_sees_refuses_replaces_and_skips_publications(serve: Serve) -> None:
    answers = {
        "bad": {"refuse": {"code": 451, "message": "not here"}},
        "badly": {"refuse": {}},
        "rude": {"data": "r***"},
        "spam": {"skip": True},
        "tagged": {"tags": {"label": "joke"}},
    }
    async with (
        HookBackend(lambda question: answering(answers, question)) as backend,
        serve(moderation(backend)) as (_, url),
        WireClient(url) as client,
    ):
        await client.connect(token("ann", info={"name": "Ann"}))
        await client.subscribe("chat:a")
        results = [await client.publish("chat:a", text) for text in ("good", "rude", "spam", "tagged")]
        assert [result.get("offset") for result in results] == [1, 2, None, 3]
        error = await client.error(publish={"channel": "chat:a", "data": "bad"})
        assert error == {"code": 451, "message": "not here"}
        assert (await client.error(publish={"channel": "chat:a", "data": "badly"}))["code"] == 103
        seen = await client.publications("chat:a", 3)
        assert [one["data"] for one in seen] == ["good", "r***", "tagged"]
        assert seen[2]["tags"] == {"label": "joke"}
        page = await client.call(history={"channel": "chat:a", "limit": 10})
        assert [one["data"] for one in page["publications"]] == ["good", "r***", "tagged"]
        question = backend.questions[0]
        assert {name: question[name] for name in ("event", "user", "info", "channel", "data", "client")} == {
            "event": "publish",
            "user": "ann",
            "info": {"name": "Ann"},
            "channel": "chat:a",
            "data": "good",
            "client": client.client_id,
        }
        assert len({one["id"] for one in backend.questions}) == len(backend.questions) == 6
        assert backend.connections == 1  # kept


async def test_other_namespaces_and_the_server_api_ask_no_hook(serve: Serve) -> None:
    async with HookBackend() as backend, serve(moderation(backend)) as (edge, url), WireClient(url) as client:
        await client.connect(token("ann"))
        await client.publish("plain:a", 1)
        node = edge.node
        namespace = node.namespaces.named["chat"]
        await node.publisher.publish("chat:a", namespace, b"1", time_ms=0, key_user="api")  # as the API does it
        assert not backend.questions


async def test_what_is_refused_anyway_asks_no_hook(serve: Serve) -> None:
    limited = replace_namespace(CHAT, max_data_bytes=10, publish_rate=1.0)
    cluster = Cluster(chat=limited, plain=CHAT)
    async with HookBackend() as backend, serve(moderation(backend), cluster) as (_, url), WireClient(url) as client:
        await client.connect(token("ann"))
        assert (await client.error(publish={"channel": "chat:a", "data": "x" * 20}))["code"] == 106
        assert (await client.error(publish={"channel": "chat:a", "data": 2}))["code"] == 111
        assert not backend.questions


async def test_publications_of_a_client_keep_their_order_however_long_each_hook_takes(serve: Serve) -> None:
    rng = random.Random(7)

    async def decide(question: Question) -> Any:
        await asyncio.sleep(rng.uniform(0, 0.02))
        return {}

    async with HookBackend(decide) as backend, serve(moderation(backend)) as (_, url), WireClient(url) as client:
        await client.connect(token("ann"))
        await client.subscribe("chat:a")
        numbers = list(range(30))
        await client.batch(*({"publish": {"channel": "chat:a", "data": number}} for number in numbers))
        assert [one["data"] for one in await client.publications("chat:a", 30)] == numbers


async def test_a_hook_that_waits_holds_up_only_later_commands_of_its_client(serve: Serve) -> None:
    """Pongs too go on; and so do other clients, in the same channel."""
    free = asyncio.Event()

    async def decide(question: Question) -> Any:
        if question["data"] == "slow":
            await free.wait()
        return {}

    async with (
        HookBackend(decide) as backend,
        serve(moderation(backend, timeout_s=4)) as (_, url),
        WireClient(url) as slow,
        WireClient(url) as other,
    ):
        await slow.connect(token("ann"))
        await other.connect(token("bob"))
        await other.subscribe("chat:a")
        first = await slow.post(publish={"channel": "chat:a", "data": "slow"})
        second = await slow.post(publish={"channel": "plain:a", "data": "later"})
        await other.publish("chat:a", "quick")
        assert (await other.publication("chat:a"))["data"] == "quick"
        assert not {first, second} & {line.get("id") for line in slow.lines}
        free.set()
        replies = [await slow.reply(command) for command in (first, second)]
        assert all("publish" in reply for reply in replies)


async def test_what_a_client_lost_while_the_hook_decided_is_not_published(serve: Serve) -> None:
    """The permission is looked at again behind the hook."""
    cluster = Cluster(chat=replace_namespace(CHAT, publish=frozenset({Permission.SUBSCRIBER})), plain=CHAT)
    asked, free = asyncio.Event(), asyncio.Event()

    async def decide(question: Question) -> Any:
        asked.set()
        await free.wait()
        return {}

    async with (
        HookBackend(decide) as backend,
        serve(moderation(backend), cluster) as (edge, url),
        WireClient(url) as client,
    ):
        await client.connect(token("ann"))
        await client.subscribe("chat:a")
        sent = await client.post(publish={"channel": "chat:a", "data": 1})
        await asked.wait()
        (session,) = edge.node.sessions
        session.end_subscription(session.subscriptions["chat:a"], 2000)
        free.set()
        assert (await client.reply(sent))["error"]["code"] == 103
        assert edge.node.publisher.published == 0


async def test_a_binary_namespace_shows_the_hook_base64_and_takes_it(serve: Serve) -> None:
    cluster = Cluster(chat=replace_namespace(CHAT, data_format=DataFormat.BINARY), plain=CHAT)

    async def decide(question: Question) -> Any:
        return {"b64data": "AAECAw=="} if question.get("b64data") == "/wA=" else {"refuse": {"code": 400}}

    async with (
        HookBackend(decide) as backend,
        serve(moderation(backend), cluster) as (edge, url),
        WireClient(url, protobuf=True) as client,
    ):
        await client.connect(token("ann"))
        (session,) = edge.node.sessions
        await publish(session, c.Publish(channel="chat:a", data=b"\xff\x00"), 1)
        namespace = edge.node.namespaces.named["chat"]
        page = await edge.node.reader.history("chat:a", namespace, limit=1, since=None, reverse=False)
        assert [one.data for one in page.publications] == [b"\x00\x01\x02\x03"]


async def test_a_member_that_is_null_is_as_one_that_is_left_out(serve: Serve) -> None:
    """Typed answers have all members; no message must become null by that."""
    answer = dict.fromkeys(("refuse", "data", "b64data", "skip", "tags"))
    async with (
        HookBackend(lambda question: answering({"a": answer}, question)) as backend,
        serve(moderation(backend)) as (_, url),
        WireClient(url) as client,
    ):
        await client.connect(token("ann"))
        await client.subscribe("chat:a")
        assert (await client.publish("chat:a", "a"))["offset"] == 1
        assert (await client.publication("chat:a"))["data"] == "a"


@pytest.mark.parametrize("answer", [{"data": "x" * 50_000}, {"tags": {str(n): "" for n in range(40)}}, {"user": "x"}])
async def test_an_answer_that_can_not_be_published_is_a_failure_of_the_hook(serve: Serve, answer: Any) -> None:
    async with (
        HookBackend(lambda question: answering({"a": answer}, question)) as backend,
        serve(moderation(backend)) as (_, url),
        WireClient(url) as client,
    ):
        await client.connect(token("ann"))
        error = await client.error(publish={"channel": "chat:a", "data": "a"})
        assert error == {"code": 114, "message": "hook: bad_answer"}
        await client.publish("chat:a", "b")
