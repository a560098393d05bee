"""Tables in DynamoDB: their definitions, how they are created and checked.

`thalamus store init` creates them, and services check theirs at the start; see `docs/storage.md`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from services.shared.dynamodb.client import DynamoDb, TableExists, TableMissing
from services.shared.dynamodb.settings import DynamoDbSettings
from services.shared.errors import Unavailable
from services.shared.process.config import ConfigError

logger = logging.getLogger(__name__)

EXPIRY = "expires_at"  # attribute in Unix seconds; DynamoDB deletes the item some time later


def definitions(settings: DynamoDbSettings) -> list[dict[str, Any]]:
    """Arguments of CreateTable for each table.

    Partition key `p`, sort key `s`, paid per request.
    """
    return [
        _table(settings.log_table, sort_type="N"),
        _table(settings.chat_table, sort_type="S"),
        _table(settings.accounts_table, sort_type="S"),
    ]


async def create(db: DynamoDb, settings: DynamoDbSettings, *, within_s: float = 60.0) -> list[str]:
    """Create missing tables and wait until they can be used; return their names.

    Raises:
        Unavailable: DynamoDB does not answer or refuses, or a table can't be used in time.
    """
    made = []
    for definition in definitions(settings):
        name = definition["TableName"]
        if await _status(db, name) is None:
            try:
                await db.call("create_table", **definition)
                made.append(name)
            except TableExists:  # another process creates it
                pass
        await _until_active(db, name, within_s)
        await _let_expire(db, name)
    return made


async def prepare(db: DynamoDb, settings: DynamoDbSettings, *of_service: str) -> None:
    """Check the tables of a service at its start.

    If the settings say so, missing tables are created first.

    Raises:
        ConfigError: a table is missing.
        Unavailable: DynamoDB does not answer, or a table can't be used yet.
    """
    if settings.create_tables:
        await create(db, settings)
    for table in of_service:
        await check(db, table)


async def remake(db: DynamoDb, settings: DynamoDbSettings, error: Unavailable) -> None:
    """Create tables that disappeared while a service runs, if the settings say so.

    Emulators that keep tables in memory lose them.
    """
    if not settings.create_tables or not isinstance(error, TableMissing):
        return
    try:
        made = await create(db, settings)
    except Unavailable as failed:
        logger.warning("missing tables can't be created", extra={"error": str(failed)})
        return
    if made:
        logger.error("tables were missing and have been created again: their data is lost", extra={"tables": made})


async def check(db: DynamoDb, table: str) -> None:
    """Check that a table can be used.

    Raises:
        ConfigError: the table is missing.
        Unavailable: DynamoDB does not answer, or the table can't be used yet.
    """
    status = await _status(db, table)
    if status is None:
        raise ConfigError(f"DynamoDB has no table {table}: make it with `thalamus store init`")
    if status not in ("ACTIVE", "UPDATING"):
        raise Unavailable(f"DynamoDB's table {table} is {status}")


async def _status(db: DynamoDb, table: str) -> str | None:
    """Status of a table; None: it is missing."""
    try:
        return str((await db.call("describe_table", TableName=table))["Table"]["TableStatus"])
    except TableMissing:
        return None


async def _let_expire(db: DynamoDb, table: str) -> None:
    """Enable expiry of items.

    Checked every time: the process that created the table may have died before this.
    """
    response = await db.call("describe_time_to_live", TableName=table)
    if response["TimeToLiveDescription"].get("TimeToLiveStatus") not in ("ENABLED", "ENABLING"):
        expiry = {"AttributeName": EXPIRY, "Enabled": True}
        await db.call("update_time_to_live", TableName=table, TimeToLiveSpecification=expiry)


async def _until_active(db: DynamoDb, table: str, within_s: float) -> None:
    """Wait until a table can be used.

    Raises:
        Unavailable: it can't within `within_s` seconds.
    """
    loop = asyncio.get_running_loop()
    ends = loop.time() + within_s
    while await _status(db, table) not in ("ACTIVE", "UPDATING"):
        if loop.time() > ends:
            raise Unavailable(f"DynamoDB's table {table} is not there after {within_s:g} s")
        await asyncio.sleep(0.5)


def _table(name: str, *, sort_type: str) -> dict[str, Any]:
    """Arguments of CreateTable; `sort_type`: "N" or "S"."""
    return {
        "TableName": name,
        "KeySchema": [{"AttributeName": "p", "KeyType": "HASH"}, {"AttributeName": "s", "KeyType": "RANGE"}],
        "AttributeDefinitions": [
            {"AttributeName": "p", "AttributeType": "S"},
            {"AttributeName": "s", "AttributeType": sort_type},
        ],
        "BillingMode": "PAY_PER_REQUEST",
    }
