"""Auth as others see it: a real process, its gRPC face, and the edge's side of it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from cli.stack.ports import Port, choose_ports
from services.auth.__main__ import ReadTrust, follow, read_trust
from services.auth.adapters.dynamodb_accounts import DynamoDbAccounts
from services.auth.adapters.redis_limits import RedisLimits
from services.auth.adapters.sqlite_accounts import SqliteAccounts
from services.auth.domain.accounts import Accounts
from services.auth.domain.passwords import Passwords
from services.auth.domain.policy import Policy, RegistrationMode
from services.auth.domain.ports import AccountStore, ApiKeyRow
from services.auth.domain.tokens import load_signer
from services.auth.service import AuthServicer, TrustFeed
from services.edge.adapters.auth_client import AuthClient
from services.edge.domain.access.keyring import KeyRing
from services.edge.domain.access.tokens import TokenVerifier
from services.edge.domain.ports import AccountRefused, Caller
from services.shared.dynamodb import tables
from services.shared.dynamodb.client import DynamoDb
from services.shared.dynamodb.settings import DynamoDbSettings
from services.shared.errors import Unavailable
from services.shared.process.cancellation import end_task
from services.shared.redis.pipeline import RedisPipeline
from services.shared.rpc.replicas import Replicas
from services.shared.user_digest import digest_of
from tests.support.api_keys import api_key_id
from tests.support.waiting import until
from thalamus.auth.v1 import auth_pb2 as pb
from thalamus.auth.v1.auth_pb2_grpc import AuthServiceStub

if TYPE_CHECKING:
    from thalamus.auth.v1.auth_pb2_grpc import AuthServiceAsyncStub

PASSWORD = "correct horse battery"
SERVICE_TOKEN = "identity-of-a-service-in-this-test"


class AuthProcess:
    """`python -m services.auth` on ports that it keeps."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.db = folder / "auth.sqlite3"
        wanted = [Port("auth", variable, "127.0.0.1", 0) for variable in ("AUTH_GRPC_PORT", "AUTH_INTERNAL_PORT")]
        self.port, internal_port = choose_ports(wanted).values()
        self._log = folder / "log"
        identity = folder / "service.token"
        identity.write_text(SERVICE_TOKEN)
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AUTH_")},
            "AUTH_DB": str(self.db),
            "AUTH_GRPC_PORT": str(self.port),
            "AUTH_INTERNAL_PORT": str(internal_port),
            "AUTH_ATTEMPTS_PER_ADDRESS": "0",
            "AUTH_REGISTRATION": "open",
            "REDIS_URL": redis_url,
            "SERVICE_TOKEN_FILE": str(identity),
            "LOG_LEVEL": "DEBUG",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services.auth"], env=self._environment, stdout=log, stderr=log
            )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def said(self) -> str:
        return self._log.read_text()


@pytest.fixture
def process(tmp_path: Path, redis_url: str) -> Iterator[AuthProcess]:
    made = AuthProcess(tmp_path, redis_url)
    made.start()
    yield made
    made.kill()
    print(made.said())


@pytest.fixture
async def replicas(process: AuthProcess) -> AsyncIterator[Replicas]:
    made = Replicas(f"127.0.0.1:{process.port}", service_token=SERVICE_TOKEN.encode(), service="test")
    await made.start()
    await until(made.is_ready, 15)
    yield made
    await made.close()


@pytest.fixture
async def stub(replicas: Replicas) -> AuthServiceAsyncStub:
    return AuthServiceStub(replicas.any())


@pytest.fixture
async def keyring() -> KeyRing:
    return KeyRing()


@pytest.fixture
async def client(replicas: Replicas, keyring: KeyRing) -> AsyncIterator[AuthClient]:
    """An edge's side, once it has heard of the keys."""
    made = AuthClient(replicas, keyring)
    await made.start()
    await until(lambda: made.is_ready)
    yield made
    await made.close()


