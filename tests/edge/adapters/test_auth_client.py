"""What an edge does with the keys that auth sends.

The server is real, and sends what the test says.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from services.edge.adapters.auth_client import AuthClient
from services.edge.domain.access.keyring import KeyRing
from services.edge.domain.ports import Caller
from services.shared.errors import ErrorCode, ThalamusError
from services.shared.rpc.replicas import Replicas
from services.shared.rpc.server import GrpcServer, start_grpc_server
from tests.support.api_keys import api_key_id
from tests.support.waiting import until
from thalamus.auth.v1 import auth_pb2 as pb
from thalamus.auth.v1.auth_pb2_grpc import AuthServiceServicer, add_AuthServiceServicer_to_server

KEY = Ed25519PrivateKey.generate()
TEXT = b"header.body"
USABLE = {**json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(KEY.public_key())), "kid": "ed", "alg": "EdDSA"}
OF_A_LATER_VERSION = {"kty": "AKP", "pub": "AAAA", "kid": "new"}


def trust(jwks: bytes, *api_keys: str) -> pb.Trust:
    digests = [pb.ApiKeyDigest(sha256=hashlib.sha256(key.encode()).digest(), id=key) for key in api_keys]
    return pb.Trust(jwks=jwks, api_keys=digests)


class Auth(AuthServiceServicer):
    """Sends to the one edge that watches what is put into `to_send`."""

    def __init__(self) -> None:
        self.to_send: asyncio.Queue[pb.Trust] = asyncio.Queue()
        self.watched = 0

    async def Watch(self, request, context):  # type: ignore[no-untyped-def]
        self.watched += 1
        while True:
            yield await self.to_send.get()


@pytest.fixture
async def auth() -> Auth:
    return Auth()  # type: ignore[abstract]


@pytest.fixture
async def keyring() -> KeyRing:
    return KeyRing()


@pytest.fixture
async def client(auth: Auth, keyring: KeyRing) -> AsyncIterator[AuthClient]:
    server: GrpcServer = await start_grpc_server(
        lambda made: add_AuthServiceServicer_to_server(auth, made),
        host="127.0.0.1",
        port=0,
        service_token=None,
        service="auth",
    )
    replicas = Replicas(f"127.0.0.1:{server.port}", service_token=None, service="test")
    await replicas.start()
    made = AuthClient(replicas, keyring)
    await made.start()
    yield made
    await made.close()
    await replicas.close()
    await server.stop(0.0)


def believes(keyring: KeyRing) -> bool:
    return any(OKPAlgorithm().verify(TEXT, key, KEY.sign(TEXT)) for key in keyring.keys("EdDSA", "ed"))


async def test_a_request_that_is_too_large_is_not_told_to_come_again(client: AuthClient) -> None:
    with pytest.raises(ThalamusError) as refused:
        await client.login("x" * (4 << 20), "password", Caller())
    assert refused.value.code is ErrorCode.LIMIT_EXCEEDED


async def test_a_key_of_a_later_version_costs_neither_the_other_keys_nor_what_follows(
    auth: Auth, client: AuthClient, keyring: KeyRing
) -> None:
    await auth.to_send.put(trust(json.dumps({"keys": [OF_A_LATER_VERSION, USABLE]}).encode(), "one"))
    await until(lambda: client.is_ready, 5)
    assert believes(keyring)
    assert api_key_id(keyring, "one") == "one"
    await auth.to_send.put(trust(b'{"keys":[]}'))
    await until(lambda: not believes(keyring))
    assert api_key_id(keyring, "one") is None
    assert auth.watched == 1


async def test_keys_that_cannot_be_read_leave_those_known_before_and_an_api_key_is_revoked_all_the_same(
    auth: Auth, client: AuthClient, keyring: KeyRing
) -> None:
    await auth.to_send.put(trust(json.dumps({"keys": [USABLE]}).encode(), "one", "two"))
    await until(lambda: client.is_ready, 5)
    await auth.to_send.put(trust(b"not JSON", "two"))
    await until(lambda: api_key_id(keyring, "one") is None)
    assert api_key_id(keyring, "two") == "two"
    assert believes(keyring)
    await auth.to_send.put(trust(b'{"keys":[]}', "two"))
    await until(lambda: not believes(keyring))


async def test_an_edge_is_not_ready_before_it_has_keys_that_it_can_read(
    auth: Auth, client: AuthClient, keyring: KeyRing
) -> None:
    await auth.to_send.put(trust(b"not JSON", "one"))
    await until(lambda: api_key_id(keyring, "one") is not None, 5)
    assert not client.is_ready
    await auth.to_send.put(trust(json.dumps({"keys": [USABLE]}).encode()))
    await until(lambda: client.is_ready)
    assert believes(keyring)


async def test_an_edge_can_wait_until_auth_was_heard(auth: Auth, client: AuthClient, keyring: KeyRing) -> None:
    assert not await client.wait_until_heard(0.05)
    waiting = asyncio.create_task(client.wait_until_heard(5.0))
    await auth.to_send.put(trust(b"not JSON", "one"))  # who is refused was told all the same
    assert await waiting
    assert api_key_id(keyring, "one") == "one"
    assert await client.wait_until_heard(0.0)


async def test_who_may_register_is_known_once_auth_has_said_so(
    auth: Auth, client: AuthClient, keyring: KeyRing
) -> None:
    sent = trust(b'{"keys":[]}')
    await auth.to_send.put(sent)
    await until(lambda: client.is_ready, 5)
    assert client.registration == ""
    for said, known in (("invite", "invite"), ("", "invite"), ("closed", "closed")):  # a replica of before says nothing
        sent.registration = said
        sent.api_keys.append(pb.ApiKeyDigest(sha256=hashlib.sha256(f"after {said}".encode()).digest(), id="k"))
        await auth.to_send.put(sent)
        await until(partial(api_key_id, keyring, f"after {said}"), 5)
        assert client.registration == known


async def test_a_limited_key_whose_limits_cannot_be_read_may_do_nothing(
    auth: Auth, client: AuthClient, keyring: KeyRing
) -> None:
    def key(name: str, **limits: Any) -> pb.ApiKeyDigest:
        return pb.ApiKeyDigest(sha256=hashlib.sha256(name.encode()).digest(), id=name, **limits)

    sent = trust(b'{"keys":[]}', "everything")
    sent.scoped_api_keys.extend(
        [
            key("nothing"),
            key("later", expires_at=2_000),
            key("scoped", scopes=["publish"]),
            key("unknown", scopes=["fly"]),
        ]
    )
    await auth.to_send.put(sent)
    await until(lambda: client.is_ready, 5)
    found = {
        name: keyring.api_keys.find(name, 1_000) for name in ("everything", "nothing", "later", "scoped", "unknown")
    }
    permitted = {name: key is not None and key.scopes.permit("publish") for name, key in found.items()}
    assert permitted == {"everything": True, "nothing": False, "later": True, "scoped": True, "unknown": False}
    assert [name for name, key in found.items() if key is not None and key.scopes.is_admin] == ["everything", "later"]
