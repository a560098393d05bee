"""Calls to DynamoDB against moto's server behind a proxy that breaks them."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest

from services.shared.dynamodb import client, tables
from services.shared.dynamodb.client import (
    CallRefused,
    ConditionFailed,
    DynamoDb,
    TableMissing,
    item_of,
    values_of,
)
from services.shared.dynamodb.settings import DynamoDbSettings
from services.shared.errors import Unavailable
from services.shared.process.backoff import Backoff
from services.shared.process.config import ConfigError
from tests.support.dynamodb import settings_of
from tests.support.dynamodb_faults import DynamoDbFaults, Shares, dynamodb_faults
from tests.support.faults import free_port
from tests.support.lateness import Lateness

ONE = {"p": {"S": "one"}, "s": {"N": "1"}}


@pytest.fixture
def faults(dynamodb: str) -> Iterator[DynamoDbFaults]:
    with dynamodb_faults(dynamodb, seed=1) as made:
        yield made


@pytest.fixture
def settings(faults: DynamoDbFaults) -> DynamoDbSettings:
    return settings_of(faults.address, f"{uuid.uuid4().hex}-")


@pytest.fixture
async def db(settings: DynamoDbSettings, faults: DynamoDbFaults) -> AsyncIterator[DynamoDb]:
    made = DynamoDb(settings)
    await tables.create(made, settings)
    faults.requests.clear()
    yield made
    await made.close()


async def put(db: DynamoDb, settings: DynamoDbSettings, **options: Any) -> None:
    await db.call("put_item", TableName=settings.log_table, Item=ONE, **options)


def test_values_come_back_as_they_were() -> None:
    values = {"s": "text", "n": 12, "d": Decimal("1.5"), "b": b"\x00\xff", "t": True}
    assert values_of(item_of(values)) == values


@pytest.mark.parametrize("shares", [Shares(throttled=0.4), Shares(failed=0.4), Shares(lost=0.4)])
async def test_what_fails_for_a_while_is_repeated(
    db: DynamoDb, settings: DynamoDbSettings, faults: DynamoDbFaults, shares: Shares
) -> None:
    faults.shares = shares
    for _ in range(15):
        await put(db, settings)
    (broken,) = faults.faults.values()
    assert broken > 0
    assert faults.requests["PutItem"] == 15 + broken


async def test_a_condition_that_does_not_hold_is_said_at_once_with_what_is_there(
    db: DynamoDb, settings: DynamoDbSettings, faults: DynamoDbFaults
) -> None:
    await put(db, settings)
    with pytest.raises(ConditionFailed) as failed:
        await put(
            db,
            settings,
            ConditionExpression="attribute_not_exists(p)",
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
        )
    assert failed.value.item == ONE
    assert faults.requests["PutItem"] == 2


async def test_trouble_that_lasts_ends_with_the_deadline(settings: DynamoDbSettings, faults: DynamoDbFaults) -> None:
    faults.shares = Shares(failed=1.0)
    db = DynamoDb(settings, deadline_s=0.3)
    async with Lateness() as late:
        began = time.monotonic()
        with pytest.raises(Unavailable, match="in time"):
            await put(db, settings)
        assert time.monotonic() - began > 0.25
    assert late.took_s < 2
    await db.close()


async def test_trouble_that_lasts_is_not_given_more_than_the_budget(
    settings: DynamoDbSettings, faults: DynamoDbFaults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "retry_backoff", lambda: Backoff(0.0, 0.0))
    faults.shares = Shares(throttled=1.0)
    db = DynamoDb(settings)
    for _ in range(50):
        with pytest.raises(Unavailable):
            await put(db, settings)
    assert faults.requests["PutItem"] <= 50 + 0.8 * 50 + 100
    await db.close()


async def test_nobody_there_is_unavailable(aws_credentials: None) -> None:
    db = DynamoDb(settings_of(f"http://127.0.0.1:{free_port()}"), deadline_s=0.2)
    with pytest.raises(Unavailable):
        await db.call("list_tables")
    await db.close()


async def test_a_wrong_request_is_refused_and_not_repeated(
    db: DynamoDb, settings: DynamoDbSettings, faults: DynamoDbFaults
) -> None:
    with pytest.raises(CallRefused, match="ValidationException"):
        await db.call("put_item", TableName=settings.log_table, Item={"p": {"S": "no sort key"}})
    assert faults.requests["PutItem"] == 1


async def test_a_refusal_is_logged_once_a_minute_and_another_one_at_once(
    db: DynamoDb,
    settings: DynamoDbSettings,
    faults: DynamoDbFaults,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [1_000.0]
    monkeypatch.setattr(client, "time", SimpleNamespace(monotonic=lambda: now[0], perf_counter=time.perf_counter))
    faults.refused = settings.log_table

    async def refusals(at: float, item: dict[str, Any] = ONE) -> list[str]:
        """Codes that are logged for two refused writes at that second."""
        now[0] = 1_000.0 + at
        caplog.clear()
        for _ in range(2):
            with pytest.raises(CallRefused):
                await db.call("put_item", TableName=settings.log_table, Item=item)
        return [vars(record)["code"] for record in caplog.records if record.message == "DynamoDB refused"]

    assert await refusals(0) == ["AccessDeniedException"]
    assert await refusals(59.9) == []
    assert await refusals(60) == ["AccessDeniedException"]
    faults.refused = ""
    assert await refusals(61, {"p": {"S": "one"}}) == ["ValidationException"]
    faults.refused = settings.log_table
    assert await refusals(119) == []
    assert await refusals(120) == ["AccessDeniedException"]


async def test_without_credentials_nothing_is_asked(
    settings: DynamoDbSettings, faults: DynamoDbFaults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it remembers those of other tests
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    db = DynamoDb(settings)
    with pytest.raises(CallRefused, match="credentials"):
        await put(db, settings)
    assert not faults.requests
    await db.close()


async def test_credentials_that_come_later_are_found(
    db: DynamoDb, settings: DynamoDbSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(client, "_CHECK_S", 0.0)
    file = tmp_path / "credentials"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    late = DynamoDb(settings, deadline_s=20)  # a busy machine takes seconds to make a client anew
    with pytest.raises(CallRefused):
        await put(late, settings)
    file.write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    with pytest.raises(CallRefused):  # this one makes the client look again
        await put(late, settings)
    await put(late, settings)
    await late.close()


async def test_an_answer_that_is_not_dynamodb_s_is_none(settings: DynamoDbSettings) -> None:
    """As of a proxy between us that answers by itself, with 200."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        page = b"<html>come back later</html>"
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(page), page))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    db = DynamoDb(settings_of(f"http://127.0.0.1:{port}"), deadline_s=0.5)
    with pytest.raises(Unavailable):
        await put(db, settings)
    await db.close()
    server.close()