async def test_an_edge_hears_of_a_created_and_a_revoked_key_at_once(
    stub: AuthServiceAsyncStub, client: AuthClient, keyring: KeyRing
) -> None:
    made = await stub.CreateApiKey(pb.CreateApiKeyRequest(name="backend"))
    await until(lambda: api_key_id(keyring, made.key) == made.id, 0.7)
    listed = (await stub.ListApiKeys(pb.ListApiKeysRequest())).keys
    assert [(key.id, key.name) for key in listed] == [(made.id, "backend")]
    assert made.key not in str(listed)
    await stub.RevokeApiKey(pb.RevokeApiKeyRequest(id=made.id))
    await until(lambda: api_key_id(keyring, made.key) is None, 0.7)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.RevokeApiKey(pb.RevokeApiKeyRequest(id=made.id))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_an_edge_that_knows_no_scopes_does_not_hear_of_keys_that_have_some(
    stub: AuthServiceAsyncStub, client: AuthClient, keyring: KeyRing
) -> None:
    soon = int(time.time()) + 3_600
    plain = await stub.CreateApiKey(pb.CreateApiKeyRequest(name="plain"))
    scoped = await stub.CreateApiKey(pb.CreateApiKeyRequest(name="scoped", scopes=["publish:chat", "history"]))
    expiring = await stub.CreateApiKey(pb.CreateApiKeyRequest(name="expiring", expires_at=soon))
    assert list(scoped.scopes) == ["history", "publish:chat"]
    assert expiring.expires_at == soon
    await until(lambda: api_key_id(keyring, expiring.key) == expiring.id)
    trust = await anext(aiter(stub.Watch(pb.WatchRequest())))
    assert [key.id for key in trust.api_keys] == [plain.id]
    assert [key.id for key in trust.scoped_api_keys] == [scoped.id, expiring.id]
    known = {key.key: keyring.api_keys.find(key.key, soon - 1) for key in (plain, scoped, expiring)}
    may = {key: found is not None and found.scopes.permit("revoke") for key, found in known.items()}
    assert may == {plain.key: True, scoped.key: False, expiring.key: True}
    assert keyring.api_keys.find(expiring.key, soon) is None
    await stub.RevokeApiKey(pb.RevokeApiKeyRequest(id=scoped.id))
    await until(lambda: api_key_id(keyring, scoped.key) is None)
    for wrong in (pb.CreateApiKeyRequest(name="n", scopes=["fly"]), pb.CreateApiKeyRequest(name="n", expires_at=1)):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.CreateApiKey(wrong)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_the_last_use_of_a_key_is_told_when_an_edge_ends(
    replicas: Replicas, stub: AuthServiceAsyncStub, keyring: KeyRing
) -> None:
    made = await stub.CreateApiKey(pb.CreateApiKeyRequest(name="backend"))
    edge = AuthClient(replicas, keyring)
    await edge.start()
    await until(lambda: api_key_id(keyring, made.key) == made.id)
    keyring.api_keys.take_uses()
    now = int(time.time())
    assert keyring.api_keys.find(made.key, now) is not None
    (listed,) = (await stub.ListApiKeys(pb.ListApiKeysRequest())).keys
    assert listed.last_used_at == 0  # nothing is written for a use
    await edge.close()
    (listed,) = (await stub.ListApiKeys(pb.ListApiKeysRequest())).keys
    assert listed.last_used_at == now


async def test_a_service_that_auth_does_not_know_does_not_tell_users_that_they_are_wrong(
    process: AuthProcess, keyring: KeyRing
) -> None:
    stranger = Replicas(f"127.0.0.1:{process.port}", service_token=b"of another deployment", service="test")
    await stranger.start()
    await until(stranger.is_ready, 15)
    try:
        with pytest.raises(Unavailable):
            await AuthClient(stranger, keyring).login("ann", PASSWORD, Caller())
    finally:
        await stranger.close()


