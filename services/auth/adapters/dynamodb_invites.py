"""`InviteStore` on DynamoDB, in the table of `DynamoDbAccounts`.

An invite is an item `invites`, `<SHA-256 of the code, hex>`. The registration that uses it writes its user id there, so
that a repetition of that registration is no second use; time to live removes the item.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from services.auth.adapters.dynamodb_table import AccountsTable, Key, item_at, number
from services.auth.domain.ports import Invite
from services.shared.dynamodb.client import ConditionFailed, item_of
from services.shared.dynamodb.tables import EXPIRY

_INVITES = "invites"


class DynamoDbInvites(AccountsTable):
    """The store. Several processes may share the table."""

    async def add(self, invite: Invite, now: float) -> None:
        values = {
            "note": invite.note,
            "created_at": number(invite.created_at),
            "good_until": number(invite.expires_at),
            EXPIRY: int(invite.expires_at) + 1,
        }
        with contextlib.suppress(ConditionFailed):  # an earlier attempt has written it, and perhaps it is used since
            await self._db.call(
                "put_item",
                TableName=self._table,
                Item=item_at(_key(invite.sha256), values),
                ConditionExpression="attribute_not_exists(p)",
            )

    async def all(self, now: float) -> list[Invite]:
        return [_invite(item) for item in await self._all(_INVITES) if _is_good(item, now)]

    async def is_good(self, sha256: bytes, now: float) -> bool:
        item = await self._get(_key(sha256))
        return item is not None and _is_good(item, now)

    async def remove(self, sha256: bytes) -> bool:
        """Mark an invite as revoked; see the interface.

        True also if another call has just done so.
        """
        unused = "attribute_exists(p) AND attribute_not_exists(used_by)"
        return await self._update(_key(sha256), "SET revoked = :yes", {":yes": True}, when=unused) is not None

    def use(self, sha256: bytes, user_id: str, now: float) -> dict[str, Any]:
        """Return a write that uses up an invite; it fails if that is not good."""
        return {
            "Update": {
                "TableName": self._table,
                "Key": item_at(_key(sha256)),
                "UpdateExpression": "SET used_by = :user",
                "ConditionExpression": "good_until > :now AND attribute_not_exists(revoked)"
                " AND (attribute_not_exists(used_by) OR used_by = :user)",
                "ExpressionAttributeValues": item_of({":user": user_id, ":now": number(now)}),
            }
        }


def _key(sha256: bytes) -> Key:
    return (_INVITES, sha256.hex())


def _is_good(item: Mapping[str, Any], now: float) -> bool:
    return "used_by" not in item and "revoked" not in item and item["good_until"] > Decimal(repr(now))


def _invite(item: Mapping[str, Any]) -> Invite:
    return Invite(bytes.fromhex(item["s"]), item["note"], float(item["created_at"]), float(item["good_until"]))
