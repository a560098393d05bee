"""docs/storage.md gives each service the rights that its code needs.

On its own tables, and no more.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "storage.md").read_text(encoding="utf-8")
POLICIES = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]


def called(service: str) -> set[str]:
    """Actions of the requests in its adapters, and of the check of its table."""
    paths = [*(ROOT / "services" / service).rglob("adapters/**/*.py")]
    paths = [path for path in paths if "dynamodb" in str(path.relative_to(ROOT))]
    text = "".join(path.read_text(encoding="utf-8") for path in paths)
    operations = set(re.findall(r"\.call\(\s*\"(\w+)\"", text)) - {"transact_write_items", "transact_get_items"}
    actions = {"".join(word.title() for word in operation.split("_")) for operation in operations}
    parts = re.findall(r"\"(Get|Put|Update|Delete|ConditionCheck)\":", text)  # of transactions
    actions |= {f"{part}Item" for part in parts}
    if ".query(" in text:
        actions.add("Query")
    if ".write_all(" in text:
        actions.add("BatchWriteItem")
    return {f"dynamodb:{action}" for action in actions | {"DescribeTable"}}


@pytest.mark.parametrize(("service", "tables"), [("persistence", ["log", "chat"]), ("auth", ["accounts"])])
def test_a_service_has_the_rights_that_it_uses_on_its_own_tables(service: str, tables: list[str]) -> None:
    (policy,) = [one for one in POLICIES if one["Statement"][0]["Sid"] == service.title()]
    (statement,) = policy["Statement"]
    assert statement["Effect"] == "Allow"
    arns = [f"arn:aws:dynamodb:REGION:ACCOUNT:table/thalamus-{table}" for table in tables]
    assert statement["Resource"] == (arns if len(arns) > 1 else arns[0])
    assert set(statement["Action"]) == called(service)
