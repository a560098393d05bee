"""What only the accounts on DynamoDB have.

Answers that are lost, items that expire, and what each call costs.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from botocore.exceptions import ReadTimeoutError

from services.auth.adapters.dynamodb_accounts import DynamoDbAccounts
from services.auth.domain.ports import ApiKeyRow, Invite, NameTaken, NoInvite, Refresh, SigningKey, User
from services.auth.domain.user_ports import SessionRecord
from services.shared.dynamodb import tables
from services.shared.dynamodb.client import DynamoDb, item_of, values_of
from services.shared.errors import Unavailable
from tests.support.dynamodb import CREDENTIALS, dynamodb_server, settings_of
from tests.support.dynamodb_faults import Shares, dynamodb_faults
from tests.support.faults import free_port

NOW = 1_000.0
ANN = User("u1", "Ann", "hash")
API_KEY = ApiKeyRow("id1", "backend", b"digest", NOW)
SCOPED_KEY = ApiKeyRow("id9", "backend", b"digest 9", NOW, ("publish",))
SIGNING_KEY = SigningKey("kid1", "EdDSA", b"pem", NOW)


class Unsteady(DynamoDb):
    """Counts what it sends, and loses the next answer of the operation in `lose`.

    The operation is executed.
    """

    lose = ""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.sent: list[str] = []

    def _once(self, op: str, arguments: dict[str, Any]) -> dict[str, Any]:
        self.sent.append(op)
        reply = super()._once(op, arguments)
        if op == self.lose:
            self.lose = ""
            raise ReadTimeoutError(endpoint_url="of a test")
        return reply


class Table:
    """A store, its connection, and a look at its items past the store."""

    def __init__(self, db: Unsteady, name: str) -> None:
        self.db, self.name = db, name
        self.store = DynamoDbAccounts(db, name)

    async def items(self) -> dict[str, dict[str, Any]]:
        """By partition and sort key, joined by a slash."""
        reply = await self.db.call("scan", TableName=self.name, ConsistentRead=True)
        return {f"{item['p']}/{item['s']}": item for item in map(values_of, reply["Items"])}

    async def expire(self, partition: str) -> None:
        """As DynamoDB does once `expires_at` has passed."""
        await self.db.call("delete_item", TableName=self.name, Key=item_of({"p": partition, "s": "-"}))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as environment, dynamodb_server() as address:
        for name, value in CREDENTIALS.items():
            environment.setenv(name, value)
        yield address


@pytest.fixture
async def table(address: str) -> AsyncIterator[Table]:
    settings = settings_of(address, f"{uuid.uuid4().hex}-")
    db = Unsteady(settings)
    await tables.create(db, settings)
    db.sent.clear()
    yield Table(db, settings.accounts_table)
    await db.close()


@pytest.fixture
def store(table: Table) -> DynamoDbAccounts:
    return table.store


def token_of(family: str, expires_at: float = NOW + 60, seed: bytes = b"") -> Refresh:
    return Refresh("u1", family, expires_at, used=False, revoked=False, seed=seed)


async def spend(store: DynamoDbAccounts, digest: bytes) -> None:
    """As a client does that is given the successor."""
    await store.use_refresh(digest, NOW, b"seed")
    await store.use_up_refresh(digest)


async def test_a_registration_whose_answer_was_lost_does_not_find_its_own_name_taken(table: Table) -> None:
    table.db.lose = "transact_write_items"
    await table.store.add_user(ANN)
    assert table.db.sent == ["transact_write_items"] * 2
    assert await table.store.find_user("ann") == ANN
    with pytest.raises(NameTaken):
        await table.store.add_user(User("u2", "ann", "hash of another"))


async def test_a_registration_whose_answer_was_lost_does_not_find_its_own_invite_used(table: Table) -> None:
    await table.store.invites.add(Invite(b"code", "", NOW, NOW + 60), NOW)
    table.db.lose = "transact_write_items"
    await table.store.add_user(ANN, NOW, b"code")
    assert table.db.sent == ["put_item"] + ["transact_write_items"] * 2
    with pytest.raises(NoInvite):
        await table.store.add_user(User("u2", "bob", "hash of another"), NOW, b"code")


async def test_a_use_whose_answer_was_lost_is_still_the_first(table: Table) -> None:
    await table.store.add_refresh(b"one", token_of("family"))
    table.db.lose = "update_item"
    assert await table.store.use_refresh(b"one", NOW, b"seed") == token_of("family", seed=b"seed")
    await table.store.add_refresh(b"two", token_of("family"))
    assert await table.store.use_refresh(b"two", NOW, b"seed") == token_of("family", seed=b"seed")


async def test_a_reuse_whose_answers_are_lost_still_ends_the_family(table: Table) -> None:
    for digest in (b"one", b"two"):
        await table.store.add_refresh(digest, token_of("family"))
    await spend(table.store, b"one")
    table.db.lose = "update_item"
    again = await table.store.use_refresh(b"one", NOW, b"seed")
    assert again is not None
    assert again.used
    two = await table.store.use_refresh(b"two", NOW, b"seed")
    assert two is not None
    assert two.revoked


@pytest.mark.parametrize("op", ["update_item", "put_item"])
async def test_a_token_is_added_once_although_an_answer_was_lost(table: Table, op: str) -> None:
    table.db.lose = op
    await table.store.add_refresh(b"one", token_of("family"))
    assert table.db.sent.count(op) == 2
    assert await table.store.use_refresh(b"one", NOW, b"seed") == token_of("family", seed=b"seed")


async def test_an_adding_that_arrives_after_the_use_does_not_undo_it(store: DynamoDbAccounts) -> None:
    await store.add_refresh(b"one", token_of("family"))
    await spend(store, b"one")
    await store.add_refresh(b"one", token_of("family"))
    again = await store.use_refresh(b"one", NOW, b"seed")
    assert again is not None
    assert again.used


async def test_changes_of_keys_whose_answers_were_lost_are_made_once(table: Table) -> None:
    for change in (table.store.add_api_key(API_KEY), table.store.add_signing_key(SIGNING_KEY)):
        table.db.lose = "transact_write_items"
        await change
    assert await table.store.api_keys() == [API_KEY]
    assert await table.store.signing_keys() == [SIGNING_KEY]
    table.db.lose = "transact_write_items"
    assert await table.store.remove_api_key(API_KEY.id)
    assert await table.store.api_keys() == []


async def test_a_key_of_another_with_the_same_id_is_not_replaced(store: DynamoDbAccounts) -> None:
    await store.add_api_key(API_KEY)
    before = await store.version()
    with pytest.raises(Unavailable):
        await store.add_api_key(ApiKeyRow(API_KEY.id, "another", b"another", NOW))
    assert await store.api_keys() == [API_KEY]
    assert await store.version() == before


async def test_tokens_and_families_have_a_time_to_be_removed_and_nothing_else_has(table: Table) -> None:
    await table.store.add_user(ANN)
    await table.store.add_refresh(b"\xab", token_of("family", NOW + 60.7))
    await table.store.add_api_key(API_KEY)
    await table.store.add_signing_key(SIGNING_KEY)
    expiring = {key: item["expires_at"] for key, item in (await table.items()).items() if "expires_at" in item}
    assert expiring == {"refresh#ab/-": NOW + 60, "family#family/-": NOW + 60}  # whole seconds
    told = await table.db.call("describe_time_to_live", TableName=table.name)
    assert told["TimeToLiveDescription"]["AttributeName"] == "expires_at"


async def test_a_family_is_kept_as_long_as_its_last_token(table: Table) -> None:
    for digest, ends in ((b"\x01", 60), (b"\x02", 90), (b"\x03", 70)):  # clocks of replicas differ
        await table.store.add_refresh(digest, token_of("family", NOW + ends))
    assert (await table.items())["family#family/-"]["expires_at"] == NOW + 90


async def test_a_token_whose_family_was_removed_is_as_revoked(table: Table) -> None:
    await table.store.add_refresh(b"one", token_of("family"))
    await table.expire("family#family")
    found = await table.store.use_refresh(b"one", NOW, b"seed")
    assert found is not None
    assert found.revoked
    await table.store.revoke_family(b"one")
    assert "family#family/-" not in await table.items()  # nothing would ever remove it


async def test_an_expired_token_that_was_not_removed_yet_is_as_unknown(store: DynamoDbAccounts) -> None:
    await store.add_refresh(b"old", token_of("family", NOW + 1))
    await store.add_refresh(b"new", token_of("family"))
    assert await store.use_refresh(b"old", NOW + 0.9, b"seed")
    assert await store.use_refresh(b"old", NOW + 1, b"seed") is None
    assert await store.use_refresh(b"new", NOW + 1, b"seed") == token_of("family", seed=b"seed")


@pytest.mark.parametrize(
    ("call", "requests"),
    [
        ("add_user", {"transact_write_items": 1}),
        ("add_user with an invite", {"transact_write_items": 1}),
        ("add_invite", {"put_item": 1}),
        ("invites", {"query": 1}),
        ("is_good", {"get_item": 1}),
        ("revoke_invite", {"update_item": 1}),
        ("find_user", {"get_item": 1}),
        ("user_by_id", {"get_item": 1}),
        ("add_refresh", {"update_item": 1, "put_item": 1}),
        ("use_refresh", {"update_item": 1, "get_item": 1}),
        ("use_refresh again", {"update_item": 2, "get_item": 1}),
        ("use_up_refresh", {"update_item": 1}),
        ("revoke_family", {"get_item": 1, "update_item": 1}),
        ("add_api_key", {"transact_write_items": 1}),
        ("add_api_key with scopes", {"transact_write_items": 1}),
        ("api_keys", {"query": 3}),
        ("note_api_key_uses", {"get_item": 1, "transact_write_items": 1}),
        ("remove_api_key", {"get_item": 1, "transact_write_items": 1}),
        ("remove_api_key with scopes", {"get_item": 2, "transact_write_items": 1}),
        ("signing_keys", {"query": 1}),
        ("add_signing_key", {"transact_write_items": 1}),
        ("remove_signing_key", {"get_item": 1, "transact_write_items": 1}),
        ("version", {"get_item": 1}),
    ],
)
async def test_a_call_makes_as_many_requests_as_the_documentation_says(
    table: Table, call: str, requests: dict[str, int]
) -> None:
    store = table.store
    await store.add_user(User("u2", "Bob", "hash"))
    await store.invites.add(Invite(b"code", "", NOW, NOW + 60), NOW)
    for digest in (b"one", b"used"):
        await store.add_refresh(digest, token_of("family"))
    await spend(store, b"used")
    await store.add_api_key(ApiKeyRow("id2", "backend", b"digest 2", NOW))
    await store.add_api_key(ApiKeyRow("id3", "backend", b"digest 3", NOW, ("publish",)))
    await store.add_signing_key(SigningKey("kid2", "EdDSA", b"pem 2", NOW))
    calls = {
        "add_user": lambda: store.add_user(ANN),
        "add_user with an invite": lambda: store.add_user(ANN, NOW, b"code"),
        "add_invite": lambda: store.invites.add(Invite(b"code 2", "", NOW, NOW + 60), NOW),
        "invites": lambda: store.invites.all(NOW),
        "is_good": lambda: store.invites.is_good(b"code", NOW),
        "revoke_invite": lambda: store.invites.remove(b"code"),
        "find_user": lambda: store.find_user("bob"),
        "user_by_id": lambda: store.user_by_id("u2"),
        "add_refresh": lambda: store.add_refresh(b"two", token_of("family")),
        "use_refresh": lambda: store.use_refresh(b"one", NOW, b"seed"),
        "use_refresh again": lambda: store.use_refresh(b"used", NOW, b"seed"),
        "use_up_refresh": lambda: store.use_up_refresh(b"one"),
        "revoke_family": lambda: store.revoke_family(b"one"),
        "add_api_key": lambda: store.add_api_key(API_KEY),
        "add_api_key with scopes": lambda: store.add_api_key(SCOPED_KEY),
        "api_keys": store.api_keys,
        "note_api_key_uses": lambda: store.note_api_key_uses({"id2": NOW}),
        "remove_api_key": lambda: store.remove_api_key("id2"),
        "remove_api_key with scopes": lambda: store.remove_api_key("id3"),
        "signing_keys": store.signing_keys,
        "add_signing_key": lambda: store.add_signing_key(SIGNING_KEY),
        "remove_signing_key": lambda: store.remove_signing_key("kid2"),
        "version": store.version,
    }
    table.db.sent.clear()
    await calls[call]()
    assert {op: table.db.sent.count(op) for op in table.db.sent} == requests


async def test_the_uses_of_keys_are_noted_side_by_side(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, the last ones came too late: edges wait 2.8 s."""
    ids = [f"id{number}" for number in range(20)]
    for key_id in ids:
        await table.store.add_api_key(ApiKeyRow(key_id, "backend", key_id.encode(), NOW))
    all_there, ask = asyncio.Barrier(len(ids)), table.db.call

    async def call(op: str, **arguments: Any) -> dict[str, Any]:
        if op == "transact_write_items":
            await all_there.wait()
        return await ask(op, **arguments)

    monkeypatch.setattr(table.db, "call", call)
    async with asyncio.timeout(30):
        await table.store.note_api_key_uses(dict.fromkeys(ids, NOW + 5))
    assert {row.last_used_at for row in await table.store.api_keys()} == {NOW + 5}


