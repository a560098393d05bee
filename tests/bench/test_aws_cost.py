"""`python -m bench.aws`: how units are counted, and that docs/aws.md has them."""

from __future__ import annotations

import re
import uuid
from pathlib import Path

import pytest

from bench.aws.__main__ import COMMAND, PRICES, cost
from bench.aws.measure import measure
from bench.aws.table import NAMES, Prices, line
from bench.aws.units import MeteredDynamoDb, item_bytes
from services.shared.dynamodb import tables
from services.shared.dynamodb.settings import DynamoDbSettings
from tests.support.dynamodb import settings_of

PAGE = (Path(__file__).parents[2] / "docs" / "aws.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("item", "size"),
    [
        ({"p": {"S": "äb"}}, 1 + 3),
        ({"rows": {"B": bytes(7)}}, 4 + 7),
        ({"s": {"N": "0"}}, 1 + 2),
        ({"s": {"N": "1764500000"}}, 1 + 6),  # two digits a byte, and one
        ({"s": {"N": "-12.5"}}, 1 + 3),
        ({"a": {"BOOL": True}, "b": {"NULL": True}}, 4),
        ({}, 0),
    ],
)
def test_the_size_of_an_item(item: dict[str, dict[str, object]], size: int) -> None:
    assert item_bytes(item) == size


async def test_units_are_rounded_up_for_each_request(dynamodb: str) -> None:
    settings: DynamoDbSettings = settings_of(dynamodb, "units-")
    db = MeteredDynamoDb(settings)
    table, key = settings.chat_table, {"p": {"S": "p"}, "s": {"S": "s"}}
    try:
        await tables.create(db, settings)
        total = db.begin()
        await db.call("get_item", TableName=table, Key=key, ConsistentRead=True)
        assert (total.writes, total.reads) == (0, 1)  # nothing found is paid for, too
        await db.call("put_item", TableName=table, Item={**key, "b": {"B": bytes(1_024 - 5)}})
        assert total.writes == 1
        await db.call("put_item", TableName=table, Item={**key, "b": {"B": bytes(1_024 - 4)}})
        assert total.writes == 3
        change = {"UpdateExpression": "SET c = :c", "ExpressionAttributeValues": {":c": {"B": bytes(9_000)}}}
        await db.call("update_item", TableName=table, Key=key, **change)
        assert total.writes == 3 + 10  # the whole item, of 10,025 bytes
        asked = {"KeyConditionExpression": "p = :p", "ExpressionAttributeValues": {":p": {"S": "p"}}}
        found = [
            item async for item in db.query(TableName=table, ConsistentRead=True, ProjectionExpression="s", **asked)
        ]
        assert found == [{"s": {"S": "s"}}]
        assert total.reads == 1 + 3  # as if all of it had been sent
        with pytest.raises(NotImplementedError):
            await db.call("delete_item", TableName=table, Key=key)
    finally:
        await db.close()


async def test_the_page_has_what_full_items_take(dynamodb: str) -> None:
    full = await measure(settings_of(dynamodb, f"{uuid.uuid4().hex}-"), 100, 300)
    assert line(NAMES[100], full, Prices.read(PRICES)) in PAGE.splitlines()


@pytest.mark.full
async def test_the_page_has_what_is_counted(dynamodb: str) -> None:
    part = re.search(rf"<!-- cost: written by {re.escape(COMMAND)} -->\n(.*?)\n<!-- end of cost -->", PAGE, re.DOTALL)
    assert part is not None
    assert part[1].strip() == "\n".join(await cost(dynamodb, Prices.read(PRICES), 300)).strip()


def test_a_file_of_prices_without_one_of_them_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(PRICES.read_text(encoding="utf-8").replace("kept_gb_month", "kept"), encoding="utf-8")
    with pytest.raises(ValueError, match="kept"):
        Prices.read(path)
