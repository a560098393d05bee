"""Trading refresh tokens on a DynamoDB that fails at any request.

No session ends by it; a reuse still ends one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.auth.adapters.dynamodb_accounts import DynamoDbAccounts
from services.auth.adapters.redis_limits import RedisLimits
from services.auth.domain import sessions as rules
from services.auth.domain.accounts import Accounts
from services.auth.domain.passwords import Passwords
from services.auth.domain.refusals import Denied
from services.auth.domain.sessions import Pair
from services.auth.domain.tokens import load_signer
from services.shared.dynamodb import tables
from services.shared.dynamodb.client import ConditionFailed, DynamoDb
from services.shared.errors import Unavailable
from services.shared.redis.pipeline import RedisPipeline
from tests.auth.test_accounts import POLICY
from tests.support.dynamodb import settings_of

REQUESTS = 8  # of a trade, the last of which uses the token up; beside it one more notes when the session was used


class Failing(DynamoDb):
    """Fails the request with a number, which may be executed, or never answers it."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.begin(0)

    def begin(self, at: int, *, carried_out: bool = False, slow: bool = False) -> None:
        """Counted from now; 0: never."""
        self.requests, self._at, self._carried_out, self._slow = 0, at, carried_out, slow

    async def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        self.requests += 1
        if self.requests != self._at:
            return await super().call(op, **arguments)
        if self._carried_out:
            with contextlib.suppress(ConditionFailed):
                await super().call(op, **arguments)
        if self._slow:
            await asyncio.Event().wait()
        raise Unavailable("by the test")


class Auth:
    def __init__(self, db: Failing, table: str, accounts: Accounts) -> None:
        self.db, self.table, self.accounts = db, table, accounts

    async def begin(self) -> Pair:
        return await self.accounts.registration.register(f"ann-{uuid.uuid4().hex[:8]}", "correct horse battery", "")

    async def is_ended(self, *pairs: Pair) -> bool:
        """Whether none of these can be traded."""
        for pair in pairs:
            try:
                await self.accounts.sessions.refresh(pair.refresh_token)
            except Denied:
                continue
            return False
        return True


@pytest.fixture
async def auth(dynamodb: str, redis_pipeline: RedisPipeline) -> AsyncIterator[Auth]:
    settings = settings_of(dynamodb, f"{uuid.uuid4().hex}-")
    db = Failing(settings)
    await tables.create(db, settings)
    store = DynamoDbAccounts(db, settings.accounts_table)
    passwords = Passwords(memory_kib=19_456, time_cost=2, threads=1)
    signer = await load_signer(store, "EdDSA")
    accounts = Accounts(store, RedisLimits(redis_pipeline), passwords, signer, POLICY, time.time)
    yield Auth(db, settings.accounts_table, accounts)
    passwords.close()
    await db.close()


async def test_a_trade_takes_as_many_requests_as_the_tests_below_break(auth: Auth) -> None:
    pair = await auth.begin()
    auth.db.begin(0)
    await auth.accounts.sessions.refresh(pair.refresh_token)
    assert auth.db.requests == REQUESTS + 1


@pytest.mark.parametrize("carried_out", [False, True])
@pytest.mark.parametrize("at", range(1, REQUESTS))
async def test_whichever_request_fails_the_token_is_as_good_as_before(auth: Auth, at: int, carried_out: bool) -> None:
    first = await auth.begin()
    for _ in range(2):  # also a second time
        auth.db.begin(at, carried_out=carried_out)
        with pytest.raises(Unavailable):
            await auth.accounts.sessions.refresh(first.refresh_token)
    second = await auth.accounts.sessions.refresh(first.refresh_token)
    third = await auth.accounts.sessions.refresh(second.refresh_token)
    assert len({first.refresh_token, second.refresh_token, third.refresh_token}) == 3
    assert await auth.is_ended(first, second, third), "a reuse was not noticed"


@pytest.mark.parametrize("carried_out", [False, True])
@pytest.mark.parametrize("slow", [False, True])
async def test_a_token_that_could_not_be_used_up_was_traded_and_its_reuse_is_noticed_once_the_successor_was_used(
    auth: Auth, carried_out: bool, slow: bool
) -> None:
    first = await auth.begin()
    auth.db.begin(REQUESTS, carried_out=carried_out, slow=slow)
    second = await auth.accounts.sessions.refresh(first.refresh_token)
    if not carried_out:
        assert (await auth.accounts.sessions.refresh(first.refresh_token)).refresh_token == second.refresh_token
        first = await auth.begin()
        auth.db.begin(REQUESTS, carried_out=False)
        second = await auth.accounts.sessions.refresh(first.refresh_token)
    third = await auth.accounts.sessions.refresh(second.refresh_token)
    with pytest.raises(Denied) as denied:
        await auth.accounts.sessions.refresh(first.refresh_token)
    assert denied.value.ended is not None, "edges are not told to close its connections"
    assert await auth.is_ended(first, third)


async def test_a_store_that_is_too_slow_costs_time_and_no_session(auth: Auth, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "_TRADE_S", 0.2)
    first = await auth.begin()
    for at in range(1, REQUESTS):
        auth.db.begin(at, carried_out=True, slow=True)
        with pytest.raises(Unavailable, match="too slow"):
            await auth.accounts.sessions.refresh(first.refresh_token)
    monkeypatch.undo()
    bounds_s = rules._TRADE_S + rules._USE_UP_S  # noqa: SLF001  # the bounds themselves are what matters here
    assert bounds_s < 2.5, "edges wait 2.8 s, and answers travel"
    auth.db.begin(0)
    second = await auth.accounts.sessions.refresh(first.refresh_token)
    assert await auth.accounts.sessions.refresh(second.refresh_token)


async def test_who_repeats_while_the_answer_is_under_way_gets_the_same_successor(auth: Auth) -> None:
    first = await auth.begin()
    pairs = await asyncio.gather(
        *(auth.accounts.sessions.refresh(first.refresh_token) for _ in range(3)), return_exceptions=True
    )
    assert len({pair.refresh_token for pair in pairs if isinstance(pair, Pair)}) == 1
    assert await auth.is_ended(first)


async def test_what_is_in_the_store_does_not_give_a_successor_away(auth: Auth) -> None:
    """Neither the token alone, nor all items without it: the text is made of both."""
    first = await auth.begin()
    second = await auth.accounts.sessions.refresh(first.refresh_token)
    scanned = await auth.db.call("scan", TableName=auth.table, ConsistentRead=True)
    assert second.refresh_token not in str(scanned)
    guessed = rules._successor(first.refresh_token, bytes(32))  # noqa: SLF001  # as a thief would, without the secret
    assert guessed != second.refresh_token
