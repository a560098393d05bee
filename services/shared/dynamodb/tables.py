"""The tables: what `thalamus store init` makes and services ask for at their start; see `docs/storage.md`."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from services.shared.dynamodb.client import DynamoDb, TableExists, TableMissing
from services.shared.dynamodb.settings import DynamoDbSettings
from services.shared.errors import Unavailable
from services.shared.process.config import ConfigError

logger = logging.getLogger(__name__)

EXPIRY = "expires_at"  # unix seconds; DynamoDB removes an item some time after


def definitions(settings: DynamoDbSettings) -> list[dict[str, Any]]:
    """Arguments of CreateTable, one per table: partition key `p`, sort key `s`, paid per request."""
    return [
        _table(settings.log_table, sort_type="N"),
        _table(settings.accounts_table, sort_type="S"),
    ]


async def create(db: DynamoDb, settings: DynamoDbSettings, *, within_s: float = 60.0) -> list[str]:
    """Make the tables that are missing and wait until they can be used; returns the names of those made.

    Raises:
        Unavailable: DynamoDB does not answer or refuses, or a table is not there in time.
    """
    made = []
    for definition in definitions(settings):
        name = definition["TableName"]
        if await _status(db, name) is None:
            try:
                await db.call("create_table", **definition)
                made.append(name)
            except TableExists:  # somebody else is at it
                pass
        await _until_active(db, name, within_s)
        await _let_expire(db, name)
    return made


async def prepare(db: DynamoDb, settings: DynamoDbSettings, table: str) -> None:
    """What a service does at its start: ask for the table, or make what is missing where the settings say so.

    Raises:
        ConfigError: it is missing.
        Unavailable: DynamoDB does not answer, or the table can't be used yet.
    """
    if settings.create_tables:
        await create(db, settings)
    await check(db, table)


async def remake(db: DynamoDb, settings: DynamoDbSettings, error: Unavailable) -> None:
    """Make tables that went while a service runs, as those of an emulator do, where the settings say so."""
    if not settings.create_tables or not isinstance(error, TableMissing):
        return
    try:
        made = await create(db, settings)
    except Unavailable as failed:
        logger.warning("tables that are gone can't be made anew", extra={"error": str(failed)})
        return
    if made:
        logger.error("tables were gone and are made anew: what they held is lost", extra={"tables": made})


async def check(db: DynamoDb, table: str) -> None:
    """Ask for the table, at a start.

    Raises:
        ConfigError: it is missing.
        Unavailable: DynamoDB does not answer, or the table can't be used yet.
    """
    status = await _status(db, table)
    if status is None:
        raise ConfigError(f"DynamoDB has no table {table}: make it with `thalamus store init`")
    if status not in ("ACTIVE", "UPDATING"):
        raise Unavailable(f"DynamoDB's table {table} is {status}")


async def _status(db: DynamoDb, table: str) -> str | None:
    try:
        return str((await db.call("describe_table", TableName=table))["Table"]["TableStatus"])
    except TableMissing:
        return None


async def _let_expire(db: DynamoDb, table: str) -> None:
    """Asked each time: whoever made the table may not have come to this."""
    answer = await db.call("describe_time_to_live", TableName=table)
    if answer["TimeToLiveDescription"].get("TimeToLiveStatus") not in ("ENABLED", "ENABLING"):
        expiry = {"AttributeName": EXPIRY, "Enabled": True}
        await db.call("update_time_to_live", TableName=table, TimeToLiveSpecification=expiry)


async def _until_active(db: DynamoDb, table: str, within_s: float) -> None:
    loop = asyncio.get_running_loop()
    ends = loop.time() + within_s
    while await _status(db, table) not in ("ACTIVE", "UPDATING"):
        if loop.time() > ends:
            raise Unavailable(f"DynamoDB's table {table} is not there after {within_s:g} s")
        await asyncio.sleep(0.5)


def _table(name: str, *, sort_type: str) -> dict[str, Any]:
    return {
        "TableName": name,
        "KeySchema": [{"AttributeName": "p", "KeyType": "HASH"}, {"AttributeName": "s", "KeyType": "RANGE"}],
        "AttributeDefinitions": [
            {"AttributeName": "p", "AttributeType": "S"},
            {"AttributeName": "s", "AttributeType": sort_type},
        ],
        "BillingMode": "PAY_PER_REQUEST",
    }
