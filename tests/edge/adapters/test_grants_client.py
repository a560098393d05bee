"""Grants of an auth that is of a version of before, or of a later one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from services.edge.adapters.grants_client import GrantsClient
from services.edge.domain.access.grants import NEVER, Grant, Operation
from services.shared.errors import Unavailable
from services.shared.rpc.replicas import Replicas
from services.shared.rpc.server import start_grpc_server
from thalamus.auth.v1 import auth_pb2 as pb
from thalamus.auth.v1.auth_pb2_grpc import AuthServiceServicer, add_AuthServiceServicer_to_server


class Later(AuthServiceServicer):
    """Has an operation that this version does not know."""

    async def ListGrants(self, request, context):  # type: ignore[no-untyped-def]
        names = ("publish", "fly")
        return pb.ListGrantsResponse(grants=[pb.Grant(channel="a", operation=name) for name in names])


@pytest.fixture
async def client_of() -> AsyncIterator[Callable]:  # type: ignore[type-arg]
    closing = []

    async def start(auth: AuthServiceServicer | None) -> GrantsClient:
        server = await start_grpc_server(
            lambda made: None if auth is None else add_AuthServiceServicer_to_server(auth, made),
            host="127.0.0.1",
            port=0,
            service_token=None,
            service="auth",
        )
        replicas = Replicas(f"127.0.0.1:{server.port}", service_token=None, service="test")
        await replicas.start()
        closing.append((replicas, server))
        return GrantsClient(replicas)

    yield start
    for replicas, server in closing:
        await replicas.close()
        await server.stop(0.0)


async def test_an_auth_of_before_has_no_grants_and_can_give_none(client_of) -> None:  # type: ignore[no-untyped-def]
    client = await client_of(None)  # no method is there
    assert await client.grants_of("ann") is None
    with pytest.raises(Unavailable, match="update it first"):
        await client.give_grants("ann", ["a"], [Operation.PUBLISH], NEVER)
    with pytest.raises(Unavailable, match="update it first"):
        await client.take_grants("ann", [], [])


async def test_operations_of_a_later_auth_are_left_out(client_of) -> None:  # type: ignore[no-untyped-def]
    client = await client_of(Later())  # type: ignore[abstract]
    assert await client.grants_of("ann") == [Grant("a", Operation.PUBLISH)]
