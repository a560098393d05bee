"""`thalamus store`: the tables of a deployment that keeps its data in DynamoDB."""

from __future__ import annotations

import asyncio
import logging
import os

import click

from cli.errors import Refused, Unreachable
from cli.options import json_option
from cli.output import say, say_json
from services.shared.dynamodb import tables
from services.shared.dynamodb.client import CallRefused, DynamoDb
from services.shared.dynamodb.settings import DynamoDbSettings
from services.shared.errors import Unavailable
from services.shared.variables import read_checked_env


@click.group("store")
def command() -> None:
    """Make the tables that services keep their data in."""


@command.command("init")
@json_option
def init(as_json: bool) -> None:
    """Make the DynamoDB tables that are missing; what is there stays as it is.

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


async def _make(settings: DynamoDbSettings) -> list[str]:
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
