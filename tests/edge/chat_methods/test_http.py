"""Methods on conversations by HTTP: of signed-in users, and of backends.

Persistence is a real gRPC server that is scripted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import msgspec
import pytest

from services.edge.api.chat_rest import ROUTES, Route
from services.edge.domain.access.revocations import Revocation, RevokedKind
from services.shared.chat_methods import METHODS
from tests.support.api_keys import known_key
from tests.support.chat_methods import CONV, GROUP, PERSONAL, ChatServer, ScriptedChat, http_of, sample, split
from tests.support.edge import OPEN, Cluster, connected
from tests.support.waiting import until
from thalamus.chat.v1 import chat_pb2 as pb

PAGE = "https://app.example"
KEY = "thk_secret"


class Scene(NamedTuple):
    cluster: Cluster
    script: ScriptedChat
    http: httpx.AsyncClient

    def bearer(self, user: str = "alice", **claims: Any) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.cluster.token(user, **claims)}"}


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    cluster = Cluster(default=OPEN, conv=CONV, user=PERSONAL, chat=OPEN)
    node = cluster.edge()
    cluster.keyring.api_keys.replace([known_key(KEY), known_key("reads", "history:conv"), known_key("all", "publish")])
    async with ChatServer() as server, http_of(cluster, node, server.methods(node), origin=PAGE) as http:
        yield Scene(cluster, server.script, http)


def of_route(route: Route) -> dict[str, Any]:
    params = sample(route.method)
    if "channel" in route.without:
        params = {**params, "to": "u2"}
    for name in route.without:
        params.pop(name, None)
    return params


async def ask(scene: Scene, route: Route, params: dict[str, Any], headers: dict[str, str]) -> httpx.Response:
    path, rest = split(route, params)
    if route.has_body:
        return await scene.http.request(route.verb, path, json=rest, headers=headers)
    return await scene.http.request(route.verb, path, params=rest, headers=headers)


def test_every_method_has_a_route() -> None:
    assert {route.method for route in ROUTES} == METHODS.keys()
    assert len({(route.verb, route.path) for route in ROUTES}) == len(ROUTES)


async def test_a_route_calls_its_method_with_what_is_in_path_query_and_body(scene: Scene) -> None:
    for route in ROUTES:
        scene.script.answer = pb.CallResponse(result=b'{"a":1.0e5}')
        params = of_route(route)
        headers = {**scene.bearer(info={"n": 1}, sid="s1"), "Idempotency-Key": "k1"}
        response = await ask(scene, route, params, headers)
        assert (response.status_code, response.content) == (200, b'{"result":{"a":1.0e5}}'), response.text
        assert response.headers["cache-control"] == "no-store"
        asked = scene.script.take()
        assert asked.method == route.method
        assert msgspec.json.decode(asked.params) == params
        assert (asked.info.user, asked.info.client, bool(asked.info.conn_info)) == ("alice", "", True)
        assert asked.key_user == "u:alice"  # that of rpc: a repeat may come by another way
        assert asked.key == ("k1" if METHODS[route.method].writes else "")
        in_any = route.method in ("conversations.list", "inbox.list", "me.preferences") or route.method.startswith(
            "devices."
        )
        assert asked.namespace == ("" if in_any else "conv")
        assert asked.session == ("s1" if route.method == "devices.set" else "")


async def test_a_device_set_while_its_sign_in_ends_is_forgotten_again(scene: Scene) -> None:
    """It may come behind the request that forgets the devices of the sign-in."""
    (route,) = [one for one in ROUTES if one.method == "devices.set"]
    scene.script.go.clear()
    asking = asyncio.create_task(ask(scene, route, of_route(route), scene.bearer(sid="s1")))
    await until(lambda: scene.script.asked)
    assert scene.script.take().session == "s1"
    over = Revocation(kind=RevokedKind.SESSION, id="s1", at=0.0, until=2e9)
    scene.cluster.nodes[0].verifier._revocations.add(over)  # noqa: SLF001
    scene.script.go.set()
    assert (await asking).status_code == 401
    forgets = scene.script.take()
    assert forgets.method == "devices.forget_sessions"
    assert msgspec.json.decode(forgets.params) == {"user": "alice", "sessions": ["s1"]}
    assert (await ask(scene, route, of_route(route), scene.bearer(sid="s2"))).status_code == 200
    assert scene.script.take().session == "s2"


async def test_a_route_is_for_signed_in_users_with_a_bearer_token(scene: Scene) -> None:
    for route in ROUTES:
        token = scene.cluster.token("alice")
        for headers in (
            {},
            {"Authorization": f"Bearer {scene.cluster.token('')}"},
            {"Authorization": "Bearer x"},
            {"Authorization": f"Bearer {scene.cluster.token('alice', ttl_s=-1)}"},
            {"X-API-Key": KEY},
            {"Cookie": f"thalamus_session={token}; token={token}"},
        ):
            response = await ask(scene, route, of_route(route), headers)
            assert response.status_code == 401, headers
            assert "www-authenticate" in response.headers
        assert scene.script.asked == []


async def test_a_parameter_that_a_route_does_not_take_is_refused_by_name(scene: Scene) -> None:
    for route in ROUTES:
        for name in ("colour", *route.without, *route.in_path.values(), "key", "as"):
            params = of_route(route)
            path, rest = split(route, params)
            rest[name] = 1
            if route.has_body:
                response = await scene.http.request(route.verb, path, json=rest, headers=scene.bearer())
            else:
                response = await scene.http.request(route.verb, path, params=rest, headers=scene.bearer())
            assert (response.status_code, response.json()["error"]["code"]) == (400, 107)
            assert f"`{name}`" in response.json()["error"]["message"]
        assert scene.script.asked == []


async def test_the_status_says_what_the_code_says(scene: Scene) -> None:
    statuses = {100: 503, 103: 403, 106: 413, 107: 400, 111: 429, 404: 404, 409: 409, 410: 410, 999: 503}
    for code, status in statuses.items():
        hint = 2_500 if code in (100, 111) else 0
        scene.script.refuse(code, why="some_word", text="because", retry_after_ms=hint)
        for route in ROUTES[:4]:
            response = await ask(scene, route, of_route(route), scene.bearer())
            assert response.status_code == status
            error = response.json()["error"]
            assert error["code"] == (100 if code == 999 else code)
            if status != 503:
                assert error["why"] == "some_word"
                assert error["message"].endswith(": because")
            assert response.headers.get("retry-after") == {100: "3", 111: "3", 999: "1"}.get(code)


async def test_what_is_wrong_in_path_query_or_body_is_said(scene: Scene) -> None:
    base = f"/chat/conversations/{GROUP}"
    for verb, path, sent, status, words in (
        ("GET", f"{base}/messages?limit=many", None, 400, "`$.limit`"),
        ("GET", f"{base}/messages?limit=1000", None, 400, "<= 100"),
        ("GET", f"{base}/messages/x", None, 400, "`$.offset`"),
        ("GET", f"{base}/messages/0", None, 400, ">= 1"),
        ("POST", f"{base}/messages", b"{", 400, ""),
        ("POST", f"{base}/messages", b'{"text":1}', 400, "`$.text`"),
        ("POST", f"{base}/messages", b'{"text":"' + b"x" * 1_048_576 + b'"}', 413, ""),
        ("GET", "/chat/conversations/chat:lobby", None, 404, "not available"),
        ("GET", "/chat/conversations/nowhere:lobby", None, 404, "unknown channel"),
        ("GET", "/chat/nothing", None, 404, ""),
        ("PUT", "/chat/conversations", b"{}", 405, ""),
    ):
        response = await scene.http.request(verb, path, content=sent, headers=scene.bearer())
        assert response.status_code == status, (verb, path, response.text)
        assert response.headers.get("allow") == ("GET, HEAD, POST" if status == 405 else None)
        assert words in response.json()["error"]["message"], (verb, path, response.text)
    scene.script.asked.clear()


async def test_an_integer_may_have_a_point(scene: Scene) -> None:
    sent = b'{"channel":"%s","of":2.0,"text":"x","meta":{"a":1.0}}' % GROUP.encode()
    response = await scene.http.post("/api/messages_edit", content=sent, headers={"X-API-Key": KEY})
    assert response.json() == {"result": {}}
    assert b'"of":2}' in scene.script.asked[0].params
    assert b'"meta":{"a":1.0}' in scene.script.take().params
    response = await scene.http.post(
        "/api/messages_edit", content=sent.replace(b"2.0", b"2.5"), headers={"X-API-Key": KEY}
    )
    assert (response.status_code, scene.script.asked) == (400, [])


async def test_ids_and_names_of_any_kind_fit_into_a_path(scene: Scene) -> None:
    for user in ("urn:x:bob", "a/b", "ü ?&#%2F", "a b"):
        path = f"/chat/conversations/{GROUP}/members/{quote(user, safe='')}"
        assert (await scene.http.delete(path, headers=scene.bearer())).status_code == 200
        assert msgspec.json.decode(scene.script.take().params)["user"] == user
    for name in ("👍", "+1", "a/b"):
        path = f"/chat/conversations/{GROUP}/messages/7/reactions/{quote(name, safe='')}"
        assert (await scene.http.put(path, headers=scene.bearer())).status_code == 200
        assert msgspec.json.decode(scene.script.take().params) == {"channel": GROUP, "of": 7, "name": name}


async def test_pages_of_allowed_origins_may_call_without_cookies(scene: Scene) -> None:
    for verb in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        headers = {
            "Origin": PAGE,
            "Access-Control-Request-Method": verb,
            "Access-Control-Request-Headers": "authorization,content-type,idempotency-key",
        }
        response = await scene.http.options("/chat/conversations", headers=headers)
        assert response.status_code == 200, response.text
        assert response.headers["access-control-allow-origin"] == PAGE
        assert "access-control-allow-credentials" not in response.headers
        elsewhere = await scene.http.options(
            "/chat/conversations", headers={**headers, "Origin": "https://evil.example"}
        )
        assert "access-control-allow-origin" not in elsewhere.headers
    response = await scene.http.get("/chat/conversations", headers={**scene.bearer(), "Origin": PAGE})
    assert response.headers["access-control-allow-origin"] == PAGE
    assert "retry-after" in response.headers["access-control-expose-headers"].lower()


async def test_one_user_asks_only_so_often(scene: Scene) -> None:
    node = scene.cluster.edge(commands_per_s=2, commands_burst=5)
    async with ChatServer() as server, http_of(scene.cluster, node, server.methods(node)) as http:
        found = [(await http.get("/chat/conversations", headers=scene.bearer())).status_code for _ in range(7)]
        assert found == [200] * 5 + [429] * 2
        assert (await http.get("/chat/conversations", headers=scene.bearer("bob"))).status_code == 200


async def test_a_backend_calls_as_a_user_or_as_the_platform(scene: Scene) -> None:
    for method in METHODS:
        scene.script.answer = pb.CallResponse(result=b'{"a":1.0e5}')
        path, params = f"/api/{METHODS[method].call}", sample(method)
        for user in ("", "u1"):
            body = {**params, "as": user} if user else params
            response = await scene.http.post(path, json=body, headers={"X-API-Key": KEY})
            assert (response.status_code, response.content) == (200, b'{"result":{"a":1.0e5}}'), response.text
            asked = scene.script.take()
            assert (asked.method, asked.info.user, asked.HasField("info")) == (method, user, bool(user))
            assert asked.key_user == (f"api:{user}" if user else "api")
            given = msgspec.json.decode(asked.params)
            assert given == {name: value for name, value in params.items() if given.get(name, object()) == value}
            assert params.keys() - given.keys() <= {"limit"}  # what is the default is left out
        scene.script.refuse(409, why="other_rev", text="it has rev 19")
        response = await scene.http.post(path, json=params, headers={"X-API-Key": KEY})
        assert (response.status_code, scene.script.take().method) == (200, method)
        assert response.json() == {"error": {"code": 409, "message": "conflict: it has rev 19", "why": "other_rev"}}


async def test_a_key_of_a_namespace_reaches_what_is_there_alone(scene: Scene) -> None:
    for key, name, body, status in (
        ("reads", "messages_list", {"channel": GROUP}, 200),
        ("reads", "messages_list", {"channel": "team:g.x"}, 403),
        ("reads", "conversations_list", {"as": "u1", "namespace": "conv"}, 200),
        ("reads", "conversations_list", {"as": "u1"}, 403),
        ("reads", "messages_between", {"from": "u1", "to": "u2"}, 403),
        ("reads", "messages_between", {"from": "u1", "to": "u2", "namespace": "conv"}, 200),
        ("reads", "messages_send", {"channel": GROUP, "text": "x"}, 403),
        ("all", "messages_send", {"channel": GROUP, "text": "x"}, 200),
        ("all", "messages_send", {"as": "u1", "to": "u2", "text": "x"}, 200),
        ("all", "members_add", {"channel": GROUP, "user": "u2"}, 403),
        ("all", "conversations_create", {}, 403),
    ):
        response = await scene.http.post(f"/api/{name}", json=body, headers={"X-API-Key": key})
        assert response.status_code == status, (key, name, body, response.text)


async def test_a_batch_has_conversations_too_and_who_is_concerned_is_told(scene: Scene) -> None:
    bob = await connected(scene.cluster, scene.cluster.edge(), "bob")
    await bob.call(subscribe={"channel": "user:#bob"})
    notice = pb.Notice(user="bob", data=b'{"kind":"invited"}')
    scene.script.answer = pb.CallResponse(result=b'{"applied":true}', notices=[notice])
    commands = [{"members_invite": {"channel": GROUP, "user": "bob"}}, {"members_invite": {"user": "bob"}}]
    response = await scene.http.post("/api/batch", json={"commands": commands}, headers={"X-API-Key": KEY})
    first, second = response.json()["result"]["replies"]
    assert first == {"members_invite": {"applied": True}}
    assert second["error"]["code"] == 107
    assert [publication["data"] for publication in bob.publications("user:#bob")] == [{"kind": "invited"}]
