"""Requests to DynamoDB that are refused as AWS would refuse them.

A request needs rights on its tables: a transaction those of its parts, a batch one on each of its tables. The rights
are those of `deploy/aws/rights.yaml`. moto has no such check for tables.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import pytest
from botocore.exceptions import ClientError
from cfnlint.decode import cfn_yaml  # type: ignore[import-untyped]

from services.shared.dynamodb.client import DynamoDb
from tests.support.aws import TEMPLATES

_OF_OPERATORS = ("create_table", "describe_time_to_live", "update_time_to_live")  # `thalamus store init`


@functools.cache
def allowed(*policies: str) -> dict[str, frozenset[str]]:
    """Actions that a service may do to its table, by the table's name."""
    template = json.loads(json.dumps(cfn_yaml.load(str(TEMPLATES / "rights.yaml"))))
    found: dict[str, frozenset[str]] = {}
    for policy in policies:
        for statement in template["Resources"][policy]["Properties"]["PolicyDocument"]["Statement"]:
            if statement["Sid"] not in ("Log", "Chat", "Accounts"):  # a queue, or a bucket
                continue
            table = statement["Resource"]["Fn::Sub"].partition("${TablePrefix}")[2]
            assert table not in found
            found[table] = frozenset(statement["Action"])
    return found


def needed(op: str, arguments: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Rights that a request of boto3 needs: action and table."""
    if op in ("transact_write_items", "transact_get_items"):
        parts = [(kind, part) for item in arguments["TransactItems"] for kind, part in item.items()]
        # The part that only checks is called ConditionCheck; its right has a name like the others.
        return {(f"dynamodb:{kind}Item", part["TableName"]) for kind, part in parts}
    action = f"dynamodb:{''.join(word.title() for word in op.split('_'))}"
    tables = arguments["RequestItems"] if "RequestItems" in arguments else [arguments["TableName"]]
    return {(action, table) for table in tables}


@pytest.fixture
def only_with_rights(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """Refuses what the policies of auth and persistence do not allow; see `refuse`."""
    return refuse(monkeypatch, "Auth", "Persistence")


def refuse(monkeypatch: pytest.MonkeyPatch, *policies: str) -> set[tuple[str, str]]:
    """Refuse what these policies do not allow; return actions and tables asked for."""
    once = DynamoDb._once  # noqa: SLF001 - where each try of a request passes
    asked: set[tuple[str, str]] = set()

    def checked(self: DynamoDb, op: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if op not in _OF_OPERATORS:
            for action, table in needed(op, arguments):
                asked.add((action, table))
                if action not in allowed(*policies).get(table.rpartition("-")[2], frozenset()):
                    refusal: Any = {"Error": {"Code": "AccessDeniedException", "Message": f"not authorized: {action}"}}
                    raise ClientError(refusal, op)
        return once(self, op, arguments)

    monkeypatch.setattr(DynamoDb, "_once", checked)
    return asked