async def test_what_a_batch_leaves_is_read_again(address: str) -> None:
    """Every answer has a part of what was asked for; the choice is by a seed."""
    users = [f"user{number}" for number in range(100)]
    with dynamodb_faults(address, seed=7) as faults:
        settings = settings_of(faults.address, f"parts-{uuid.uuid4().hex[:8]}-")
        db = DynamoDb(settings, deadline_s=20.0)  # moto runs a hundred transactions one after another
        await tables.create(db, settings)
        store = DynamoDbAccounts(db, settings.accounts_table)
        await store.users.add_users(users, NOW)
        faults.begin(7, Shares(unprocessed=1.0))
        assert set(await store.users.get_many(users)) == set(users)
        assert faults.requests["BatchGetItem"] > 3 + 3
        assert faults.faults["unprocessed"] > 3
        await store.close()


async def test_a_table_that_is_gone_is_a_store_that_is_away(address: str) -> None:
    settings = settings_of(address, "nobody-made-")
    store = DynamoDbAccounts(DynamoDb(settings), settings.accounts_table)
    with pytest.raises(Unavailable, match="no such table"):
        await store.version()
    await store.close()


@pytest.mark.usefixtures("address")  # for its credentials
async def test_every_call_raises_unavailable_while_dynamodb_is_away() -> None:
    settings = settings_of(f"http://127.0.0.1:{free_port()}")
    store = DynamoDbAccounts(DynamoDb(settings, deadline_s=0.2), settings.accounts_table)
    for call in (
        store.add_user(ANN),
        store.find_user("ann"),
        store.add_refresh(b"one", token_of("family")),
        store.use_refresh(b"one", NOW, b"seed"),
        store.use_up_refresh(b"one"),
        store.revoke_family(b"one"),
        store.add_api_key(API_KEY),
        store.api_keys(),
        store.remove_api_key("id1"),
        store.note_api_key_uses({"id1": NOW}),
        store.signing_keys(),
        store.remove_signing_key("kid"),
        store.version(),
    ):
        with pytest.raises(Unavailable):
            await call
    await store.close()


