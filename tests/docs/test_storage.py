"""docs/storage.md gives each service the rights that its code needs on its own table, and no more."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "storage.md").read_text(encoding="utf-8")
POLICIES = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]


def called(service: str) -> set[str]:
    """Actions of the requests in its adapters, and of the look at its table when it starts."""
    adapters = ROOT / "services" / service / "adapters"
    paths = [*adapters.glob("dynamodb*.py"), *adapters.glob("dynamodb/*.py")]
    text = "".join(path.read_text(encoding="utf-8") for path in paths)
    operations = set(re.findall(r"\.call\(\s*\"(\w+)\"", text)) - {"transact_write_items"}  # its parts count
    actions = {"".join(word.title() for word in operation.split("_")) for operation in operations}
    actions |= {f"{part}Item" for part in re.findall(r"\"(Put|Update|Delete|ConditionCheck)\":", text)}
    if ".query(" in text:
        actions.add("Query")
    if ".write_all(" in text:
        actions.add("BatchWriteItem")
    return {f"dynamodb:{action}" for action in actions | {"DescribeTable"}}


@pytest.mark.parametrize(("service", "table"), [("persistence", "log"), ("auth", "accounts")])
def test_a_service_has_the_rights_that_it_uses_on_its_own_table(service: str, table: str) -> None:
    (policy,) = [one for one in POLICIES if one["Statement"][0]["Sid"] == service.title()]
    (statement,) = policy["Statement"]
    assert statement["Effect"] == "Allow"
    assert statement["Resource"] == f"arn:aws:dynamodb:REGION:ACCOUNT:table/thalamus-{table}"
    assert set(statement["Action"]) == called(service)
