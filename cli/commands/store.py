"""`thalamus store`: tables of DynamoDB, restored logs, and files of SQLite."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import click

from cli.errors import Refused, Unreachable, WrongUsage
from cli.options import json_option
from cli.output import say, say_json
from cli.sqlite_restore import put_in_place, refuse_other_log
from services.persistence.adapters.dynamodb.store import DynamoDbLogStore
from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.config import PersistenceConfig
from services.shared.dynamodb import tables
from services.shared.dynamodb.client import CallRefused, DynamoDb, TableMissing
from services.shared.dynamodb.settings import DynamoDbSettings
from services.shared.errors import Unavailable
from services.shared.process.config import ConfigError
from services.shared.process.variables import read_checked_env


@click.group("store")
def command() -> None:
    """Create tables of DynamoDB, prepare a restored log, or compact a file."""


@command.command("init")
@json_option
def init(as_json: bool) -> None:
    """Create the DynamoDB tables that are missing; existing ones stay as they are.

    Reads DYNAMODB_ENDPOINT, DYNAMODB_TABLE_PREFIX, AWS_REGION, and credentials as AWS' own tools do.
    """
    settings = read_checked_env(DynamoDbSettings, os.environ, "DYNAMODB_")
    made = asyncio.run(_make(settings))
    for definition in tables.definitions(settings):
        name = definition["TableName"]
        if as_json:
            say_json({"table": name, "made": name in made})
        else:
            say(f"{name}  {'made' if name in made else 'was there'}")


@command.command("restore")
@click.option("--db", type=click.Path(path_type=Path), help="SQLite file  [default: PERSISTENCE_DB]")
@click.option("--from", "copy", type=click.Path(path_type=Path), help="SQLite copy to put in its place first")
@json_option
def restore(db: Path | None, copy: Path | None, as_json: bool) -> None:
    """Give every channel of a restored log a new epoch.

    Otherwise a client could be told that it has recovered what the backup lacks. Run it once the backup is in place,
    before persistence starts. With `--from` it puts a copy of an SQLite file in place, too, and removes the write-ahead
    log of the old file. Reads PERSISTENCE_STORE; for DynamoDB what `init` reads.
    """
    config = read_checked_env(PersistenceConfig, os.environ, "PERSISTENCE_")
    logging.getLogger("services").addHandler(logging.NullHandler())  # a failure is told once, in one line
    if config.store == "dynamodb" and db is None:
        if copy is not None:
            raise WrongUsage("--from is for SQLite; DynamoDB restores into a new table")
        settings = read_checked_env(DynamoDbSettings, os.environ, "DYNAMODB_")
        what, mark = settings.log_table, asyncio.run(_restored_table(settings))
    else:
        path = db or config.db
        if copy is not None:
            put_in_place(copy, path)
        if not path.exists():
            raise Refused(f"{path}: there is no such file")
        refuse_other_log(path)
        what, mark = str(path), asyncio.run(_restored_file(path))
    if as_json:
        say_json({"store": what, "restored": mark})
    else:
        say(f"{what}  every channel has a new epoch")


@command.command("compact")
@click.option("--db", type=click.Path(path_type=Path), help="SQLite file  [default: PERSISTENCE_DB]")
@json_option
def compact(db: Path | None, as_json: bool) -> None:
    """Write the SQLite file of the log anew, without a byte of what was erased.

    SQLite leaves copies of rows in unused parts of pages; VACUUM does not. Nothing can be stored meanwhile, and there
    must be room for two more copies of the file: with a large one, stop persistence first.
    """
    path = db or read_checked_env(PersistenceConfig, os.environ, "PERSISTENCE_").db
    logging.getLogger("services").addHandler(logging.NullHandler())  # a failure is told once, in one line
    if not path.exists():
        raise Refused(f"{path}: there is no such file")
    if not asyncio.run(_compacted(path)):
        raise Refused(f"{path}: somebody reads it, and its write-ahead log is left: try again")
    size = path.stat().st_size
    if as_json:
        say_json({"store": str(path), "bytes": size})
    else:
        say(f"{path}  {size:,} bytes")


async def _compacted(path: Path) -> bool:
    try:
        store = SqliteLogStore(path)
    except ConfigError as error:
        raise Refused(str(error)) from error
    try:
        return await store.compact()
    except Unavailable as error:
        raise Refused(f"{path}: {error}") from error
    finally:
        await store.close()


async def _restored_file(path: Path) -> str:
    try:
        store = SqliteLogStore(path)
    except ConfigError as error:
        raise Refused(str(error)) from error
    try:
        return await _begin_new_epochs(store)
    except Unavailable as error:
        raise Refused(f"{path}: {error}") from error
    finally:
        await store.close()


async def _restored_table(settings: DynamoDbSettings) -> str:
    store = DynamoDbLogStore(DynamoDb(settings), settings.log_table)
    where = f"{settings.log_table} in {settings.endpoint or f'DynamoDB of {settings.region}'}"
    try:
        return await _begin_new_epochs(store)
    except (CallRefused, TableMissing) as error:
        raise Refused(f"{where}: {error}") from error
    except Unavailable as error:
        raise Unreachable(f"{where}: {error}") from error
    finally:
        await store.close()


async def _begin_new_epochs(store: SqliteLogStore | DynamoDbLogStore) -> str:
    """Give the store's channels new epochs; return the mark of this restore."""
    await store.begin_new_epochs(await store.heartbeat())
    return (await store.heartbeat()).restored


async def _make(settings: DynamoDbSettings) -> list[str]:
    """Create the missing tables; return their names."""
    logging.getLogger("services").addHandler(logging.NullHandler())  # a failure is told once, in one line
    where = settings.endpoint or f"DynamoDB in {settings.region}"
    db = DynamoDb(settings)
    try:
        return await tables.create(db, settings)
    except CallRefused as error:
        raise Refused(f"{where}: {error}") from error
    except Unavailable as error:
        raise Unreachable(f"{where}: {error}") from error
    finally:
        await db.close()
