"""Password hashing with Argon2id on a few threads.

Checking takes the same work whether the user exists or not.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from services.auth.metrics import HASH_SECONDS
from services.shared.errors import Busy

_MAX_WAITING = 200  # hashes that may run or wait at the same time
T = TypeVar("T")


class Passwords:
    """Hashes and checks passwords. Raises Busy instead of queueing without bound."""

    def __init__(self, *, memory_kib: int, time_cost: int, threads: int) -> None:
        self._hasher = PasswordHasher(time_cost=time_cost, memory_cost=memory_kib, parallelism=1)
        self._threads = ThreadPoolExecutor(threads, "argon2")
        self._waiting = 0
        self._dummy = self._hasher.hash(secrets.token_hex(16))

    async def hash(self, password: str) -> str:
        """Return the Argon2id string of a password.

        Raises:
            Busy: too many passwords wait already.
        """
        return await self._run(self._hasher.hash, password)

    async def matches(self, password: str, password_hash: str | None) -> bool:
        """Whether the password is right.

        `password_hash` None means that the user does not exist: the same work is done, and the result is False.

        Raises:
            Busy: too many passwords wait already.
        """
        if password_hash is None:
            await self._run(self._check, self._dummy, password)
            return False
        return await self._run(self._check, password_hash, password)

    def close(self) -> None:
        """Stop the threads without waiting for them."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _check(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, work: Callable[..., T], *arguments: str) -> T:
        if self._waiting >= _MAX_WAITING:
            raise Busy("too many passwords wait to be checked")
        self._waiting += 1
        started = time.perf_counter()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
        finally:
            self._waiting -= 1
            HASH_SECONDS.observe(time.perf_counter() - started)
