"""`UserStore` on DynamoDB, in the table of accounts: docs/storage-accounts.md.

User ids may be any text, also longer than a key may be: keys have a digest of them instead.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from services.auth.adapters.dynamodb_profile_changes import ProfileChangesTable
from services.auth.adapters.dynamodb_table import Key, family_key, item_at, name_key, user_key
from services.auth.adapters.dynamodb_table import number as decimal
from services.auth.domain.user_ports import Profile, SessionRecord, UserRecord
from services.shared.dynamodb.client import ConditionFailed, item_of, values_of
from services.shared.dynamodb.tables import EXPIRY
from services.shared.errors import Unavailable
from services.shared.process.backoff import Backoff
from services.shared.user_digest import digest_of

_DISABLED = "disabled"
_GET_AT_ONCE = 100  # most keys of one BatchGetItem
_BATCHES = 10  # most BatchGetItem for the keys that one of them left
_PAUSE_S = (0.02, 0.5)  # first and longest pause before what was left is read, seconds
_MAX_ACCOUNT_ID_BYTES = 64  # ids that auth makes are shorter; a longer one has no password


class DynamoDbUsers(ProfileChangesTable):
    """The store. Several processes may share the table."""

    async def get(self, user_id: str) -> UserRecord | None:
        return (await self.get_many([user_id])).get(user_id)

    async def get_many(self, user_ids: Collection[str]) -> dict[str, UserRecord]:
        keys = [key for user_id in user_ids for key in _keys_of(user_id)]
        items = await self._batch_get(keys)
        found = {}
        for user_id in user_ids:
            account, profile, disabled = (
                items.get(key) for key in (user_key(user_id), _profile(user_id), _disabled(user_id))
            )
            if account is not None or profile is not None:
                found[user_id] = _record(user_id, account or {}, profile or {}, disabled or {})
        return found

    async def page(self, after: str, limit: int) -> tuple[list[UserRecord], str]:
        """Return some users; see the interface. Reads at most 1 MiB of the table."""
        more = {"ExclusiveStartKey": item_at(_decoded(after))} if after else {}
        response = await self._db.call(
            "scan",
            TableName=self._table,
            FilterExpression="begins_with(p, :user) OR (begins_with(p, :profile) AND is_foreign = :yes)",
            ExpressionAttributeValues=item_of({":user": "user#", ":profile": "profile#", ":yes": True}),
            **more,
        )
        items = [values_of(item) for item in response.get("Items", [])]
        last = values_of(response["LastEvaluatedKey"]) if "LastEvaluatedKey" in response else None
        if len(items) > limit:
            items = items[:limit]
            last = items[-1]
        records = await self.get_many([item["user_id"] for item in items])
        return list(records.values()), _encoded((last["p"], last["s"])) if last else ""

    async def add_users(self, user_ids: Collection[str], now: float) -> None:
        known = await self.get_many(user_ids)
        unknown = [user_id for user_id in user_ids if user_id not in known]
        await asyncio.gather(*(self._add(user_id, now, self._not_deleted(user_id, now)) for user_id in unknown))

    async def add_seen(self, names: Mapping[str, str], now: float) -> None:
        known = await self.get_many(names)
        unknown = {user_id: name for user_id, name in names.items() if user_id not in known}
        await asyncio.gather(
            *(
                self._add(user_id, now, self._check_refusal(user_id, now), display_name=name)
                for user_id, name in unknown.items()
            )
        )

    async def _add(self, user_id: str, now: float, check: Mapping[str, Any], **profile: str) -> None:
        """Add a user of another login server, unless there is one or `check` fails."""
        values = {"user_id": user_id, "created_at": decimal(now), "is_foreign": True, **profile}
        put = {
            "TableName": self._table,
            "Item": item_at(_profile(user_id), values),
            "ConditionExpression": "attribute_not_exists(p)",
        }
        with contextlib.suppress(ConditionFailed):
            await self._transact({"Put": put}, check)

    def _not_deleted(self, user_id: str, now: float) -> dict[str, Any]:
        """Return a check that the user was not deleted, or is not refused any more."""
        return self._check_refusal(user_id, now, or_if="attribute_exists(user_id)")

    def _check_refusal(self, user_id: str, now: float, *, or_if: str = "") -> dict[str, Any]:
        """Return a check that the user is not refused, or that `or_if` holds."""
        conditions = ["attribute_not_exists(p)", *([or_if] if or_if else []), "expires_at <= :now"]
        check = {
            "TableName": self._table,
            "Key": item_at(_disabled(user_id)),
            "ConditionExpression": " OR ".join(conditions),
            "ExpressionAttributeValues": item_of({":now": decimal(now)}),
        }
        return {"ConditionCheck": check}

    async def put_profile(self, user_id: str, profile: Profile, now: float) -> bool:
        values: dict[str, Any] = {
            "user_id": user_id,
            "display_name": profile.display_name,
            "avatar_url": profile.avatar_url,
            "status": profile.status,
            "custom": profile.custom,
            "hidden": profile.hidden,
            "version": profile.version,
        }
        begins = {"is_foreign": True, "created_at": decimal(now)}
        if profile.version == 1 and await self._account(user_id) is not None:
            begins = {}
        sets = [f"#{name} = :{name}" for name in values] + [
            f"{name} = if_not_exists({name}, :{name})" for name in begins
        ]
        is_before = "attribute_not_exists(#version)" if profile.version == 1 else "#version = :before"
        update: dict[str, Any] = {
            "TableName": self._table,
            "Key": item_at(_profile(user_id)),
            "UpdateExpression": "SET " + ", ".join(sets),
            "ConditionExpression": is_before,
            "ExpressionAttributeNames": {f"#{name}": name for name in values},
            "ExpressionAttributeValues": item_of(
                {f":{name}": value for name, value in (values | begins).items()}
                | ({} if profile.version == 1 else {":before": profile.version - 1})
            ),
        }
        note = self._note_of_change(user_id, profile.version, now)
        # The first one may make the item, also beside a deletion.
        check = [self._not_deleted(user_id, now)] if profile.version == 1 else []
        if not check:
            update["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
        try:
            await self._transact({"Update": update}, note, *check)
        except ConditionFailed as there:  # also where an earlier attempt was executed and its response lost
            is_there = values_of(there.parts.get(0, {}))
            return bool(is_there) and all(is_there.get(name) == value for name, value in values.items())
        return True

    async def is_disabled(self, user_id: str, now: float) -> bool:
        found = await self._get(_disabled(user_id))
        return found is not None and _is_refused(found, now)

    async def disable(self, user_id: str, now: float) -> None:
        item = {"user_id": user_id, "disabled_at": decimal(now)}
        put = {
            "TableName": self._table,
            "Item": item_at(_disabled(user_id), item),
            "ConditionExpression": "attribute_not_exists(p) OR expires_at <= :now",
            "ExpressionAttributeValues": item_of({":now": decimal(now)}),
        }
        await self._change_disabled({"Put": put})

    async def enable(self, user_id: str) -> None:
        delete = {
            "TableName": self._table,
            "Key": item_at(_disabled(user_id)),
            "ConditionExpression": "attribute_exists(user_id)",
        }
        await self._change_disabled({"Delete": delete})

    async def disabled(self, now: float) -> list[bytes]:
        items = await self._all(_DISABLED)
        return [bytes.fromhex(item["s"]) for item in items if _is_refused(item, now)]

    async def disabled_version(self) -> int:
        return await self._version()

    async def delete(self, user_id: str, now: float, refused_until: float) -> None:
        await self.end_all(user_id, "", now, now)
        account = await self._account(user_id)
        keys = [_profile(user_id), *([user_key(user_id), name_key(account["username"])] if account else [])]
        refused = {"disabled_at": decimal(now), EXPIRY: int(refused_until)}
        await self._change_disabled(
            {"Put": {"TableName": self._table, "Item": item_at(_disabled(user_id), refused)}},
            *({"Delete": {"TableName": self._table, "Key": item_at(key)}} for key in keys),
        )
        partition = _sessions(user_id)
        left = [(partition, item["s"]) for item in await self._all(partition)]
        await asyncio.gather(
            *(self._db.call("delete_item", TableName=self._table, Key=item_at(key)) for key in (*left, _over(user_id)))
        )

    async def set_password(self, user_id: str, password_hash: str, old_hash: str) -> bool:
        account = await self._account(user_id)
        if account is None:
            return False
        values = {":new": password_hash, ":old": old_hash}
        update = {
            "TableName": self._table,
            "UpdateExpression": "SET password_hash = :new",
            # what is there already was written by an earlier attempt
            "ConditionExpression": "password_hash = :old OR password_hash = :new",
            "ExpressionAttributeValues": item_of(values),
        }
        keys = (user_key(user_id), name_key(account["username"]))
        try:
            await self._transact(*({"Update": {**update, "Key": item_at(key)}} for key in keys))
        except ConditionFailed:
            return False
        return True

    async def note_session(self, session: SessionRecord) -> None:
        values = {
            "user_id": session.user_id,
            "refreshed_at": decimal(session.refreshed_at),
            "peer": session.peer,
            "user_agent": session.user_agent,
            EXPIRY: int(session.expires_at),
        }
        sets = [f"{name} = :{name}" for name in values]
        await self._update(
            (_sessions(session.user_id), session.family),
            "SET " + ", ".join([*sets, "begun_at = if_not_exists(begun_at, :begun_at)"]),
            {f":{name}": value for name, value in values.items()} | {":begun_at": decimal(session.begun_at)},
            when="attribute_not_exists(p) OR attribute_exists(p)",
        )

    async def sessions(self, user_id: str, now: float) -> list[SessionRecord]:
        items = await self._all(_sessions(user_id))
        families = await self._batch_get([family_key(item["s"]) for item in items])
        found = []
        for item in items:
            family = families.get(family_key(item["s"]))
            if item.get("ended") or family is None or family.get("revoked") or float(item[EXPIRY]) <= now:
                continue
            begun_at, refreshed_at, expires_at = (float(item[name]) for name in ("begun_at", "refreshed_at", EXPIRY))
            found.append(
                SessionRecord(user_id, item["s"], begun_at, refreshed_at, expires_at, item["peer"], item["user_agent"])
            )
        return sorted(found, key=lambda session: (session.refreshed_at, session.family), reverse=True)

    async def end_sessions(self, user_id: str, families: Sequence[str], until: float) -> list[str]:
        partition = _sessions(user_id)
        ours = await self._batch_get([(partition, family) for family in families])
        ended = [family for family in families if (partition, family) in ours]
        await asyncio.gather(*(self._end(partition, family, until) for family in ended))
        return ended

    async def _end(self, partition: str, family: str, until: float) -> None:
        await self._update(family_key(family), "SET revoked = :yes", {":yes": True}, when="attribute_exists(p)")
        await self._update(
            (partition, family),
            "SET ended = :yes, expires_at = :until",
            {":yes": True, ":until": math.ceil(until)},
            when="attribute_exists(p)",
        )

    async def end_all(self, user_id: str, kept: str, now: float, until: float) -> list[str]:
        # First: a session that was begun by an auth of before is over, and is noted at the earliest when it is used.
        await self._update(
            _over(user_id), "SET kept = :kept", {":kept": kept}, when="attribute_not_exists(p) OR kept <> :kept"
        )
        before = [family for family in await self.ended(user_id, now) if family != kept]
        live = [session.family for session in await self.sessions(user_id, now) if session.family != kept]
        return [*await self.end_sessions(user_id, live, until), *before]

    async def ended(self, user_id: str, now: float) -> list[str]:
        items = await self._all(_sessions(user_id))
        return [item["s"] for item in items if item.get("ended") and float(item[EXPIRY]) > now]

    async def is_over(self, user_id: str, family: str) -> bool:
        over = await self._get(_over(user_id))
        if over is None or over["kept"] == family:
            return False
        noted = await self._get((_sessions(user_id), family))
        return noted is None or not float(noted["begun_at"])

    async def _account(self, user_id: str) -> dict[str, Any] | None:
        return await self._get(user_key(user_id)) if _may_have_account(user_id) else None

    async def _change_disabled(self, *writes: Mapping[str, Any]) -> None:
        """Write, and raise the version.

        Repeated it has no effect.
        """
        with contextlib.suppress(ConditionFailed):
            await self._transact_and_tell(*writes)

    async def _batch_get(self, keys: Sequence[Key]) -> dict[Key, dict[str, Any]]:
        """Return the items that exist, by key; strongly consistent.

        Raises:
            Unavailable: DynamoDB leaves too many of them for later.
        """
        found: dict[Key, dict[str, Any]] = {}
        keys = list(dict.fromkeys(keys))
        for start in range(0, len(keys), _GET_AT_ONCE):
            asked: dict[str, Any] = {
                self._table: {
                    "Keys": [item_at(key) for key in keys[start : start + _GET_AT_ONCE]],
                    "ConsistentRead": True,
                }
            }
            pauses = Backoff(*_PAUSE_S)
            for _ in range(_BATCHES):
                response = await self._db.call("batch_get_item", RequestItems=asked)
                for item in map(values_of, response["Responses"].get(self._table, [])):
                    found[item["p"], item["s"]] = item
                asked = response.get("UnprocessedKeys") or {}
                if not asked:
                    break
                await asyncio.sleep(pauses.next_s())
            else:
                raise Unavailable("DynamoDB leaves reads for later")
        return found


def _keys_of(user_id: str) -> list[Key]:
    account = [user_key(user_id)] if _may_have_account(user_id) else []
    return [*account, _profile(user_id), _disabled(user_id)]


def _may_have_account(user_id: str) -> bool:
    return 0 < len(user_id.encode("utf-8", "surrogatepass")) <= _MAX_ACCOUNT_ID_BYTES


def _sha256(user_id: str) -> str:
    return hashlib.sha256(user_id.encode("utf-8", "surrogatepass")).hexdigest()


def _profile(user_id: str) -> Key:
    return (f"profile#{_sha256(user_id)}", "-")


def _disabled(user_id: str) -> Key:
    return (_DISABLED, digest_of(user_id).hex())


def _sessions(user_id: str) -> str:
    return f"sessions#{_sha256(user_id)}"


def _over(user_id: str) -> Key:
    """Return the key of the note that all sessions of the user but one have ended."""
    return (f"over#{_sha256(user_id)}", "-")


def _is_refused(item: Mapping[str, Any], now: float) -> bool:
    return float(item.get(EXPIRY, now + 1)) > now


def _encoded(key: Key) -> str:
    return base64.urlsafe_b64encode("\n".join(key).encode()).decode()


def _decoded(after: str) -> Key:
    """Return the key of a cursor; a wrong cursor begins somewhere.

    One of an auth of before has the partition key only.
    """
    try:
        partition, _, sort = base64.urlsafe_b64decode(after.encode()).decode().partition("\n")
    except ValueError:
        return ("-", "-")
    return (partition or "-", sort or "-")


def _record(
    user_id: str, account: Mapping[str, Any], item: Mapping[str, Any], disabled: Mapping[str, Any]
) -> UserRecord:
    profile = Profile(
        item.get("display_name", ""),
        item.get("avatar_url", ""),
        item.get("status", ""),
        item.get("custom", b""),
        item.get("hidden", False),
        int(item.get("version", 0)),
    )
    created_at = float(account.get("created_at", 0) if account else item.get("created_at", 0))
    disabled_at = float(disabled["disabled_at"]) if "user_id" in disabled else 0.0  # else a user of this id was deleted
    return UserRecord(user_id, account.get("username", ""), profile, created_at, disabled_at)