async def test_a_session_of_before_is_over_once_all_sessions_have_ended(table: Table) -> None:
    """An auth of before began sessions without a note of them."""
    users = table.store.users
    await table.store.add_refresh(b"stolen", Refresh("u1", "of-before", NOW + 900, used=False, revoked=False))
    await table.store.add_refresh(b"mine", Refresh("u1", "kept", NOW + 900, used=False, revoked=False))
    assert not await users.is_over("u1", "of-before")
    assert await users.end_all("u1", "kept", NOW, NOW + 60) == []
    await users.note_session(SessionRecord("u1", "later", NOW + 1, NOW + 1, NOW + 900))
    await users.note_session(SessionRecord("u1", "of-before", 0.0, NOW + 1, NOW + 900))  # a use of it at that moment
    found = {family: await users.is_over("u1", family) for family in ("of-before", "kept", "later")}
    assert found == {"of-before": True, "kept": False, "later": False}
    assert not await users.is_over("u2", "of-before")


async def test_a_list_of_users_gets_past_a_partition_of_more_than_a_page(table: Table) -> None:
    users = table.store.users
    agent = "x" * 3_000
    for start in range(0, 500, 10):
        notes = (
            SessionRecord("ann", f"{number:024x}", NOW, NOW, NOW + 900, "", agent)
            for number in range(start, start + 10)
        )
        await asyncio.gather(*map(users.note_session, notes))
    for number in range(5):
        await users.add_users([f"u{number}"], NOW)
    found: list[str] = []
    after = ""
    for _ in range(20):
        page, after = await users.page(after, 2)
        found += [user.id for user in page]
        if not after:
            break
    assert sorted(found) == [f"u{number}" for number in range(5)]
    assert not after
