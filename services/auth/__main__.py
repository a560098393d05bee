"""Auth: reads its settings, connects its parts, runs, and stops gracefully."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from grpc.aio import Server

from services.auth.adapters.redis_limits import RedisLimits
from services.auth.adapters.sqlite_accounts import SqliteAccounts
from services.auth.config import AuthConfig
from services.auth.domain.accounts import Accounts
from services.auth.domain.passwords import Passwords
from services.auth.domain.policy import Policy, RegistrationMode
from services.auth.domain.ports import AccountStore
from services.auth.domain.profile_changes import ProfileChanges
from services.auth.domain.signing import Signer
from services.auth.domain.signing_keys import SigningKeys
from services.auth.domain.tokens import load_signer
from services.auth.service import AuthServicer, TrustFeed
from services.auth.user_service import UserServicer
from services.shared.checks import MAX_TIME_S
from services.shared.dynamodb.settings import DynamoDbSettings
from services.shared.errors import Unavailable
from services.shared.process.cancellation import end_task
from services.shared.process.internal_http import start_internal_http
from services.shared.process.lifecycle import until_stopped
from services.shared.process.variables import read_checked_env
from services.shared.process.waiting import once_store_answers
from services.shared.redis.client import MayNotAsk, check_server, redis_client
from services.shared.redis.pipeline import RedisPipeline
from services.shared.startup.grpc_server import GRACE_S, serve_grpc
from services.shared.startup.service import run_service
from thalamus.auth.v1 import auth_pb2 as pb
from thalamus.auth.v1 import auth_pb2_grpc as rpc
from thalamus.auth.v1 import users_pb2_grpc as users_rpc

logger = logging.getLogger("services.auth")

REREAD_S = 60.0  # longest time until the state of edges is read again, seconds: some of it ends by time
_POLL_S = 1.0  # pause between two looks at the store, seconds: another replica may have changed the keys


async def main(config: AuthConfig, stopping: asyncio.Event) -> None:
    """Run auth until `stopping` is set or a background task fails."""
    tokens = config.service_tokens()
    checks = {"store": False}
    async with contextlib.AsyncExitStack() as open_things:
        store, prepare, remake = _open_store(config)
        open_things.push_async_callback(store.close)
        client = RedisPipeline(address := config.redis_address())
        open_things.push_async_callback(client.aclose)
        passwords = Passwords(
            memory_kib=config.argon2_memory_kib, time_cost=config.argon2_time_cost, threads=config.hash_threads
        )
        open_things.callback(passwords.close)
        internal = await start_internal_http(config.internal_host, config.internal_port, ready=lambda: checks)
        open_things.push_async_callback(internal.close)
        policy = _policy(config)
        load = partial(load_signer, store, config.signing_algorithm, config.key_overlap_s)
        read = partial(read_trust, store, load, policy)
        asking = asyncio.create_task(once_store_answers(lambda: _first_known(prepare, read)))
        await until_stopped(stopping, asking)
        if not asking.done():
            await end_task(asking)
            return
        signer, trust = asking.result()
        checks["store"] = True
        accounts = Accounts(store, RedisLimits(client), passwords, signer, policy)
        feed = TrustFeed()
        feed.set(trust)
        signing_keys = SigningKeys(
            store,
            accounts.changed,
            algorithm=config.signing_algorithm,
            overlap_s=config.key_overlap_s,
            access_ttl_s=config.access_ttl_s,
        )
        changes = ProfileChanges(store.users)
        servicer = AuthServicer(accounts, feed, signing_keys)

        def add(grpc: Server) -> None:
            rpc.add_AuthServiceServicer_to_server(servicer, grpc)
            users_rpc.add_UserServiceServicer_to_server(UserServicer(accounts, changes), grpc)

        server = await serve_grpc("auth", config, tokens, add)
        following = asyncio.create_task(follow(store, accounts, feed, read, checks, remake))
        looking = asyncio.create_task(look_for_changes(changes))
        checking = asyncio.create_task(_check_redis(address))
        open_things.push_async_callback(end_task, checking)
        open_things.push_async_callback(end_task, following)
        open_things.push_async_callback(end_task, looking)
        logger.info("started", extra={"grpc_port": server.port, "internal_port": internal.port})
        await until_stopped(stopping, following, checking, looking)
        checks["stopping"] = False
        await server.stop(GRACE_S)


Remake = Callable[[Unavailable], Awaitable[None]]
LoadSigner = Callable[[], Awaitable[Signer]]  # reads the keys in the store
ReadTrust = Callable[[], Awaitable[tuple[Signer, pb.Trust]]]  # reads all that edges are told


class ClosableStore(AccountStore, Protocol):
    """An account store that holds files or connections until it is closed."""

    async def close(self) -> None: ...


def _open_store(config: AuthConfig) -> tuple[ClosableStore, Callable[[], Awaitable[None]], Remake]:
    """Return the store, its preparation, and its repair after a loss.

    The preparation must have succeeded before the store is asked anything. Makes no request to DynamoDB.
    """
    if config.store == "sqlite":
        return SqliteAccounts(config.db), _nothing, _nothing
    from services.auth.adapters.dynamodb_accounts import DynamoDbAccounts  # importing boto3 takes half a second
    from services.shared.dynamodb import tables
    from services.shared.dynamodb.client import DynamoDb

    settings = read_checked_env(DynamoDbSettings, os.environ, "DYNAMODB_")
    db = DynamoDb(settings)
    table = settings.accounts_table
    return (
        DynamoDbAccounts(db, table),
        lambda: tables.prepare(db, settings, table),
        lambda error: tables.remake(db, settings, error),
    )


async def _nothing(*_: object) -> None: ...


def _policy(config: AuthConfig) -> Policy:
    return Policy(
        access_ttl_s=config.access_ttl_s,
        refresh_ttl_s=config.refresh_ttl_s,
        issuer=config.issuer,
        audience=config.audience,
        logins_per_account=config.logins_per_account,
        attempts_per_address=config.attempts_per_address,
        limit_window_s=config.limit_window_s,
        registration=RegistrationMode(config.registration),
        password_min_length=config.password_min_length,
        sessions_per_user=config.sessions_per_user,
        insert_unknown_users=config.insert_unknown_users,
    )


async def _check_redis(address: str) -> None:
    """Check the Redis server once it answers; then wait until cancelled.

    Auth works without Redis, but not with a server whose version or settings it can't work with.

    Raises:
        ConfigError: it is such a server.
    """
    async with redis_client(address, max_connections=1) as client:
        while True:
            try:
                await check_server(client)
                break
            except MayNotAsk:  # an ACL file of an earlier version lacks that right
                break
            except Unavailable:
                await asyncio.sleep(_POLL_S)
    await asyncio.Event().wait()


async def _first_known(prepare: Callable[[], Awaitable[None]], read: ReadTrust) -> tuple[Signer, pb.Trust]:
    """Prepare the store and read what it holds.

    Raises:
        ConfigError: the DynamoDB table does not exist.
        Unavailable: the store does not answer.
    """
    await prepare()
    return await read()


async def read_trust(store: AccountStore, load: LoadSigner, policy: Policy) -> tuple[Signer, pb.Trust]:
    """Read the signer and the trust state of edges from the store."""
    signer = await load()
    version = await store.users.disabled_version()  # before the list, which then has every change up to it
    disabled = await store.users.disabled(time.time())
    rows = await store.api_keys()
    return signer, pb.Trust(
        jwks=signer.jwks,
        api_keys=[pb.ApiKeyDigest(sha256=row.sha256, id=row.id) for row in rows if not row.is_limited],
        scoped_api_keys=[
            pb.ApiKeyDigest(
                sha256=row.sha256,
                id=row.id,
                scopes=row.scopes,
                expires_at=min(int(row.expires_at), MAX_TIME_S),  # keys of before had no bound
            )
            for row in rows
            if row.is_limited
        ],
        has_disabled_users=True,
        disabled_version=version,
        disabled_users=disabled,
        wants_users=policy.insert_unknown_users,
        registration=policy.registration,
    )


async def follow(
    store: AccountStore,
    accounts: Accounts,
    feed: TrustFeed,
    read: ReadTrust,
    checks: dict[str, bool],
    remake: Remake,
) -> None:
    """Send key changes to edges.

    Changes of this process are sent at once, those of another replica within a second. While the store does not answer,
    edges keep what they know, and tokens are signed with the keys known last.
    """
    version, read_at = -1, 0.0
    loop = asyncio.get_running_loop()
    while True:
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_S):
                    await accounts.changed.wait()
            current = await store.version()
            if accounts.changed.is_set() or current != version or loop.time() >= read_at + REREAD_S:
                accounts.changed.clear()
                version, read_at = current, loop.time()
                accounts.tokens.signer, trust = await read()
                feed.set(trust)
            await store.check_writable()  # last: a replica that can't write still tells edges of the keys
            _say_whether_it_answers(checks, None)
        except Unavailable as error:
            await remake(error)
            _say_whether_it_answers(checks, error)
            version = -1  # read everything again: changes may have been missed
            await asyncio.sleep(_POLL_S)


async def look_for_changes(changes: ProfileChanges) -> None:
    """Look every second which profiles were changed, also by other replicas."""
    while True:
        with contextlib.suppress(Unavailable):  # `follow` says so
            await changes.look()
        await asyncio.sleep(_POLL_S)


def _say_whether_it_answers(checks: dict[str, bool], error: Unavailable | None) -> None:
    answers = error is None
    if answers and not checks["store"]:
        logger.info("the store answers again")
    elif not answers and checks["store"]:
        logger.warning("not ready: the store does not answer", extra={"error": str(error)})
    checks["store"] = answers


if __name__ == "__main__":
    run_service("auth", AuthConfig, main)
