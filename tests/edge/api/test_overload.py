"""Overload is error 111 with a hint, in every protocol: nothing was done.

What is not known to be so is error 100.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from services.edge.adapters.auth_client import AuthClient
from services.edge.adapters.persistence_client import _outcome
from services.edge.adapters.redis import broker as redis_broker
from services.edge.adapters.redis.broker import RedisBroker
from services.edge.api.app import create_app
from services.edge.api.context import ApiContext
from services.edge.domain.access.keyring import KeyRing
from services.edge.domain.control import cluster as control
from services.edge.domain.limits.api_calls import ApiCallLimit
from services.edge.domain.model import AppendResult, Publication
from services.edge.domain.ports import Caller
from services.shared.errors import Busy, ErrorCode, Unavailable
from services.shared.rpc.replicas import Replicas
from services.shared.rpc.server import start_grpc_server
from tests.support.api_keys import known_key
from tests.support.edge import OPEN, SIGNED_IN, Cluster, connected, replace_namespace
from tests.support.memory import MemoryBroker
from thalamus.auth.v1 import auth_pb2_grpc as auth_rpc
from thalamus.common.v1 import common_pb2
from thalamus.persistence.v1 import persistence_pb2 as pb

ANYONE = replace_namespace(OPEN, publish=SIGNED_IN, history=SIGNED_IN)
KEY = "thk_secret"


class FullBroker(MemoryBroker):
    """Whatever is appended is one too many."""

    def append(self, *_: Any, **__: Any) -> Awaitable[AppendResult]:  # type: ignore[override]
        raise Busy("too much waits for Redis")


def full_cluster() -> Cluster:
    cluster = Cluster(default=ANYONE)
    cluster.broker_type = FullBroker
    return cluster


def http_of(
    cluster: Cluster,
    accounts: Any = None,
    everywhere: Any = None,
    keyring: KeyRing | None = None,
    call_limit: ApiCallLimit | None = None,
) -> httpx.AsyncClient:
    """The edge's HTTP application."""
    if keyring is None:
        keyring = KeyRing()
        keyring.api_keys.replace([known_key(KEY)])
    node = cluster.nodes[0] if cluster.nodes else cluster.edge()
    context = ApiContext(
        node=node,
        cluster=everywhere,
        revoker=cast(Any, None),
        granter=cast(Any, None),
        accounts=accounts,
        users=cast(Any, None),
        profile_news=cast(Any, None),
        tickets=cast(Any, None),
        chat=cast(Any, None),
        keyring=keyring,
        web_dir=Path("web"),
        websocket_path="/connection/websocket",
        origin_allowed=lambda _: False,
        is_own_page=lambda _origin, _host: False,
        call_limit=call_limit,
    )
    transport = httpx.ASGITransport(create_app(context))
    return httpx.AsyncClient(transport=transport, base_url="http://edge.internal", headers={"X-API-Key": KEY})


def test_busy_says_when_to_come_again() -> None:
    error = Busy("full")
    assert (error.code, error.retry_after_s) == (ErrorCode.TOO_MANY_REQUESTS, 1.0)
    assert error.code.temporary
    assert Busy(retry_after_s=2.5).retry_after_s == 2.5
    assert Unavailable("gone").code is ErrorCode.INTERNAL


async def test_a_client_is_told_111_and_when_to_come_again() -> None:
    cluster = full_cluster()
    client = await connected(cluster, cluster.edge())
    reply = await client.reply(publish={"channel": "a", "data": 1})
    assert reply["error"] == {"code": 111, "message": "too many requests", "temporary": True, "retry_after_ms": 1000}


async def test_a_backend_is_told_503_and_when_to_come_again() -> None:
    async with http_of(full_cluster()) as http:
        response = await http.post("/api/publish", json={"channel": "a", "data": 1})
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert response.json()["error"]["code"] == 111
        some = await http.post("/api/broadcast", json={"channels": ["a", "b"], "data": 1})
        assert [one["error"]["code"] for one in some.json()["result"]["responses"]] == [111, 111]


async def test_more_control_commands_than_may_run_are_503_and_none_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_MAX_RUNNING", 0)
    cluster = Cluster(default=ANYONE)
    node = cluster.edge()
    nothing: Any = None
    async with http_of(cluster, everywhere=control.Cluster(node, nothing, nothing)) as http:
        response = await http.post("/api/disconnect", json={"user": "u"})
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert response.json()["error"]["code"] == 111
        await node.publisher.publish("a", ANYONE, b"1", time_ms=1)
        response = await http.post("/api/history_remove", json={"channel": "a"})  # the history is gone nevertheless
        assert response.json()["error"]["code"] == 100


async def test_a_full_queue_for_redis_refuses_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch, redis_url: str
) -> None:
    monkeypatch.setattr(redis_broker, "MAX_WAITING", 1)
    broker = RedisBroker(redis_url)
    waiting = asyncio.ensure_future(broker.publish("a", Publication(b"1")))
    await asyncio.sleep(0)
    options: dict[str, Any] = {"key_user": "", "key": "", "history_size": 1, "history_ttl_s": 1}
    with pytest.raises(Busy) as refused:
        await broker.append("a", Publication(b"2", id=b"i" * 16), **options)
    assert refused.value.code is ErrorCode.TOO_MANY_REQUESTS
    waiting.cancel()
    await broker.close()


def test_what_persistence_has_no_room_for_is_111_and_what_it_does_not_know_is_100() -> None:
    busy = _outcome(pb.AppendResult(status=common_pb2.ITEM_STATUS_BUSY))
    unknown = _outcome(pb.AppendResult(status=common_pb2.ITEM_STATUS_UNAVAILABLE))
    assert isinstance(busy, Busy)
    assert busy.code is ErrorCode.TOO_MANY_REQUESTS
    assert isinstance(unknown, Unavailable)
    assert unknown.code is ErrorCode.INTERNAL


class FullAuth(auth_rpc.AuthServiceServicer):
    """No password can be checked at the moment."""

    async def Login(self, request: Any, context: Any) -> Any:
        raise Busy("too many passwords wait to be checked")


async def test_a_sign_in_that_auth_has_no_time_for_is_503_and_when_to_come_again() -> None:
    server = await start_grpc_server(
        lambda made: auth_rpc.add_AuthServiceServicer_to_server(FullAuth(), made),  # type: ignore[abstract]
        host="127.0.0.1",
        port=0,
        service_token=None,
        previous_service_token=None,
        service="auth",
    )

    async def resolve(host: str, port: int) -> set[str]:
        return {f"127.0.0.1:{server.port}"}

    replicas = Replicas("auth:9001", service_token=None, service="auth", resolve=resolve)
    await replicas.start()
    try:
        client = AuthClient(replicas, KeyRing())
        with pytest.raises(Busy):
            await client.login("ann", "correct horse", Caller())
        async with http_of(Cluster(default=ANYONE), accounts=client) as http:
            response = await http.post("/auth/login", json={"username": "ann", "password": "correct horse"})
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert json.loads(response.content)["error"]["code"] == 111
    finally:
        await replicas.close()
        await server.stop(0)
