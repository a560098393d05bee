"""What API keys may call, by their scopes."""

from __future__ import annotations

from typing import Any

import pytest

from services.edge.api.app import CALLS
from services.edge.api.openapi import EXAMPLES
from services.edge.api.scopes import operation_of
from services.edge.domain.access.keyring import KeyRing
from services.shared.api_scopes import IN_NAMESPACES, ApiOperation
from services.shared.namespaces import Namespace, Permission
from tests.edge.api.test_overload import http_of
from tests.support.api_keys import known_key
from tests.support.edge import Cluster

ANYONE = Namespace(name="", publish=frozenset({Permission.ANYONE}), presence=True)
METHODS = [name for name in CALLS if name != "batch"]
OF_NAMESPACES = [name for name in METHODS if operation_of(name) in IN_NAMESPACES and not name.startswith("grants")]
OF_CHANNELS = [name for name in OF_NAMESPACES if {"channel", "channels"} & EXAMPLES[name].keys()]
NOW = 1_800_000_000.0  # the clock of `Cluster`


def ring(*keys: tuple[str, tuple[str, ...]]) -> KeyRing:
    keyring = KeyRing()
    keyring.api_keys.replace(known_key(text, *scopes) for text, scopes in keys)
    return keyring


async def status(keyring: KeyRing, method: str, body: dict[str, Any], key: str = "k") -> tuple[int, dict[str, Any]]:
    """The status and the body.

    A call that reaches its method fails here, because it has no other edges to ask.
    """
    async with http_of(Cluster(default=ANYONE, chat=ANYONE), keyring=keyring) as http:
        response = await http.post(f"/api/{method}", json=body, headers={"X-API-Key": key})
    return response.status_code, response.json()


def test_every_method_belongs_to_an_operation() -> None:
    assert [name for name in METHODS if operation_of(name) is None] == []
    assert operation_of("anything_else") is None


@pytest.mark.parametrize("method", METHODS)
async def test_a_method_needs_the_scope_of_its_operation(method: str) -> None:
    needed = operation_of(method)
    assert needed is not None
    others = tuple(operation.value for operation in ApiOperation if operation is not needed)
    keyring = ring(("right", (needed.value,)), ("others", others), ("admin", ("admin",)), ("none", ("fly",)))
    for key, refused in (("right", False), ("others", True), ("admin", False), ("none", True)):
        code, said = await status(keyring, method, EXAMPLES[method], key)
        assert (code == 403) is refused, (key, code, said)
        if refused:
            assert said == {
                "error": {"code": 103, "message": f"permission denied: the API key has no scope {needed} for this"}
            }


@pytest.mark.parametrize("method", OF_CHANNELS)
async def test_a_scope_of_a_namespace_is_for_its_channels_alone(method: str) -> None:
    body = EXAMPLES[method]
    namespace = body["channel"].partition(":")[0] if "channel" in body else "chat"
    keyring = ring(("k", (f"{operation_of(method)}:{namespace}",)))
    assert (await status(keyring, method, body))[0] == 200
    for channel in ("room", "live:a", "nowhere:a", "*", "chat"):
        other = {**body, **({"channels": ["chat:a", channel]} if "channels" in body else {"channel": channel})}
        assert (await status(keyring, method, other))[0] == 403, channel


@pytest.mark.parametrize("method", sorted(set(OF_NAMESPACES) - set(OF_CHANNELS)))
async def test_a_call_without_a_channel_needs_the_scope_of_all_namespaces(method: str) -> None:
    needed = operation_of(method)
    keyring = ring(("all", (f"{needed}",)), ("one", (f"{needed}:chat", f"{needed}:-")))
    assert (await status(keyring, method, EXAMPLES[method], "all"))[0] == 200
    assert (await status(keyring, method, EXAMPLES[method], "one"))[0] == 403
    if method == "presence_remove":  # an empty name is no channel without a colon, but all of them
        assert (await status(keyring, method, {"user": "alice", "channel": ""}, "one"))[0] == 403
        assert (await status(keyring, method, {"user": "alice", "channel": "chat:a"}, "one"))[0] == 200


async def test_a_refusal_is_the_same_whether_or_not_what_is_named_exists() -> None:
    keyring = ring(("k", ("publish:chat",)))
    replies = [
        await status(keyring, "history", {"channel": channel, "limit": 1})
        for channel in ("chat:a", "room", "nowhere:a", "not allowed", "x" * 300)
    ]
    assert all(reply == replies[0] for reply in replies)
    assert replies[0][0] == 403


async def test_each_command_of_a_batch_needs_its_scope() -> None:
    keyring = ring(("k", ("publish:chat",)))
    commands: list[dict[str, Any]] = [
        {"publish": {"channel": "chat:a", "data": 1}},
        {"publish": {"channel": "room", "data": 1}},
        {"history": {"channel": "chat:a"}},
        {"broadcast": {"channels": ["chat:a", "room"], "data": 1}},
    ]
    for parallel in (False, True):
        code, said = await status(keyring, "batch", {"commands": commands, "parallel": parallel})
        assert code == 200
        first, *others = said["result"]["replies"]
        assert "publish" in first
        assert [one["error"]["code"] for one in others] == [103, 103, 103]


async def test_a_key_is_as_good_as_unknown_once_it_has_expired() -> None:
    keyring = KeyRing()
    keyring.api_keys.replace([known_key("old", expires_at=NOW), known_key("new", expires_at=NOW + 1)])
    body = {"channel": "chat:a", "data": 1}
    assert (await status(keyring, "publish", body, "new"))[0] == 200
    expired = await status(keyring, "publish", body, "old")
    unknown = await status(keyring, "publish", body, "unknown")
    assert expired == unknown
    assert expired[0] == 401


async def test_either_header_brings_a_key() -> None:
    async with http_of(Cluster(default=ANYONE), keyring=ring(("k", ("presence",)))) as http:
        for headers in ({"X-API-Key": "k"}, {"X-API-Key": "", "Authorization": "apikey k"}):
            response = await http.post("/api/presence_stats", json={"channel": "room"}, headers=headers)
            assert response.json()["result"] == {"num_clients": 0, "num_users": 0}


async def test_uses_are_noted_without_a_call_and_told_once() -> None:
    keyring = ring(("k", ("publish",)), ("idle", ("publish",)))
    await status(keyring, "publish", {"channel": "chat:a", "data": 1})
    await status(keyring, "history", {"channel": "chat:a"})  # refused: the key is used nevertheless
    await status(keyring, "publish", {"channel": "chat:a", "data": 1}, "unknown")
    uses = keyring.api_keys.take_uses()
    assert uses == {"k": NOW}
    assert keyring.api_keys.take_uses() == {}
    keyring.api_keys.put_back({"k": NOW - 5, "idle": NOW - 5})
    await status(keyring, "publish", {"channel": "chat:a", "data": 1})
    keyring.api_keys.put_back({"k": NOW - 5})
    assert keyring.api_keys.take_uses() == {"k": NOW, "idle": NOW - 5}


async def test_no_key_is_wrong_before_auth_has_said_which_there_are() -> None:
    keyring = KeyRing()
    async with http_of(Cluster(default=ANYONE), keyring=keyring) as http:
        early = await http.post("/api/publish", content=b"{")
        assert (early.status_code, early.headers["retry-after"], early.json()["error"]["code"]) == (503, "1", 100)
        keyring.api_keys.replace([])
        assert (await http.post("/api/publish", content=b"{")).status_code == 401
