"""Hooks of publications see what methods on conversations would publish."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from services.edge.domain.conversations.methods import Caller, ChatMethods
from services.edge.domain.ends import EndReason
from services.edge.domain.model import ClientInfo
from services.shared.chat_methods import METHODS, Act
from services.shared.errors import ErrorCode
from tests.edge.hooks.conftest import Serve, token
from tests.support.chat_methods import CONV, ChatServer, ScriptedChat, http_of, sample
from tests.support.edge import Cluster
from tests.support.edge_chat import GROUP, NOWHERE
from tests.support.hook_backend import HookBackend, Question, table
from tests.support.served_edge import ServedEdge
from tests.support.wire_client import WireClient
from thalamus.chat.v1 import chat_pb2 as pb

WRITES = [name for name, method in METHODS.items() if method.act is Act.WRITE]
EVENTS: dict[str, dict[str, Any]] = {
    "messages.send": {"kind": "message", "text": "See you at 8", "meta": {"a": 1}},
    "messages.edit": {"kind": "edit", "of": 2, "text": "See you at 9", "if_rev": 2},
    "messages.delete": {"kind": "delete", "of": 2},
    "reactions.add": {"kind": "reaction", "of": 2, "name": "👍", "op": "add"},
    "reactions.remove": {"kind": "reaction", "of": 2, "name": "👍", "op": "remove"},
    "pins.add": {"kind": "pin", "of": 2, "op": "add"},
    "pins.remove": {"kind": "pin", "of": 2, "op": "remove"},
}
SEND = {"channel": GROUP, "text": "hi"}


class Scene:
    """A served edge with a hook of publications; bob is a member of the group."""

    def __init__(
        self, backend: HookBackend, cluster: Cluster, edge: ServedEdge, chat: ChatMethods, script: ScriptedChat
    ) -> None:
        self.backend, self.cluster, self.edge, self.chat, self.script = backend, cluster, edge, chat, script
        self.answer: Any = {}
        self.bob: WireClient
        self.http: httpx.AsyncClient

    async def rpc(self, method: str, params: dict[str, Any], client: WireClient | None = None) -> dict[str, Any]:
        """The data of the reply, or the error."""
        client = client or self.bob
        reply = await client.reply(await client.post(rpc={"method": method, "data": params}))
        found: dict[str, Any] = reply["error"] if "error" in reply else reply["rpc"]["data"]
        return found

    def send(self, **headers: str) -> Any:
        return self.http.post(
            f"/chat/conversations/{GROUP}/messages",
            json={"text": "hi"},
            headers={"Authorization": f"Bearer {token('bob')}", **headers},
        )


@contextlib.asynccontextmanager
async def scene_of(serve: Serve, **options: Any) -> AsyncIterator[Scene]:
    cluster = Cluster(conv=replace(CONV, max_data_bytes=2_000))
    cluster.chat.begin("ann", "bob")

    async def answer(_: Question) -> Any:
        return await scene.answer() if callable(scene.answer) else scene.answer

    async with HookBackend(answer) as backend, ChatServer() as server:
        toml = table("moderation", ["publish"], backend.url, namespaces=["conv"], **options)
        async with serve(toml, cluster, refusal_step_s=0.0) as (edge, url), WireClient(url) as bob:
            chat = server.methods(edge.node)
            scene = Scene(backend, cluster, edge, chat, server.script)
            scene.bob = bob
            await bob.connect(token("bob", info={"n": 1}))
            async with http_of(cluster, edge.node, chat) as scene.http:
                yield scene


def test_every_method_that_writes_has_an_event_here() -> None:
    assert set(EVENTS) == set(WRITES)


@pytest.mark.parametrize("method", WRITES)
async def test_the_hook_is_asked_about_the_event_and_leaves_the_call_as_it_is(serve: Serve, method: str) -> None:
    async with scene_of(serve) as scene:
        scene.script.answer = pb.CallResponse(result=b'{"offset":9}')
        params = {**sample(method), "key": "k1"}
        assert await scene.rpc(method, params) == {"offset": 9}
        (question,) = scene.backend.questions
        client = scene.edge.node.users["bob"]
        wanted = {"event": "publish", "user": "bob", "client": next(iter(client)), "info": {"n": 1}}
        wanted |= {"channel": GROUP, "data": EVENTS[method], "idempotency_key": "k1"}
        assert {name: question.get(name) for name in wanted} == wanted
        asked = scene.script.take()
        assert (asked.method, json.loads(asked.params), asked.key) == (method, params, "k1")


async def test_the_hook_refuses_in_its_own_words(serve: Serve) -> None:
    async with scene_of(serve) as scene:
        scene.answer = {"refuse": {"code": 451, "message": "not here"}}
        error = await scene.rpc("messages.send", SEND)
        assert (error["code"], error["message"]) == (451, "not here")
        response = await scene.send()
        assert response.status_code == 403
        assert response.json() == {"error": {"code": 451, "message": "not here"}}
        assert "client" not in scene.backend.questions[1]
        assert not scene.script.asked


@pytest.mark.parametrize(
    "answer",
    [
        {"data": {"kind": "message", "text": "***"}, "tags": {"by": "hook"}},
        {"tags": {"a": "b"}},
        {"data": {"kind": "x.a"}},
    ],
)
async def test_the_hook_replaces_data_and_tags(serve: Serve, answer: dict[str, Any]) -> None:
    async with scene_of(serve) as scene:
        scene.answer = answer
        scene.script.answer = pb.CallResponse(result=b'{"offset":9,"id":"x"}')
        assert await scene.rpc("messages.send", {**SEND, "key": "k1"}) == {"offset": 9, "id": "x"}
        asked = scene.script.take()
        assert (asked.method, asked.key, asked.key_user, asked.info.user) == ("events.append", "k1", "u:bob", "bob")
        event = answer.get("data", {"kind": "message", "text": "hi"})
        assert json.loads(asked.params) == {"channel": GROUP, "event": event, "tags": answer.get("tags", {})}
        response = await scene.send(**{"Idempotency-Key": "k2"})
        assert response.json() == {"result": {"offset": 9, "id": "x"}}
        assert scene.script.take().key == "k2"
        scene.script.refuse(ErrorCode.METHOD_NOT_FOUND)  # a persistence of before
        assert (await scene.rpc("messages.send", SEND))["code"] == 100
        assert (await scene.send()).status_code == 503


async def test_what_the_hook_skips_is_acknowledged_and_not_called(serve: Serve) -> None:
    async with scene_of(serve) as scene:
        scene.answer = {"skip": True}
        assert await scene.rpc("messages.send", SEND) == {"channel": GROUP, "applied": True}
        assert (await scene.send()).json() == {"result": {"channel": GROUP, "applied": True}}
        assert not scene.script.asked


@pytest.mark.parametrize(
    ("answer", "fail", "code", "status"),
    [
        (b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n", "closed", 114, 502),
        ({"data": 1}, "closed", 114, 502),
        (None, "closed", 113, 503),
        (b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n", "open", 0, 200),
    ],
)
async def test_a_hook_that_fails_is_closed_or_open(
    serve: Serve, answer: Any, fail: str, code: int, status: int
) -> None:
    async with scene_of(serve, fail=fail) as scene:
        scene.answer = answer
        assert (await scene.rpc("messages.send", SEND)).get("code", 0) == code
        assert (await scene.send()).status_code == status
        assert len(scene.script.asked) == (2 if fail == "open" else 0)


async def test_the_hook_is_asked_about_those_who_may_read_alone(serve: Serve) -> None:
    async with scene_of(serve) as scene, WireClient(f"ws://127.0.0.1:{scene.edge.port}/connection/websocket") as eve:
        scene.answer = {"skip": True}
        await eve.connect(token("eve"))
        said = []
        for channel in (GROUP, NOWHERE):
            said.append(await scene.rpc("messages.send", {"channel": channel, "text": "hi"}, eve))
        assert said[0] == said[1]
        assert said[0]["code"] == 103
        assert not scene.backend.questions
        assert not scene.script.asked


async def test_what_can_be_no_event_is_no_question(serve: Serve) -> None:
    async with scene_of(serve) as scene:
        for params, code in (
            ({"to": "ann", "text": "hi"}, 108),  # there may be no conversation yet
            ({**SEND, "colour": 1}, 107),
            ({**SEND, "text": "x" * 3_000}, 106),
            ({"channel": GROUP, "to": "ann", "text": "hi"}, 107),
        ):
            assert (await scene.rpc("messages.send", params))["code"] == code, params
        assert not scene.backend.questions
        assert not scene.script.asked


async def test_backends_and_what_is_not_published_pass_no_hook(serve: Serve) -> None:
    async with scene_of(serve) as scene:
        scene.answer = {"refuse": {}}
        of_a_backend = Caller(ClientInfo("bob", ""), "api:bob", is_backend=True)
        await scene.chat.call(METHODS["messages.send"], json.dumps(SEND).encode(), of_a_backend)
        for method in METHODS.values():
            if method.act is not Act.WRITE:
                assert "code" not in await scene.rpc(method.name, sample(method.name)), method.name
        assert not scene.backend.questions


async def test_nothing_is_called_for_who_was_sent_away_while_the_hook_was_asked(serve: Serve) -> None:
    async with scene_of(serve) as scene:
        may_answer = asyncio.Event()

        async def late() -> Any:
            await may_answer.wait()
            return {}

        scene.answer = late
        (session,) = scene.edge.node.users["bob"].values()
        await scene.bob.post(rpc={"method": "messages.send", "data": SEND})
        over_http = asyncio.create_task(scene.send())
        async with asyncio.timeout(30):
            while len(scene.backend.questions) < 2:
                await asyncio.sleep(0.005)
        session.disconnect(EndReason.DISCONNECTED)
        scene.cluster.keyring.set_secrets(
            b"another secret of thirty-two bytes or so"
        )  # bob's token is not good any more
        may_answer.set()
        assert (await over_http).status_code == 401
        await scene.edge.node.close(5)
        assert not scene.script.asked
