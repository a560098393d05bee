"""`AccountStore` on DynamoDB. See `docs/storage-accounts.md`.

There is one table; a change is one conditional write or one transaction. A request may be executed twice, or late,
after its response was lost. So each write recognises what it wrote before.
"""

from __future__ import annotations

import string
import uuid
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from services.auth.domain.ports import ApiKeyRow, EndedSession, NameTaken, Refresh, SigningKey, User
from services.shared.dynamodb.client import ConditionFailed, DynamoDb, item_of, values_of
from services.shared.dynamodb.tables import EXPIRY
from services.shared.errors import Unavailable

_API_KEYS = "api_keys"
_SIGNING_KEYS = "signing_keys"
_VERSION = ("version", "-")
_MAX_KEY_BYTES = 1_024  # longest sort key; a longer one was never written, and asking for it is an error
_ASCII_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)  # lower case as SQLite's NOCASE does it

Key = tuple[str, str]


class DynamoDbAccounts:
    """The store. Several processes may share the table."""

    def __init__(self, db: DynamoDb, table: str) -> None:
        """Take the client; makes no request."""
        self._db, self._table = db, table

    async def close(self) -> None:
        """Finish the running requests, then close the connections."""
        await self._db.close()

    async def add_user(self, user: User) -> None:
        profile = {"user_id": user.id, "username": user.username, "password_hash": user.password_hash}
        try:
            await self._transact(
                self._new(_user(user.id), profile, mark="password_hash"),
                self._new(_name(user.username), profile, mark="user_id"),
            )
        except ConditionFailed:
            raise NameTaken from None

    async def find_user(self, username: str) -> User | None:
        """Return the user of that name; None if there is none.

        Takes one request in both cases, so that the time taken reveals nothing.
        """
        return _as_user(await self._get(_name(username)))

    async def user_by_id(self, user_id: str) -> User | None:
        return _as_user(await self._get(_user(user_id)))

    async def add_refresh(self, digest: bytes, refresh: Refresh) -> bool:
        """Add a refresh token; see the interface.

        `expires_at` is stored in whole seconds, rounded down.
        """
        ends = int(refresh.expires_at)
        # The family is written before its tokens and expires after them, so a token without a family counts as revoked.
        later = "attribute_not_exists(expires_at) OR expires_at < :ends"
        await self._update(_family(refresh.family), "SET expires_at = :ends", {":ends": ends}, when=later)
        token = {"user_id": refresh.user_id, "family": refresh.family, EXPIRY: ends}
        try:
            await self._db.call(
                "put_item",
                TableName=self._table,
                Item=_item(_token(digest), token),
                ConditionExpression="attribute_not_exists(p)",  # a write that arrives late must not undo a use
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except ConditionFailed as there:  # added by an earlier attempt, or an earlier use of its predecessor
            return "seed" not in there.item
        return True

    async def use_refresh(self, digest: bytes, now: float, seed: bytes) -> Refresh | None:
        """Use a refresh token; see the interface.

        A token that has expired by `now` counts as unknown, whether or not it was removed yet.
        """
        found = await self._update(
            _token(digest),
            "SET seed = if_not_exists(seed, :seed)",
            {":seed": seed, ":now": int(now)},
            when="expires_at > :now",
        )
        if found is None:
            return None
        # Read after the seed was stored: a revocation before that is seen here, a later one by whoever adds the
        # successor.
        family = await self._get(_family(found["family"]))
        used = bool(found.get("used"))
        if used:
            await self._revoke(found["family"])
        revoked = family is None or bool(family.get("revoked"))
        return Refresh(found["user_id"], found["family"], float(found["expires_at"]), used, revoked, found["seed"])

    async def use_up_refresh(self, digest: bytes) -> None:
        await self._update(_token(digest), "SET used = :yes", {":yes": True}, when="attribute_exists(p)")

    async def revoke_family(self, digest: bytes) -> EndedSession | None:
        found = await self._get(_token(digest))
        if found is None:
            return None
        await self._revoke(found["family"])
        return EndedSession(found["user_id"], found["family"])

    async def add_api_key(self, key: ApiKeyRow) -> None:
        row = {"name": key.name, "sha256": key.sha256, "created_at": _number(key.created_at)}
        await self._change_keys(self._new((_API_KEYS, key.id), row, mark="sha256"))

    async def api_keys(self) -> list[ApiKeyRow]:
        rows = [
            ApiKeyRow(row["s"], row["name"], row["sha256"], float(row["created_at"]))
            for row in await self._all(_API_KEYS)
        ]
        return sorted(rows, key=lambda row: row.created_at)

    async def remove_api_key(self, key_id: str) -> bool:
        """Remove an API key; False if it does not exist.

        If several callers remove it at the same time, each may get True.
        """
        return await self._remove_key((_API_KEYS, key_id))

    async def _remove_key(self, key: Key) -> bool:
        if await self._get(key) is None:
            return False
        await self._change_keys({"Delete": {"TableName": self._table, "Key": _item(key)}})
        return True

    async def signing_keys(self) -> list[SigningKey]:
        rows = [
            SigningKey(row["s"], row["algorithm"], row["pem"], float(row["created_at"]))
            for row in await self._all(_SIGNING_KEYS)
        ]
        return sorted(rows, key=lambda row: row.created_at)

    async def add_signing_key(self, key: SigningKey) -> None:
        row = {"algorithm": key.algorithm, "pem": key.pem, "created_at": _number(key.created_at)}
        await self._change_keys(self._new((_SIGNING_KEYS, key.kid), row, mark="pem"))

    async def remove_signing_key(self, kid: str) -> bool:
        """Remove a signing key; False if it does not exist.

        As for API keys, several callers may get True.
        """
        return await self._remove_key((_SIGNING_KEYS, kid))

    async def version(self) -> int:
        found = await self._get(_VERSION)
        return int(found["changes"]) if found else 0

    async def _revoke(self, family: str) -> None:
        """Revoke a family. No effect if it is gone: its tokens count as revoked."""
        await self._update(_family(family), "SET revoked = :yes", {":yes": True}, when="attribute_exists(p)")

    async def _get(self, key: Key) -> dict[str, Any] | None:
        """Return an item by a strongly consistent read; None if it does not exist."""
        if not all(1 <= len(part.encode()) <= _MAX_KEY_BYTES for part in key):
            return None
        response = await self._db.call("get_item", TableName=self._table, Key=_item(key), ConsistentRead=True)
        return values_of(response["Item"]) if "Item" in response else None

    async def _all(self, partition: str) -> list[dict[str, Any]]:
        query = self._db.query(
            TableName=self._table,
            KeyConditionExpression="p = :p",
            ExpressionAttributeValues=item_of({":p": partition}),
            ConsistentRead=True,
        )
        return [values_of(item) async for item in query]

    async def _update(self, key: Key, update: str, values: Mapping[str, Any], *, when: str) -> dict[str, Any] | None:
        """Update an item and return it as it is afterwards; None if `when` does not hold."""
        try:
            response = await self._db.call(
                "update_item",
                TableName=self._table,
                Key=_item(key),
                UpdateExpression=update,
                ConditionExpression=when,
                ExpressionAttributeValues=item_of(values),
                ReturnValues="ALL_NEW",
            )
        except ConditionFailed:
            return None
        return values_of(response["Attributes"])

    def _new(self, key: Key, values: Mapping[str, Any], *, mark: str) -> dict[str, Any]:
        """Return a put that fails if another item is there.

        An item with the same `mark` was written by an earlier attempt of this call, and is replaced.
        """
        return {
            "Put": {
                "TableName": self._table,
                "Item": _item(key, values),
                "ConditionExpression": "attribute_not_exists(p) OR #mark = :mark",
                "ExpressionAttributeNames": {"#mark": mark},
                "ExpressionAttributeValues": item_of({":mark": values[mark]}),
            }
        }

    async def _change_keys(self, write: Mapping[str, Any]) -> None:
        """Write, and raise the version in the same transaction."""
        raise_version = {
            "TableName": self._table,
            "Key": _item(_VERSION),
            "UpdateExpression": "ADD changes :one",
            "ExpressionAttributeValues": item_of({":one": 1}),
        }
        try:
            await self._transact(write, {"Update": raise_version})
        except ConditionFailed as error:
            raise Unavailable("the account store has another key of that id") from error

    async def check_writable(self) -> None:
        """Do nothing: nobody can lock the table, and `version` has shown that it answers."""

    async def _transact(self, *writes: Mapping[str, Any]) -> None:
        # With the token DynamoDB drops an attempt that arrives late, after somebody else changed what this one wrote.
        await self._db.call("transact_write_items", TransactItems=list(writes), ClientRequestToken=str(uuid.uuid4()))


def _as_user(found: Mapping[str, Any] | None) -> User | None:
    return User(found["user_id"], found["username"], found["password_hash"]) if found else None


def _user(user_id: str) -> Key:
    return (f"user#{user_id}", "-")


def _name(username: str) -> Key:
    return (f"name#{username.translate(_ASCII_LOWER)}", "-")


def _token(digest: bytes) -> Key:
    return (f"refresh#{digest.hex()}", "-")


def _family(family: str) -> Key:
    return (f"family#{family}", "-")


def _item(key: Key, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the key attributes and the values as a DynamoDB item."""
    return item_of({"p": key[0], "s": key[1], **(values or {})})


def _number(value: float) -> Decimal:
    """Return a number that reads back as the same float: DynamoDB keeps 38 digits."""
    return Decimal(repr(value))
