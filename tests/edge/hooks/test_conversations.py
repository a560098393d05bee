"""Hooks of conversations: they come first, and make nobody a member."""

from __future__ import annotations

from typing import Any

import pytest

from tests.edge.hooks.conftest import Serve, token
from tests.support.edge import Cluster
from tests.support.edge_chat import CONV, GROUP, NOWHERE
from tests.support.hook_backend import HookBackend, Question, table
from tests.support.wire_client import WireClient

MESSAGE = {"kind": "message", "text": "hi"}


def conversations() -> Cluster:
    cluster = Cluster(conv=CONV)
    cluster.chat.begin("ann", "bob")
    return cluster


async def test_a_hook_that_grants_subscriptions_makes_nobody_a_member(serve: Serve) -> None:
    cluster = conversations()

    async def answer(_: Question) -> Any:
        return {}

    async with HookBackend(answer) as backend:
        toml = table("doors", ["subscribe"], backend.url, namespaces=["conv"], grants=True)
        async with serve(toml, cluster) as (_, url), WireClient(url) as eve, WireClient(url) as bob:
            await eve.connect(token("eve"))
            assert (await eve.error(subscribe={"channel": GROUP}))["code"] == 103
            assert not backend.questions  # who may not know of it is no question
            await bob.connect(token("bob"))
            await bob.subscribe(GROUP)
            assert [question["user"] for question in backend.questions] == ["bob"]


async def test_a_hook_of_publications_comes_before_the_conversation(serve: Serve) -> None:
    cluster = conversations()

    async def answer(question: Question) -> Any:
        return {"refuse": {"code": 451, "message": "not here"}} if question["data"]["text"] == "bad" else {}

    async with HookBackend(answer) as backend:
        toml = table("moderation", ["publish"], backend.url, namespaces=["conv"])
        async with serve(toml, cluster) as (_, url), WireClient(url) as bob, WireClient(url) as eve:
            await bob.connect(token("bob"))
            await eve.connect(token("eve"))
            bad = {"channel": GROUP, "data": {**MESSAGE, "text": "bad"}}
            assert (await bob.error(publish=bad))["code"] == 451
            assert not cluster.chat.appends
            await bob.publish(GROUP, MESSAGE)
            for channel in (GROUP, NOWHERE):
                assert (await eve.error(publish={"channel": channel, "data": MESSAGE}))["code"] == 103
            assert [author for author, _, _ in cluster.chat.appends] == ["bob"]
            assert cluster.chat.position(GROUP).offset == 3


@pytest.mark.parametrize("subscribed", [False, True])
async def test_a_hook_that_publishes_itself_is_asked_about_members_only(serve: Serve, *, subscribed: bool) -> None:
    """Its answer `skip` acknowledges what nobody else checks."""
    cluster = conversations()

    async def answer(_: Question) -> Any:
        return {"skip": True}

    async with HookBackend(answer) as backend:
        toml = table("commands", ["publish"], backend.url, namespaces=["conv"])
        async with serve(toml, cluster) as (_, url), WireClient(url) as bob, WireClient(url) as eve:
            await bob.connect(token("bob"))
            await eve.connect(token("eve"))
            if subscribed:
                await bob.subscribe(GROUP)
            asked = len(cluster.chat.checks)
            await bob.publish(GROUP, MESSAGE)
            assert len(cluster.chat.checks) == asked + (not subscribed)  # a live subscription is the permission
            for channel in (GROUP, NOWHERE):
                assert (await eve.error(publish={"channel": channel, "data": MESSAGE}))["code"] == 103
            assert [question["user"] for question in backend.questions] == ["bob"]
            assert not cluster.chat.appends


async def test_what_a_method_publishes_in_a_conversation_is_of_the_platform_and_kept(serve: Serve) -> None:
    cluster = conversations()

    async def answer(question: Question) -> Any:
        return {"publish": [{"channel": GROUP, "data": MESSAGE}]}

    async with HookBackend(answer) as backend:
        for scope in ("cluster", "node"):
            toml = table("game", ["rpc"], backend.url, methods=["move"], scope=scope, channels=[GROUP])
            async with serve(toml, cluster) as (_, url), WireClient(url) as bob:
                await bob.connect(token("bob"))
                if scope == "cluster":
                    await bob.call(rpc={"method": "move", "data": {}})
                else:
                    assert (await bob.error(rpc={"method": "move", "data": {}}))["code"] == 114
        assert cluster.chat.appends == [("", "", "api")]
