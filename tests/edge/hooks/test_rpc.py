"""Event kinds of one's own: methods of hooks, and how far their answers reach."""

from __future__ import annotations

from typing import Any

import pytest

from services.shared.namespaces import Permission
from tests.edge.hooks.conftest import CHAT, Serve, token
from tests.support.edge import Cluster, replace_namespace
from tests.support.hook_backend import HookBackend, Question, table
from tests.support.served_edge import ServedEdge
from tests.support.wire_client import WireClient

PUBLISH = {"data": {"ok": True}, "publish": [{"channel": "chat:game-7", "data": {"move": 1}, "tags": {"by": "ann"}}]}


def says(answer: Any) -> Any:
    async def decide(question: Question) -> Any:
        return answer

    return decide


def game(backend: HookBackend, *methods: str, name: str = "game", **options: Any) -> str:
    return table(name, ["rpc"], backend.url, methods=methods or ["game.*"], **options)


async def test_a_method_of_a_hook_replies_and_one_of_nobody_is_104(serve: Serve) -> None:
    async def decide(question: Question) -> Any:
        return {"data": {"echo": question.get("data")}}

    async with HookBackend(decide) as backend, serve(game(backend)) as (_, url), WireClient(url) as client:
        await client.connect(token("ann"))
        assert await client.call(rpc={"method": "game.move", "data": {"x": 1}}) == {"data": {"echo": {"x": 1}}}
        assert backend.questions[0].items() >= {"event": "rpc", "method": "game.move", "user": "ann"}.items()
        assert (await client.error(rpc={"method": "gam"}))["code"] == 104
        assert len(backend.questions) == 1


async def test_names_of_the_server_ask_no_hook_not_even_one_for_all_names(serve: Serve) -> None:
    async with HookBackend() as backend, serve(game(backend, "*")) as (_, url), WireClient(url) as client:
        await client.connect(token("ann"))
        assert (await client.error(rpc={"method": "presence.of_a_later_version"}))["code"] == 104
        assert not backend.questions
        await client.call(rpc={"method": "presences"})
        assert len(backend.questions) == 1


async def test_a_name_goes_before_a_beginning_and_a_longer_one_before_a_shorter_one(serve: Serve) -> None:
    async with (
        HookBackend(says({"data": 1})) as any_game,
        HookBackend(says({"data": 2})) as chess,
        HookBackend(says({"data": 3})) as resign,
    ):
        toml = game(any_game) + game(chess, "game.chess.*", name="chess")
        toml += game(resign, "game.chess.resign", name="resign")
        async with serve(toml) as (_, url), WireClient(url) as client:
            await client.connect(token("ann"))
            for method, number in (("game.move", 1), ("game.chess.move", 2), ("game.chess.resign", 3)):
                assert await client.call(rpc={"method": method}) == {"data": number}


@pytest.mark.parametrize(("scope", "everywhere"), [("node", False), ("cluster", True)])
async def test_the_scope_of_an_answer_is_this_node_or_the_cluster(serve: Serve, scope: str, everywhere: bool) -> None:
    cluster = Cluster(chat=replace_namespace(CHAT, publish=frozenset({Permission.NOBODY})), plain=CHAT)
    async with (
        HookBackend(says(PUBLISH)) as backend,
        serve(game(backend, scope=scope, channels=["chat:game-*"]), cluster) as (_, url),
        ServedEdge(cluster) as other,
        WireClient(url) as caller,
        WireClient(url) as neighbour,
        WireClient(url.replace(url.split(":")[2].split("/")[0], str(other.port))) as far,
    ):
        for client, user in ((caller, "ann"), (neighbour, "bob"), (far, "cat")):
            await client.connect(token(user))
            await client.subscribe("chat:game-7")
        assert await caller.call(rpc={"method": "game.move"}) == {"data": {"ok": True}}
        seen = await neighbour.publication("chat:game-7")
        assert (seen["data"], seen["tags"], seen.get("offset")) == (
            {"move": 1},
            {"by": "ann"},
            1 if everywhere else None,
        )
        assert (await caller.publication("chat:game-7"))["data"] == {"move": 1}
        if everywhere:
            assert (await far.publication("chat:game-7"))["offset"] == 1
        else:
            await far.expect_silence(0.3)


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ({}, PUBLISH),
        ({"scope": "cluster", "channels": ["chat:other"]}, PUBLISH),
        ({"scope": "node", "channels": ["*"]}, {"publish": [{"channel": "unknown:a", "data": 1}]}),
        ({"scope": "cluster", "channels": ["*"]}, {"publish": [{"channel": "chat:a"}]}),
        ({"scope": "cluster", "channels": ["*"]}, {"publish": [{"channel": "chat:a", "data": 1}] * 101}),
        ({"scope": "cluster", "channels": ["*"]}, {"skip": True}),
    ],
    ids=["scope", "channels", "namespace", "no data", "too many", "member"],
)
async def test_what_an_answer_may_not_publish_is_a_failure_and_nothing_is_published(
    serve: Serve, options: dict[str, Any], answer: Any
) -> None:
    async with (
        HookBackend(says(answer)) as backend,
        serve(game(backend, **options)) as (edge, url),
        WireClient(url) as client,
    ):
        await client.connect(token("ann"))
        error = await client.error(rpc={"method": "game.move"})
        assert error == {"code": 114, "message": "hook: bad_answer"}
        assert edge.node.publisher.published == 0


async def test_publications_of_an_answer_keep_their_order_in_a_channel(serve: Serve) -> None:
    publications = [{"channel": "chat:a", "data": number} for number in range(50)]
    async with (
        HookBackend(says({"publish": publications})) as backend,
        serve(game(backend, scope="cluster", channels=["chat:*"])) as (_, url),
        WireClient(url) as client,
    ):
        await client.connect(token("ann"))
        await client.subscribe("chat:a")
        assert await client.call(rpc={"method": "game.move"}) == {}
        assert [one["data"] for one in await client.publications("chat:a", 50)] == list(range(50))


async def test_a_repeat_with_the_same_idempotency_key_publishes_once(serve: Serve) -> None:
    answer = {"publish": [{"channel": "chat:a", "data": 1, "idempotency_key": "move-1"}]}
    async with (
        HookBackend(says(answer)) as backend,
        serve(game(backend, scope="cluster", channels=["chat:*"])) as (_, url),
        WireClient(url) as client,
    ):
        await client.connect(token("ann"))
        await client.subscribe("chat:a")
        for _ in range(3):
            await client.call(rpc={"method": "game.move"})
        page = await client.call(history={"channel": "chat:a", "limit": 10})
        assert len(page["publications"]) == 1
