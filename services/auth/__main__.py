"""Auth: reads its settings, wires, runs, stops gracefully."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os

from services.auth.adapters.redis_limits import RedisLimits
from services.auth.adapters.sqlite_accounts import SqliteAccounts
from services.auth.config import AuthConfig
from services.auth.domain.accounts import Accounts, Policy, load_signer
from services.auth.domain.passwords import Passwords
from services.auth.service import AuthServicer, TrustFeed
from services.shared.cancellation import end_task
from services.shared.config import read_env, read_secret_file
from services.shared.errors import Unavailable
from services.shared.grpc_server import start_grpc_server
from services.shared.internal_http import start_internal_http
from services.shared.lifecycle import run
from services.shared.logs import setup_logging
from services.shared.redis import redis_client
from thalamus.auth.v1 import auth_pb2 as pb
from thalamus.auth.v1 import auth_pb2_grpc as rpc

logger = logging.getLogger("services.auth")

_GRACE_S = 3.0
_POLL_S = 1.0  # another replica may have changed the keys


async def main(stopping: asyncio.Event) -> None:
    config = read_env(AuthConfig, os.environ, "AUTH_")
    setup_logging("auth", level=config.log_level)
    token = read_secret_file(config.service_token_file, "SERVICE_TOKEN_FILE") if config.service_token_file else None
    store = SqliteAccounts(config.db)
    client = redis_client(config.redis_url)
    passwords = Passwords(
        memory_kib=config.argon2_memory_kib, time_cost=config.argon2_time_cost, threads=config.hash_threads
    )
    accounts = Accounts(
        store,
        RedisLimits(client),
        passwords,
        await load_signer(store, config.signing_algorithm),
        Policy(
            access_ttl_s=config.access_ttl_s,
            refresh_ttl_s=config.refresh_ttl_s,
            issuer=config.issuer,
            audience=config.audience,
            logins_per_account=config.logins_per_account,
            attempts_per_address=config.attempts_per_address,
            limit_window_s=config.limit_window_s,
        ),
    )
    feed = TrustFeed()
    checks = {"store": False}
    await _refresh_trust(store, accounts, feed, config.signing_algorithm)
    checks["store"] = True
    internal = await start_internal_http(config.internal_host, config.internal_port, ready=lambda: checks)
    server = await start_grpc_server(
        lambda grpc: rpc.add_AuthServiceServicer_to_server(AuthServicer(accounts, feed), grpc),
        host=config.host,
        port=config.grpc_port,
        service_token=token,
        service="auth",
    )
    following = asyncio.create_task(follow(store, accounts, feed, config.signing_algorithm, checks))
    try:
        logger.info("started", extra={"grpc_port": server.port, "internal_port": internal.port})
        stopped = asyncio.create_task(stopping.wait())
        done, _ = await asyncio.wait([stopped, following], return_when=asyncio.FIRST_COMPLETED)
        if following in done:
            await following  # it never ends by itself: raise what ended it
        checks["stopping"] = False
        await server.stop(_GRACE_S)
    finally:
        await end_task(following)
        await internal.close()
        await client.aclose()
        passwords.close()
        await store.close()


async def _refresh_trust(store: SqliteAccounts, accounts: Accounts, feed: TrustFeed, algorithm: str) -> None:
    accounts.signer = await load_signer(store, algorithm)
    rows = await store.api_keys()
    feed.set(
        pb.Trust(jwks=accounts.signer.jwks, api_keys=[pb.ApiKeyDigest(sha256=row.sha256, id=row.id) for row in rows])
    )


async def follow(
    store: SqliteAccounts, accounts: Accounts, feed: TrustFeed, algorithm: str, checks: dict[str, bool]
) -> None:
    """Tell edges of changes at once, and of those that another replica made within a second."""
    version = -1
    while True:
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_S):
                    await accounts.changed.wait()
            current = await store.version()
            if accounts.changed.is_set() or current != version:
                accounts.changed.clear()
                version = current
                await _refresh_trust(store, accounts, feed, algorithm)
            checks["store"] = True
        except Unavailable:
            checks["store"] = False
            version = -1  # what changed has not been told
            await asyncio.sleep(_POLL_S)


if __name__ == "__main__":
    run(main, "auth")