async def test_what_a_batch_leaves_unprocessed_is_written_in_the_end(
    db: DynamoDb, settings: DynamoDbSettings, faults: DynamoDbFaults
) -> None:
    faults.shares = Shares(unprocessed=0.7, throttled=0.1)
    puts = [{"PutRequest": {"Item": {"p": {"S": "many"}, "s": {"N": str(number)}}}} for number in range(60)]
    await db.write_all(settings.log_table, puts)
    assert faults.faults["unprocessed"] > 0
    arguments = {"KeyConditionExpression": "p = :p", "ExpressionAttributeValues": {":p": {"S": "many"}}, "Limit": 7}
    found = [int(item["s"]["N"]) async for item in db.query(TableName=settings.log_table, **arguments)]
    assert found == list(range(60))


async def test_tables_are_made_once_and_let_their_items_expire(db: DynamoDb, settings: DynamoDbSettings) -> None:
    assert await tables.create(db, settings) == []
    for definition in tables.definitions(settings):
        await tables.check(db, definition["TableName"])
        reply = await db.call("describe_time_to_live", TableName=definition["TableName"])
        assert reply["TimeToLiveDescription"] == {"TimeToLiveStatus": "ENABLED", "AttributeName": tables.EXPIRY}


async def test_several_may_make_the_tables_at_once(dynamodb: str) -> None:
    settings = settings_of(dynamodb, f"{uuid.uuid4().hex}-")
    dbs = [DynamoDb(settings) for _ in range(3)]
    made = await asyncio.gather(*(tables.create(db, settings) for db in dbs), return_exceptions=True)
    assert not [one for one in made if isinstance(one, Exception) and not isinstance(one, CallRefused)]
    assert await tables.create(dbs[0], settings) == []
    for db in dbs:
        await db.close()


async def test_a_missing_table_is_named_with_what_makes_it(dynamodb: str) -> None:
    settings = settings_of(dynamodb, f"{uuid.uuid4().hex}-")
    db = DynamoDb(settings)
    with pytest.raises(ConfigError, match=f"{settings.log_table}.*thalamus store init"):
        await tables.check(db, settings.log_table)
    with pytest.raises(TableMissing):
        await put(db, settings)
    await db.close()


@pytest.mark.parametrize(
    ("options", "variable"),
    [
        ({"table_prefix": "a b"}, "DYNAMODB_TABLE_PREFIX"),
        ({"endpoint": "localhost:8000"}, "DYNAMODB_ENDPOINT"),
    ],
)
def test_a_wrong_setting_is_named(options: dict[str, Any], variable: str) -> None:
    with pytest.raises(ConfigError, match=variable):
        DynamoDbSettings(**options)
