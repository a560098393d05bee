"""What a login costs tells nobody who has an account.

It never takes more threads than it may.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher

from services.auth.adapters.redis_limits import RedisLimits
from services.auth.adapters.sqlite_accounts import SqliteAccounts
from services.auth.config import AuthConfig
from services.auth.domain.accounts import Accounts
from services.auth.domain.passwords import Passwords
from services.auth.domain.refusals import Denied
from services.auth.domain.tokens import load_signer
from services.shared.redis.pipeline import RedisPipeline
from tests.auth.test_accounts import PASSWORD, POLICY
from tests.support.alike import assert_alike

SAMPLES = 40  # of a round


async def test_B17_an_unknown_user_takes_as_long_as_a_wrong_password(
    tmp_path: Path, redis_pipeline: RedisPipeline
) -> None:
    """Compare medians of samples that take turns, in CPU time.

    What others do on this machine does not count.
    """
    store = SqliteAccounts(tmp_path / "auth.sqlite3")
    passwords = Passwords(memory_kib=19_456, time_cost=2, threads=1)
    policy = replace(POLICY, logins_per_account=100 * SAMPLES, attempts_per_address=100 * SAMPLES)
    accounts = Accounts(store, RedisLimits(redis_pipeline), passwords, await load_signer(store, "EdDSA"), policy)
    await accounts.registration.register("ann", PASSWORD, "")

    async def once(name: str) -> float:
        started = time.process_time()
        with pytest.raises(Denied):
            await accounts.sessions.login(name, "wrong password", "192.0.2.1")
        return time.process_time() - started

    for name in ("ann", "nobody"):
        await once(name)  # warms up
    await assert_alike(once, "ann", "nobody", samples=SAMPLES)
    passwords.close()
    await store.close()


async def test_B18_passwords_are_hashed_with_argon2id_on_as_many_threads_as_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    default: dict[str, Any] = {one.name: one.default for one in fields(AuthConfig)}
    assert default["hash_threads"] == os.cpu_count()
    threads = 2  # whatever this machine has
    passwords = Passwords(
        memory_kib=default["argon2_memory_kib"], time_cost=default["argon2_time_cost"], threads=threads
    )
    assert (await passwords.hash(PASSWORD)).startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    lock, at_once, most = threading.Lock(), 0, 0
    verify = PasswordHasher.verify

    def counted(hasher: PasswordHasher, password_hash: str, password: str) -> Any:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        try:
            return verify(hasher, password_hash, password)
        finally:
            with lock:
                at_once -= 1

    monkeypatch.setattr(PasswordHasher, "verify", counted)
    assert not any(await asyncio.gather(*(passwords.matches(PASSWORD, None) for _ in range(4 * threads))))
    passwords.close()
    assert most == threads