async def test_an_edge_hears_of_a_key_that_another_replica_made(
    process: AuthProcess, client: AuthClient, keyring: KeyRing
) -> None:
    other = SqliteAccounts(process.db)
    digest = hashlib.sha256(b"thk_of_another").digest()
    await other.add_api_key(ApiKeyRow("other", "backend", digest, time.time()))
    await until(lambda: api_key_id(keyring, "thk_of_another") == "other")
    signer = await load_signer(other, "RS256")  # a replica with another AUTH_SIGNING_ALGORITHM
    await until(lambda: keyring.jwks == signer.jwks)
    assert TokenVerifier(keyring).connection(signer.sign({"sub": "ann"}), 0).user == "ann"
    await other.remove_api_key("other")
    await until(lambda: api_key_id(keyring, "thk_of_another") is None)
    await other.close()


async def test_an_edge_believes_on_while_auth_is_dead_and_follows_when_it_is_back(
    process: AuthProcess, stub: AuthServiceAsyncStub, client: AuthClient, keyring: KeyRing
) -> None:
    key = (await stub.CreateApiKey(pb.CreateApiKeyRequest(name="backend"))).key
    pair = await client.register("ann", PASSWORD, Caller())
    await until(lambda: api_key_id(keyring, key) is not None)
    process.kill()
    with pytest.raises(Unavailable):
        await client.login("ann", PASSWORD, Caller())
    believe = TokenVerifier(keyring)
    assert believe.connection(pair.access_token, time.time()).user == pair.user
    assert api_key_id(keyring, key) is not None
    assert client.is_ready
    other = SqliteAccounts(process.db)
    assert [await other.remove_api_key(row.id) for row in await other.api_keys()] == [True]
    await other.close()
    process.start()
    await until(lambda: api_key_id(keyring, key) is None, 20)
    assert (await client.refresh(pair.refresh_token, Caller())).user == pair.user


async def test_refusals_of_auth_are_told_as_http_tells_them(client: AuthClient) -> None:
    pair = await client.register("ann", PASSWORD, Caller())
    for call, status in (
        (partial(client.register, "Ann", PASSWORD, Caller()), 409),
        (partial(client.register, "a", PASSWORD, Caller()), 400),
        (partial(client.login, "ann", "wrong password", Caller()), 401),
        (partial(client.login, "ann", "x" * 1_025, Caller()), 400),
        (partial(client.refresh, "unknown", Caller()), 401),
    ):
        with pytest.raises(AccountRefused) as caught:
            await call()
        assert caught.value.status == status
    await client.logout(pair.refresh_token)
    await client.logout("unknown")
    with pytest.raises(AccountRefused):
        await client.refresh(pair.refresh_token, Caller())
    for _ in range(9):  # one failed above; ten are allowed
        with pytest.raises(AccountRefused):
            await client.login("ann", "wrong password", Caller())
    with pytest.raises(AccountRefused) as caught:
        await client.login("ann", PASSWORD, Caller())
    assert caught.value.status == 429
    assert 1 <= caught.value.retry_after_s <= 60


