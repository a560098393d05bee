"""Auth as a real process on DynamoDB.

The rules of accounts, and a DynamoDB that is away at the start or later.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from cli.http import NoResponse, request
from cli.stack.ports import Port, choose_ports
from services.shared.dynamodb import tables
from services.shared.dynamodb.client import DynamoDb, values_of
from services.shared.dynamodb.settings import DynamoDbSettings
from services.shared.rpc.replicas import Replicas
from tests.support.dynamodb import CREDENTIALS, dynamodb_server, settings_of
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import until
from thalamus.auth.v1 import auth_pb2 as pb
from thalamus.auth.v1.auth_pb2_grpc import AuthServiceStub

if TYPE_CHECKING:
    from thalamus.auth.v1.auth_pb2_grpc import AuthServiceAsyncStub

PASSWORD = "correct horse battery"
START_S = 90.0


class Auth:
    """`python -m services.auth`, with DynamoDB behind a proxy that can be cut."""

    def __init__(self, folder: Path, redis_url: str, proxy: TcpProxy, prefix: str) -> None:
        wanted = [Port("auth", variable, "127.0.0.1", 0) for variable in ("AUTH_GRPC_PORT", "AUTH_INTERNAL_PORT")]
        self.port, self._internal_port = choose_ports(wanted).values()
        self.proxy = proxy
        self._log = folder / "log"
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AUTH_")},
            **CREDENTIALS,
            "AUTH_STORE": "dynamodb",
            "AUTH_REGISTRATION": "open",
            "AUTH_GRPC_PORT": str(self.port),
            "AUTH_INTERNAL_PORT": str(self._internal_port),
            "DYNAMODB_ENDPOINT": f"http://127.0.0.1:{proxy.port}",
            "DYNAMODB_TABLE_PREFIX": prefix,
            "REDIS_URL": redis_url,
            "LOG_LEVEL": "DEBUG",
        }
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "services.auth"], env=environment, stdout=log, stderr=log
            )

    def said(self) -> str:
        return self._log.read_text()

    async def until_it_says(self, text: str) -> None:
        async with asyncio.timeout(START_S):
            while text not in self.said():
                await asyncio.sleep(0.05)

    async def readiness(self) -> int:
        """Status of /readyz; 0: no answer."""
        url = f"http://127.0.0.1:{self._internal_port}/readyz"
        try:
            return (await asyncio.to_thread(request, "GET", url, timeout_s=1.0))[0]
        except NoResponse:
            return 0

    async def until_readiness(self, status: int) -> None:
        async with asyncio.timeout(START_S):
            while await self.readiness() != status:
                await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as environment, dynamodb_server() as address:
        for name, value in CREDENTIALS.items():
            environment.setenv(name, value)
        yield address


@pytest.fixture
async def proxy(address: str) -> AsyncIterator[TcpProxy]:
    async with TcpProxy("127.0.0.1", int(address.rpartition(":")[2])) as made:
        yield made


@pytest.fixture
def settings(address: str) -> DynamoDbSettings:
    return settings_of(address, f"{uuid.uuid4().hex}-")


@pytest.fixture
async def made_tables(settings: DynamoDbSettings) -> None:
    db = DynamoDb(settings)
    await tables.create(db, settings)
    await db.close()


@pytest.fixture
def cut(proxy: TcpProxy) -> TcpProxy:
    """The proxy, cut before auth starts."""
    proxy.cut()
    return proxy


@pytest.fixture
def auth(tmp_path: Path, redis_url: str, proxy: TcpProxy, settings: DynamoDbSettings) -> Iterator[Auth]:
    """Started; name what it shall find before it: `made_tables`, `cut`."""
    made = Auth(tmp_path, redis_url, proxy, settings.table_prefix)
    yield made
    made.process.kill()
    made.process.wait()
    print(made.said())


@asynccontextmanager
async def calling(auth: Auth) -> AsyncIterator[AuthServiceAsyncStub]:
    """Its gRPC face, once it is there."""
    replicas = Replicas(f"127.0.0.1:{auth.port}", service_token=None, service="test")
    await replicas.start()
    try:
        await auth.until_readiness(200)
        await until(replicas.is_ready, START_S)
        yield AuthServiceStub(replicas.any())
    finally:
        await replicas.close()


async def refused(call: Awaitable[object]) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


async def test_a_missing_table_ends_the_start_with_one_line_that_says_what_to_do(
    auth: Auth, settings: DynamoDbSettings
) -> None:
    assert await asyncio.to_thread(auth.process.wait, START_S) == 2
    *_, last = [line for line in auth.said().splitlines() if not line.startswith("{")]  # the others are logs
    assert last == f"thalamus auth: DynamoDB has no table {settings.accounts_table}: make it with `thalamus store init`"


@pytest.mark.usefixtures("made_tables")
async def test_the_rules_of_sessions_hold_on_dynamodb(auth: Auth) -> None:
    async with calling(auth) as stub:

        def refresh(pair: pb.TokenPair) -> Awaitable[pb.TokenPair]:
            return stub.RefreshSession(pb.RefreshSessionRequest(refresh_token=pair.refresh_token))

        first = await stub.Register(pb.RegisterRequest(username="Ann", password=PASSWORD))
        again = stub.Register(pb.RegisterRequest(username="aNN", password=PASSWORD))
        assert await refused(again) is grpc.StatusCode.ALREADY_EXISTS
        wrong = stub.Login(pb.LoginRequest(username="ann", password="wrong password"))
        assert await refused(wrong) is grpc.StatusCode.UNAUTHENTICATED
        other = await stub.Login(pb.LoginRequest(username="ann", password=PASSWORD))
        assert (other.user, other.username) == (first.user, "Ann")
        second = await refresh(first)
        third = await refresh(second)
        assert await refused(refresh(first)) is grpc.StatusCode.UNAUTHENTICATED  # a reuse
        assert await refused(refresh(third)) is grpc.StatusCode.UNAUTHENTICATED  # what it ended
        living = await refresh(other)
        await stub.Logout(pb.LogoutRequest(refresh_token=living.refresh_token))
        assert await refused(refresh(living)) is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.usefixtures("made_tables")
async def test_B36_nothing_that_is_kept_in_dynamodb_is_logged(auth: Auth, settings: DynamoDbSettings) -> None:
    async with calling(auth) as stub:
        await stub.Register(pb.RegisterRequest(username="ann", password=PASSWORD))
    db = DynamoDb(settings)
    items = (await db.call("scan", TableName=settings.accounts_table))["Items"]
    await db.close()
    kept = [values_of(item) for item in items]
    (pem,) = [item["pem"].decode() for item in kept if "pem" in item]
    (password_hash,) = {item["password_hash"] for item in kept if "password_hash" in item}
    said = auth.said()
    assert "started" in said
    assert [secret for secret in (*pem.split(), password_hash, "refresh#") if len(secret) > 7 and secret in said] == []


@pytest.mark.usefixtures("made_tables")
async def test_without_dynamodb_auth_waits_at_its_start_and_later_still_mints(cut: TcpProxy, auth: Auth) -> None:
    await auth.until_it_says("not ready: the store does not answer")
    assert await auth.readiness() == 503
    cut.heal()
    async with calling(auth) as stub:
        await stub.Register(pb.RegisterRequest(username="ann", password=PASSWORD))
        login = pb.LoginRequest(username="ann", password=PASSWORD)
        cut.cut()
        assert await refused(stub.Login(login, timeout=60)) is grpc.StatusCode.UNAVAILABLE
        assert (await stub.MintToken(pb.MintTokenRequest(user="ann", ttl_s=60))).token
        trust = await anext(aiter(stub.Watch(pb.WatchRequest())))
        assert b"EdDSA" in trust.jwks
        await auth.until_readiness(503)
        cut.heal()
        await auth.until_readiness(200)
        assert (await stub.Login(login)).access_token
    assert auth.process.poll() is None


@pytest.mark.usefixtures("cut")
async def test_auth_ends_when_it_is_told_to_while_it_waits_for_dynamodb(auth: Auth) -> None:
    await auth.until_it_says("not ready: the store does not answer")
    auth.process.terminate()
    assert await asyncio.to_thread(auth.process.wait, START_S) == 0
