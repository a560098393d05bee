"""`AccountStore` on DynamoDB. See `docs/storage-accounts.md`.

There is one table; a change is one conditional write or one transaction. A request may be executed twice, or late,
after its response was lost. So each write recognises what it wrote before.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

from services.auth.adapters.dynamodb_grants import DynamoDbGrants
from services.auth.adapters.dynamodb_invites import DynamoDbInvites
from services.auth.adapters.dynamodb_table import (
    AccountsTable,
    Key,
    family_key,
    item_at,
    name_key,
    number,
    user_key,
)
from services.auth.adapters.dynamodb_users import DynamoDbUsers
from services.auth.domain.ports import ApiKeyRow, EndedSession, NameTaken, NoInvite, Refresh, SigningKey, User
from services.shared.dynamodb.client import ConditionFailed, DynamoDb, item_of
from services.shared.dynamodb.tables import EXPIRY

_API_KEYS = "api_keys"
_SCOPED_API_KEYS = "scoped_api_keys"
_API_KEY_USES = "api_key_uses"
_SIGNING_KEYS = "signing_keys"


class DynamoDbAccounts(AccountsTable):
    """The store. Several processes may share the table."""

    def __init__(self, db: DynamoDb, table: str) -> None:
        """Take the client; makes no request."""
        super().__init__(db, table)
        self.users = DynamoDbUsers(db, table)
        self.grants = DynamoDbGrants(db, table)
        self.invites = DynamoDbInvites(db, table)

    async def close(self) -> None:
        """Finish the running requests, then close the connections."""
        await self._db.close()

    async def add_user(self, user: User, now: float = 0.0, invite: bytes = b"") -> None:
        profile = {
            "user_id": user.id,
            "username": user.username,
            "password_hash": user.password_hash,
            "created_at": number(now),
        }
        try:
            await self._transact(
                self._new(user_key(user.id), profile, mark="password_hash"),
                self._new(name_key(user.username), profile, mark="user_id"),
                *([self.invites.use(invite, user.id, now)] if invite else []),
            )
        except ConditionFailed:
            if invite and not await self.invites.is_good(invite, now):  # it did not fail for the name alone
                raise NoInvite from None
            raise NameTaken from None

    async def find_user(self, username: str) -> User | None:
        """Return the user of that name; None if there is none.

        Takes one request in both cases, so that the time taken reveals nothing.
        """
        return _as_user(await self._get(name_key(username)))

    async def user_by_id(self, user_id: str) -> User | None:
        return _as_user(await self._get(user_key(user_id)))

    async def add_refresh(self, digest: bytes, refresh: Refresh) -> bool:
        """Add a refresh token; see the interface.

        `expires_at` is stored in whole seconds, rounded down.
        """
        ends = int(refresh.expires_at)
        # The family is written before its tokens and expires after them, so a token without a family counts as revoked.
        later = "attribute_not_exists(expires_at) OR expires_at < :ends"
        await self._update(family_key(refresh.family), "SET expires_at = :ends", {":ends": ends}, when=later)
        token = {"user_id": refresh.user_id, "family": refresh.family, EXPIRY: ends}
        try:
            await self._db.call(
                "put_item",
                TableName=self._table,
                Item=item_at(_token(digest), token),
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
        family = await self._get(family_key(found["family"]))
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
        row = {"name": key.name, "sha256": key.sha256, "created_at": number(key.created_at)}
        partition = _API_KEYS
        if key.is_limited:  # where services of before, which would take it for a key without limits, don't look
            partition = _SCOPED_API_KEYS
            row |= {"scopes": " ".join(key.scopes), "expires": number(key.expires_at)}
        await self._change_keys(self._new((partition, key.id), row, mark="sha256"))

    async def api_keys(self) -> list[ApiKeyRow]:
        found = [*await self._all(_API_KEYS), *await self._all(_SCOPED_API_KEYS)]
        uses = {row["s"]: float(row["used_at"]) for row in await self._all(_API_KEY_USES)}
        rows = [
            ApiKeyRow(
                row["s"],
                row["name"],
                row["sha256"],
                float(row["created_at"]),
                tuple(row.get("scopes", "").split()),
                float(row.get("expires", 0)),
                uses.get(row["s"], 0.0),
            )
            for row in found
        ]
        return sorted(rows, key=lambda row: row.created_at)

    async def remove_api_key(self, key_id: str) -> bool:
        """Remove an API key; False if it does not exist.

        If several callers remove it at the same time, each may get True.
        """
        use = (_API_KEY_USES, key_id)
        return await self._remove_key((_API_KEYS, key_id), use) or await self._remove_key(
            (_SCOPED_API_KEYS, key_id), use
        )

    async def note_api_key_uses(self, uses: Mapping[str, float]) -> None:
        await asyncio.gather(*(self._note_api_key_use(key_id, at) for key_id, at in uses.items()))

    async def _note_api_key_use(self, key_id: str, at: float) -> None:
        is_limited = await self._get((_API_KEYS, key_id)) is None
        update = {
            "TableName": self._table,
            "Key": item_at((_API_KEY_USES, key_id)),
            "UpdateExpression": "SET used_at = :at",
            "ConditionExpression": "attribute_not_exists(used_at) OR used_at < :at",
            "ExpressionAttributeValues": item_of({":at": number(at)}),
        }
        is_there = {
            "TableName": self._table,
            "Key": item_at((_SCOPED_API_KEYS if is_limited else _API_KEYS, key_id)),
            "ConditionExpression": "attribute_exists(p)",
        }
        with contextlib.suppress(ConditionFailed):  # a later use is known, or the key was revoked meanwhile
            await self._transact({"Update": update}, {"ConditionCheck": is_there})

    async def _remove_key(self, key: Key, *more: Key) -> bool:
        """Remove an item, and `more` with it; False if it does not exist."""
        if await self._get(key) is None:
            return False
        await self._change_keys(*({"Delete": {"TableName": self._table, "Key": item_at(one)}} for one in (key, *more)))
        return True

    async def signing_keys(self) -> list[SigningKey]:
        rows = [
            SigningKey(row["s"], row["algorithm"], row["pem"], float(row["created_at"]))
            for row in await self._all(_SIGNING_KEYS)
        ]
        return sorted(rows, key=lambda row: row.created_at)

    async def add_signing_key(self, key: SigningKey) -> None:
        row = {"algorithm": key.algorithm, "pem": key.pem, "created_at": number(key.created_at)}
        await self._change_keys(self._new((_SIGNING_KEYS, key.kid), row, mark="pem"))

    async def remove_signing_key(self, kid: str) -> bool:
        """Remove a signing key; False if it does not exist.

        As for API keys, several callers may get True.
        """
        return await self._remove_key((_SIGNING_KEYS, kid))

    async def version(self) -> int:
        return await self._version()

    async def _revoke(self, family: str) -> None:
        """Revoke a family. No effect if it is gone: its tokens count as revoked."""
        await self._update(family_key(family), "SET revoked = :yes", {":yes": True}, when="attribute_exists(p)")

    async def check_writable(self) -> None:
        """Do nothing: nobody can lock the table, and `version` has shown that it answers."""


def _as_user(found: Mapping[str, Any] | None) -> User | None:
    return User(found["user_id"], found["username"], found["password_hash"]) if found else None


def _token(digest: bytes) -> Key:
    return (f"refresh#{digest.hex()}", "-")