async def test_B33_whoever_is_no_service_of_ours_is_refused(process: AuthProcess, replicas: Replicas) -> None:
    for metadata in ((), (("authorization", "Bearer wrong"),)):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{process.port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await AuthServiceStub(channel).MintToken(pb.MintTokenRequest(user="ann"), metadata=metadata)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


CHANNEL_NAMES = ["chat:" + "x" * 1_020, "chat:a b", "chat:a}b", "chat:ü", "chat:a\n"]
WRONG = {
    "register-long-name": ("Register", pb.RegisterRequest(username="n" * 65, password=PASSWORD)),
    "register-no-name": ("Register", pb.RegisterRequest(password=PASSWORD)),
    "register-long-password": ("Register", pb.RegisterRequest(username="ann", password="p" * 1_025)),
    "register-long-peer": ("Register", pb.RegisterRequest(username="ann", password=PASSWORD, peer="p" * 256)),
    "login-long-name": ("Login", pb.LoginRequest(username="n" * 8_193, password=PASSWORD)),
    "login-long-password": ("Login", pb.LoginRequest(username="ann", password="p" * 1_025)),
    "login-long-peer": ("Login", pb.LoginRequest(username="ann", password=PASSWORD, peer="p" * 256)),
    "refresh-nothing": ("RefreshSession", pb.RefreshSessionRequest()),
    "refresh-long": ("RefreshSession", pb.RefreshSessionRequest(refresh_token="t" * 2_049)),
    "logout-nothing": ("Logout", pb.LogoutRequest()),
    "logout-long": ("Logout", pb.LogoutRequest(refresh_token="t" * 2_049)),
    "mint-long-user": ("MintToken", pb.MintTokenRequest(user="u" * 8_193)),
    "mint-token-too-long": ("MintToken", pb.MintTokenRequest(user="u" * 7_000)),
    "mint-ttl": ("MintToken", pb.MintTokenRequest(user="ann", ttl_s=2**32 - 1)),
    "mint-info": ("MintToken", pb.MintTokenRequest(user="ann", info=b"{")),
    "mint-info-deep": ("MintToken", pb.MintTokenRequest(user="ann", info=b"[" * 101 + b"]" * 101)),
    "mint-info-long-integer": ("MintToken", pb.MintTokenRequest(user="ann", info=b"9" * 310)),
    **{f"mint-channel-{n[:9]!r}": ("MintToken", pb.MintTokenRequest(channel=n)) for n in CHANNEL_NAMES},
    **{f"mint-channels-{n[:9]!r}": ("MintToken", pb.MintTokenRequest(channels=[n])) for n in ["", *CHANNEL_NAMES]},
    "key-no-name": ("CreateApiKey", pb.CreateApiKeyRequest()),
    "key-long-name": ("CreateApiKey", pb.CreateApiKeyRequest(name="n" * 65)),
    "revoke-nothing": ("RevokeApiKey", pb.RevokeApiKeyRequest()),
    "retire-nothing": ("RetireSigningKey", pb.RetireSigningKeyRequest()),
    "retire-long": ("RetireSigningKey", pb.RetireSigningKeyRequest(kid="k" * 65)),
    "revoke-long": ("RevokeApiKey", pb.RevokeApiKeyRequest(id="i" * 65)),
}


async def test_what_is_empty_too_long_or_no_name_is_refused_by_every_method(stub: AuthServiceAsyncStub) -> None:
    for name, (method, request) in WRONG.items():
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(stub, method)(request, timeout=60)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, name
        assert caught.value.details(), name


async def test_B36_nothing_secret_is_logged_even_when_everything_is(
    process: AuthProcess, stub: AuthServiceAsyncStub, client: AuthClient
) -> None:
    pair = await client.register("ann", PASSWORD, Caller())
    newer = await client.refresh(pair.refresh_token, Caller())
    with pytest.raises(AccountRefused):
        await client.login("ann", "planted-wrong-password", Caller())
    key = (await stub.CreateApiKey(pb.CreateApiKeyRequest(name="backend"))).key
    token = (await stub.MintToken(pb.MintTokenRequest(user="ann", ttl_s=60))).token
    said = process.said()
    assert "started" in said
    texts = (PASSWORD, "planted", pair.access_token, pair.refresh_token, newer.refresh_token, key, token, SERVICE_TOKEN)
    assert [text for text in texts if text in said] == []


async def test_a_change_that_comes_while_the_last_is_being_sent_is_not_missed() -> None:
    feed = TrustFeed()
    watching = AuthServicer(None, feed, None).Watch(pb.WatchRequest(), None)  # type: ignore[arg-type]  # not asked here
    assert (await anext(watching)).jwks == b""
    feed.set(pb.Trust(jwks=b"newer"))  # the generator waits for gRPC to have sent the first
    async with asyncio.timeout(30):
        assert (await anext(watching)).jwks == b"newer"


POLICY = Policy(
    access_ttl_s=600,
    refresh_ttl_s=600,
    issuer="",
    audience="",
    logins_per_account=3,
    attempts_per_address=0,
    limit_window_s=60,
    registration=RegistrationMode.OPEN,
)


class FailingOnce(SqliteAccounts):
    """Can't tell API keys as often as it is told not to."""

    failures = 0

    async def api_keys(self) -> list[ApiKeyRow]:
        if self.failures:
            self.failures -= 1
            raise Unavailable("planted")
        return await super().api_keys()


def reading(store: AccountStore) -> ReadTrust:
    """What auth reads of a store for edges."""
    return partial(read_trust, store, partial(load_signer, store, "EdDSA"), POLICY)


async def nothing_helps(error: Unavailable) -> None: ...


async def test_a_change_that_could_not_be_read_at_once_is_told_later(
    tmp_path: Path, redis_pipeline: RedisPipeline
) -> None:
    store = FailingOnce(tmp_path / "auth.sqlite3")
    passwords = Passwords(memory_kib=19_456, time_cost=2, threads=1)
    accounts = Accounts(store, RedisLimits(redis_pipeline), passwords, await load_signer(store, "EdDSA"), POLICY)
    feed, checks = TrustFeed(), {"store": True}
    following = asyncio.create_task(
        follow(
            store,
            accounts,
            feed,
            reading(store),
            checks,
            nothing_helps,
        )
    )
    await until(lambda: feed.trust.jwks)
    store.failures = 1
    row, _ = await accounts.create_api_key("backend")
    await until(lambda: [key.id for key in feed.trust.api_keys] == [row.id])
    following.cancel()
    passwords.close()
    await store.close()


async def test_edges_hear_that_the_id_of_a_deleted_user_is_no_longer_refused(
    tmp_path: Path, redis_pipeline: RedisPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time alone ends the refusal: nothing in the store changes."""
    monkeypatch.setattr("services.auth.__main__.REREAD_S", 0.5)
    store = SqliteAccounts(tmp_path / "auth.sqlite3")
    passwords = Passwords(memory_kib=19_456, time_cost=2, threads=1)
    accounts = Accounts(store, RedisLimits(redis_pipeline), passwords, await load_signer(store, "EdDSA"), POLICY)
    feed = TrustFeed()
    now = time.time()
    await store.users.delete("ann", now, now + 3)
    following = asyncio.create_task(
        follow(
            store,
            accounts,
            feed,
            reading(store),
            {"store": True},
            nothing_helps,
        )
    )
    await until(lambda: list(feed.trust.disabled_users) == [digest_of("ann")], 2.5)
    await until(lambda: not feed.trust.disabled_users)
    assert time.time() >= now + 3
    await end_task(following)
    passwords.close()
    await store.close()


async def test_tables_that_are_gone_are_made_anew_and_edges_get_other_keys(
    dynamodb: str, redis_pipeline: RedisPipeline
) -> None:
    settings = DynamoDbSettings(endpoint=dynamodb, table_prefix=f"{uuid.uuid4().hex}-", create_tables=True)
    db = DynamoDb(settings)
    await tables.create(db, settings)
    store = DynamoDbAccounts(db, settings.accounts_table)
    passwords = Passwords(memory_kib=19_456, time_cost=2, threads=1)
    accounts = Accounts(store, RedisLimits(redis_pipeline), passwords, await load_signer(store, "EdDSA"), POLICY)
    feed, checks = TrustFeed(), {"store": True}
    following = asyncio.create_task(
        follow(
            store,
            accounts,
            feed,
            reading(store),
            checks,
            lambda error: tables.remake(db, settings, error),
        )
    )
    await until(lambda: feed.trust.jwks)
    before = feed.trust.jwks
    await db.call("delete_table", TableName=settings.accounts_table)
    await until(lambda: feed.trust.jwks not in (b"", before))
    assert accounts.tokens.signer.jwks == feed.trust.jwks
    await until(lambda: checks["store"])
    await end_task(following)
    passwords.close()
    await db.close()
