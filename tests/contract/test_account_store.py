"""What every `AccountStore` promises.

SQLite and DynamoDB, each seen by two processes that share it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from services.auth.adapters.dynamodb_accounts import DynamoDbAccounts
from services.auth.adapters.sqlite_accounts import SqliteAccounts
from services.auth.domain.ports import (
    AccountStore,
    ApiKeyRow,
    EndedSession,
    GrantRow,
    NameTaken,
    Refresh,
    SigningKey,
    User,
)
from services.shared.dynamodb.client import DynamoDb
from services.shared.dynamodb.settings import DynamoDbSettings
from tests.contract.invite_store import InviteStoreContract
from tests.contract.profile_changes import ProfileChangesContract
from tests.contract.user_store import UserStoreContract
from tests.support.dynamodb_tables import PATIENCE_S, OnDynamoDb, OnDynamoDbLocal

NOW = 1_000.0
ROUNDS = 8  # of each race, every one in another order
SEED = 20_260
T = TypeVar("T")


def token_of(family: str, expires_at: float = NOW + 60, seed: bytes = b"") -> Refresh:
    return Refresh("u1", family, expires_at, used=False, revoked=False, seed=seed)


async def spend(store: AccountStore, digest: bytes, seed: bytes = b"seed") -> Refresh:
    """As a client does that is given the successor."""
    found = await store.use_refresh(digest, NOW, seed)
    assert found is not None
    await store.use_up_refresh(digest)
    return found


async def at_once(order: random.Random, calls: Sequence[Awaitable[T]]) -> list[T | BaseException]:
    """Make all calls, in the order of the seed; the results in the order given."""
    numbers = order.sample(range(len(calls)), len(calls))
    results = await asyncio.gather(*(calls[number] for number in numbers), return_exceptions=True)
    return [result for _, result in sorted(zip(numbers, results, strict=True), key=lambda pair: pair[0])]


class AccountStoreContract:
    """Inherit, and give `store` and `other`: two objects on the same data."""

    async def test_names_are_found_and_taken_without_their_case(self, store: AccountStore, other: AccountStore) -> None:
        await store.add_user(User("u1", "Ann", "hash"))
        with pytest.raises(NameTaken):
            await other.add_user(User("u2", "aNN", "hash"))
        found = await other.find_user("ANN")
        assert found == User("u1", "Ann", "hash")
        assert await store.user_by_id("u1") == found
        assert await store.user_by_id("u2") is None
        assert await store.user_by_id("U1") is None

    @pytest.mark.parametrize("name", ["", "' OR 1=1 --", "an", "u1", "x" * 5_000, "\N{KELVIN SIGN}im"])
    async def test_a_name_that_nobody_has_finds_nobody(self, store: AccountStore, name: str) -> None:
        """Only the letters of ASCII are alike in both cases: the Kelvin sign is no `k`."""
        await store.add_user(User("u1", "Ann", "hash"))
        await store.add_user(User("u2", "kim", "hash"))
        assert await store.find_user(name) is None

    async def test_of_two_who_want_a_name_at_once_one_gets_it_and_the_other_leaves_nothing(
        self, store: AccountStore, other: AccountStore
    ) -> None:
        order = random.Random(SEED)
        for number in range(ROUNDS):
            users = [User(f"{number}-{place}", name + str(number), "h") for place, name in enumerate(("Bob", "bOB"))]
            results = await at_once(order, [store.add_user(users[0]), other.add_user(users[1])])
            assert sorted(type(result).__name__ for result in results) == ["NameTaken", "NoneType"], number
            winner, loser = users if results[0] is None else reversed(users)
            assert await store.find_user(f"bob{number}") == winner, number
            assert await store.user_by_id(loser.id) is None, number

    async def test_a_refresh_token_is_told_as_it_was_before_its_use(
        self, store: AccountStore, other: AccountStore
    ) -> None:
        await store.add_refresh(b"one", token_of("family"))
        assert await other.use_refresh(b"one", NOW, b"seed") == token_of("family", seed=b"seed")
        await other.use_up_refresh(b"one")
        again = await store.use_refresh(b"one", NOW, b"another")
        assert again is not None
        assert (again.used, again.revoked) == (True, False)
        for unknown in (b"unknown", b""):
            await store.use_up_refresh(unknown)
            assert await store.use_refresh(unknown, NOW, b"seed") is None

    async def test_until_it_is_used_up_each_use_gives_the_seed_of_the_first_and_ends_nothing(
        self, store: AccountStore, other: AccountStore
    ) -> None:
        await store.add_refresh(b"one", token_of("family"))
        for seed in (b"first", b"second", b"third"):
            assert await other.use_refresh(b"one", NOW, seed) == token_of("family", seed=b"first")

    async def test_a_token_that_is_added_again_is_as_it_was_and_whether_it_was_used_is_told(
        self, store: AccountStore, other: AccountStore
    ) -> None:
        assert await store.add_refresh(b"two", token_of("family"))
        assert await other.add_refresh(b"two", token_of("family"))
        assert await store.use_refresh(b"two", NOW, b"seed") == token_of("family", seed=b"seed")
        assert not await other.add_refresh(b"two", token_of("family"))
        await store.use_up_refresh(b"two")
        assert not await other.add_refresh(b"two", token_of("family"))
        again = await store.use_refresh(b"two", NOW, b"seed")
        assert again is not None
        assert again.used

    async def test_the_second_use_revokes_every_token_of_the_family_and_no_other(self, store: AccountStore) -> None:
        for digest, family in ((b"one", "a"), (b"two", "a"), (b"other", "b")):
            await store.add_refresh(digest, token_of(family))
        await spend(store, b"one")
        await store.use_refresh(b"one", NOW, b"seed")
        two, other = [await store.use_refresh(digest, NOW, b"seed") for digest in (b"two", b"other")]
        assert two is not None
        assert other is not None
        assert (two.revoked, other.revoked) == (True, False)
        assert not two.used

    @pytest.mark.parametrize("ended_by", ["reuse", "logout"])
    async def test_a_token_that_is_added_to_a_revoked_family_is_revoked_from_its_birth(
        self, store: AccountStore, ended_by: str
    ) -> None:
        """One request trades the token, another revokes its family meanwhile.

        The family is revoked before the first has stored what it traded for.
        """
        await store.add_refresh(b"one", token_of("family"))
        await spend(store, b"one")
        if ended_by == "reuse":
            await store.use_refresh(b"one", NOW, b"seed")
        else:
            await store.revoke_family(b"one")
        await store.add_refresh(b"two", token_of("family"))
        two = await store.use_refresh(b"two", NOW, b"seed")
        assert two is not None
        assert two.revoked

    async def test_logging_out_ends_one_family_and_an_unknown_token_none(self, store: AccountStore) -> None:
        for digest, family in ((b"one", "a"), (b"other", "b")):
            await store.add_refresh(digest, token_of(family))
        assert await store.revoke_family(b"unknown") is None
        for _ in range(2):  # whoever did not hear the answer asks again
            assert await store.revoke_family(b"one") == EndedSession("u1", "a")
        one, other = [await store.use_refresh(digest, NOW, b"seed") for digest in (b"one", b"other")]
        assert one is not None
        assert other is not None
        assert (one.revoked, other.revoked) == (True, False)
        assert not one.used

    async def test_an_expired_token_is_told_as_expired_or_not_at_all(self, store: AccountStore) -> None:
        await store.add_refresh(b"old", token_of("a", NOW))
        await store.add_refresh(b"new", token_of("b", NOW + 1))
        old, new = [await store.use_refresh(digest, NOW, b"seed") for digest in (b"old", b"new")]
        assert old is None or old.expires_at <= NOW
        assert new == token_of("b", NOW + 1, seed=b"seed")

    async def test_many_uses_at_once_get_the_same_seed_and_one_more_ends_the_family(
        self, store: AccountStore, other: AccountStore
    ) -> None:
        order = random.Random(SEED)
        for number in range(ROUNDS):
            digest, family = f"one{number}".encode(), f"family{number}"
            await store.add_refresh(digest, token_of(family))
            calls = [spend(by, digest, b"%d" % place) for by in (store, other) for place in range(3)]
            uses = [use for use in await at_once(order, calls) if isinstance(use, Refresh)]
            assert len(uses) == 6, number
            assert len({use.seed for use in uses}) == 1, number
            assert not all(use.used for use in uses), number
            assert (await spend(store, digest)).used, number
            await store.add_refresh(b"after" + digest, token_of(family))
            after = await other.use_refresh(b"after" + digest, NOW, b"seed")
            assert after is not None
            assert after.revoked, number

    @pytest.mark.parametrize("ended_by", ["reuse", "logout"])
    async def test_a_session_that_is_ended_while_it_rotates_is_ended(
        self, store: AccountStore, other: AccountStore, ended_by: str
    ) -> None:
        """Whichever comes first, no token of the family can be traded afterwards."""
        order = random.Random(SEED)

        async def rotate(number: int) -> None:
            found = await store.use_refresh(b"two%d" % number, NOW, b"seed")
            assert found is not None
            assert not found.used
            if not found.revoked:
                await store.add_refresh(b"three%d" % number, token_of(f"family{number}", NOW + 90))

        async def end(number: int) -> None:
            if ended_by == "logout":
                await other.revoke_family(b"one%d" % number)
            else:
                again = await other.use_refresh(b"one%d" % number, NOW, b"seed")
                assert again is not None
                assert again.used

        for number in range(ROUNDS):
            for name in (b"one%d", b"two%d"):
                await store.add_refresh(name % number, token_of(f"family{number}"))
            await spend(store, b"one%d" % number)
            assert await at_once(order, [rotate(number), end(number)]) == [None, None], number
            left = await other.use_refresh(b"three%d" % number, NOW, b"seed")
            assert left is None or left.revoked, number

    async def test_api_keys_are_listed_oldest_first_until_they_are_removed(
        self, store: AccountStore, other: AccountStore
    ) -> None:
        newer = ApiKeyRow("a", "backend", bytes(range(32)), NOW + 0.123456789)
        older = ApiKeyRow("b", "name", b"\xff" * 32, NOW)
        await store.add_api_key(newer)
        await other.add_api_key(older)
        assert await store.api_keys() == [older, newer]
        for unknown in ("unknown", "", "x" * 5_000):
            assert not await store.remove_api_key(unknown)
        assert await other.remove_api_key("b")
        assert not await store.remove_api_key("b")
        assert await store.api_keys() == [newer]

    async def test_scopes_expiry_and_last_use_of_api_keys_are_kept(
        self, store: AccountStore, other: AccountStore
    ) -> None:
        plain = ApiKeyRow("plain", "backend", b"1" * 32, NOW)
        scoped = ApiKeyRow("scoped", "backend", b"2" * 32, NOW + 1, ("history", "publish:chat"))
        expiring = ApiKeyRow("expiring", "backend", b"3" * 32, NOW + 2, (), NOW + 60.5)
        keys = [plain, scoped, expiring]
        for key in keys:
            await store.add_api_key(key)
        assert await other.api_keys() == keys
        before = await store.version(), await other.version()
        await store.note_api_key_uses({"plain": NOW + 10, "scoped": NOW + 11.25})
        await store.note_api_key_uses({"plain": NOW + 9, "scoped": NOW + 12})
        assert await store.api_keys() == [
            replace(plain, last_used_at=NOW + 10),
            replace(scoped, last_used_at=NOW + 12),
            expiring,
        ]
        assert await store.version() == before[0]
        for key in keys:
            assert await other.remove_api_key(key.id)
            assert not await store.remove_api_key(key.id)
        assert await store.api_keys() == []
        assert await store.version() != before[0]
        await store.note_api_key_uses({"plain": NOW + 20, "scoped": NOW + 20, "unknown": NOW})  # they came too late
        for key in (replace(plain, name="another"), scoped):  # nothing is left of the uses of before
            await store.add_api_key(key)
        assert await other.api_keys() == [replace(plain, name="another"), scoped]

    async def test_grants_are_kept_by_user_channel_and_operation(
        self, store: AccountStore, other: AccountStore
    ) -> None:
        rows = [
            GrantRow("chat:#a*", "publish", NOW + 0.125),
            GrantRow("chat:#a*", "subscribe"),
            GrantRow("private:a", "history", NOW - 5),
        ]
        await store.grants.give("ann", rows[::-1])
        await other.grants.give("Ann", [GrantRow("chat:#a*", "manage")])
        for one in (store, other):
            assert await one.grants.of("ann") == rows
            assert await one.grants.of("Ann") == [GrantRow("chat:#a*", "manage")]
            assert await one.grants.of("an") == []
        await other.grants.give("ann", [rows[0]._replace(expires_at=0.0)])
        assert (await store.grants.of("ann"))[0] == GrantRow("chat:#a*", "publish")
        await other.grants.take("ann", [GrantRow("chat:#a*", "publish"), GrantRow("nothing", "manage")])
        await other.grants.take("ann", [])
        assert await store.grants.of("ann") == rows[1:]

    async def test_a_hundred_grants_are_given_and_taken_at_once(self, store: AccountStore, other: AccountStore) -> None:
        rows = [GrantRow(f"private:{number:03}" + "x" * 240, "publish", NOW) for number in range(100)]
        await store.grants.give("u" * 255, rows)
        assert await other.grants.of("u" * 255) == rows
        await other.grants.take("u" * 255, rows)
        assert await store.grants.of("u" * 255) == []

    async def test_of_grants_given_and_taken_at_once_all_or_none_are_left(
        self, store: AccountStore, other: AccountStore
    ) -> None:
        order = random.Random(SEED)
        rows = [GrantRow(f"private:{number}", "publish") for number in range(20)]
        for number in range(ROUNDS):
            user = f"u{number}"
            calls = [store.grants.give(user, rows), other.grants.take(user, rows), store.grants.give(user, rows)]
            await at_once(order, calls)
            assert await other.grants.of(user) in ([], sorted(rows)), number

    async def test_signing_keys_are_listed_oldest_first(self, store: AccountStore, other: AccountStore) -> None:
        newer = SigningKey("a", "EdDSA", b"-----BEGIN\n\x00\xff", 1_795_000_000.654321)
        older = SigningKey("b", "RS256", b"pem", NOW)
        await store.add_signing_key(newer)
        await other.add_signing_key(older)
        assert await other.signing_keys() == [older, newer]
        assert await store.signing_keys() == [older, newer]

    async def test_a_signing_key_that_is_removed_is_gone_for_both(
        self, store: AccountStore, other: AccountStore
    ) -> None:
        kept, removed = (SigningKey(kid, "EdDSA", b"pem", NOW) for kid in ("kept", "removed"))
        await store.add_signing_key(kept)
        await store.add_signing_key(removed)
        for unknown in ("unknown", "", "x" * 5_000):
            assert not await store.remove_signing_key(unknown)
        assert await other.remove_signing_key("removed")
        assert not await store.remove_signing_key("removed")
        assert await store.signing_keys() == await other.signing_keys() == [kept]

    async def test_the_version_changes_with_every_change_of_keys_by_another(
        self, store: AccountStore, other: AccountStore
    ) -> None:
        changes: list[Callable[[], Awaitable[object]]] = [
            lambda: other.add_api_key(ApiKeyRow("id", "backend", b"digest", NOW)),
            lambda: other.remove_api_key("id"),
            lambda: other.add_signing_key(SigningKey("kid", "EdDSA", b"pem", NOW)),
            lambda: other.remove_signing_key("kid"),
        ]
        for change in changes:
            before = await store.version()
            assert await store.version() == before
            await change()
            assert await store.version() != before

    async def test_keys_that_are_added_at_once_are_all_there(self, store: AccountStore, other: AccountStore) -> None:
        rows = [ApiKeyRow(f"id{number}", "backend", b"%d" % number, NOW + number) for number in range(8)]
        calls = [(store, other)[number % 2].add_api_key(row) for number, row in enumerate(rows)]
        assert await at_once(random.Random(SEED), calls) == [None] * 8
        assert await store.api_keys() == rows


class TestSqliteAccounts(AccountStoreContract, UserStoreContract, ProfileChangesContract, InviteStoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[AccountStore]:
        made = SqliteAccounts(tmp_path / "auth.sqlite3")
        yield made
        await made.close()

    @pytest.fixture
    async def other(self, store: AccountStore, tmp_path: Path) -> AsyncIterator[AccountStore]:
        made = SqliteAccounts(tmp_path / "auth.sqlite3")
        yield made
        await made.close()


class Turns:
    """Lets calls of several clients through one at a time.

    Which is next is the choice of a seed: a race repeats.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._waiting: list[asyncio.Future[None]] = []
        self._is_taken = False

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        self._choose_soon()
        await mine
        try:
            yield
        finally:
            self._is_taken = False
            self._choose_soon()

    def _choose_soon(self) -> None:
        """Once whoever had the last turn has had the time to ask for another."""
        asyncio.get_running_loop().call_soon(self._choose)

    def _choose(self) -> None:
        if self._waiting and not self._is_taken:
            self._is_taken = True
            self._waiting.pop(self._random.randrange(len(self._waiting))).set_result(None)


class InTurns(DynamoDb):
    def __init__(self, settings: DynamoDbSettings, turns: Turns) -> None:
        super().__init__(settings, deadline_s=PATIENCE_S)
        self._turns = turns

    async def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        async with self._turns.turn():
            return await super().call(op, **arguments)


class TestDynamoDbAccounts(
    OnDynamoDb, AccountStoreContract, UserStoreContract, ProfileChangesContract, InviteStoreContract
):
    @pytest.fixture
    def turns(self) -> Turns:
        return Turns(SEED)

    @pytest.fixture
    async def store(self, settings: DynamoDbSettings, turns: Turns) -> AsyncIterator[AccountStore]:
        db = InTurns(settings, turns)
        yield DynamoDbAccounts(db, settings.accounts_table)
        await db.close()

    @pytest.fixture
    async def other(self, store: AccountStore, settings: DynamoDbSettings, turns: Turns) -> AsyncIterator[AccountStore]:
        db = InTurns(settings, turns)
        yield DynamoDbAccounts(db, settings.accounts_table)
        await db.close()


class TestDynamoDbLocalAccounts(OnDynamoDbLocal, TestDynamoDbAccounts):
    """In a container, where an engine runs."""
