"""Policies in AWS allow what the adapters do, on their own tables, and no more."""

from __future__ import annotations

import ast
import re
import uuid
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.aws import make_stack, policy

ROOT = Path(__file__).parents[3]
SERVICES = ROOT / "services"
# Operations whose rights have other names. A transaction needs those of its parts, which are in the code as words.
_PARTS_ONLY = {"transact_write_items", "transact_get_items"}
_OPERATIONS = ("get", "put", "update", "delete", "query", "scan", "batch", "transact")


class Adapter(NamedTuple):
    """Code that makes requests to one table."""

    policy: str
    table: str
    paths: tuple[Path, ...]


ADAPTERS = (
    Adapter("AuthPolicy", "accounts", tuple((SERVICES / "auth" / "adapters").glob("dynamodb*.py"))),
    Adapter("PersistencePolicy", "log", tuple((SERVICES / "persistence" / "adapters" / "dynamodb").glob("*.py"))),
    Adapter("PersistencePolicy", "chat", tuple((SERVICES / "persistence/chat/adapters/dynamodb").glob("*.py"))),
)


def needed(adapter: Adapter) -> set[str]:
    """Actions of the requests in the code, and of the check of the table at the start."""
    text = "".join(path.read_text(encoding="utf-8") for path in adapter.paths)
    operations = set(re.findall(r"\.call\(\s*\"(\w+)\"", text))
    assert operations
    assert all(operation.startswith(_OPERATIONS) for operation in operations), operations
    actions = {"".join(word.title() for word in operation.split("_")) for operation in operations - _PARTS_ONLY}
    actions |= {f"{part}Item" for part in re.findall(r"\"(Get|Put|Update|Delete|ConditionCheck)\":", text)}
    if ".query(" in text:
        actions.add("Query")
    if ".write_all(" in text:
        actions.add("BatchWriteItem")
    return {f"dynamodb:{action}" for action in actions | {"DescribeTable"}}


@pytest.fixture(scope="module")
def made(dynamodb: str) -> tuple[str, dict[str, list[dict[str, object]]]]:
    """Prefix of the tables, and statements of the policies by output."""
    prefix = f"{uuid.uuid4().hex}-"
    arns = make_stack(dynamodb, f"r{uuid.uuid4().hex}", "rights", {"TablePrefix": prefix})
    return prefix, {output: policy(dynamodb, arn)["Statement"] for output, arn in arns.items()}


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.table)
def test_a_service_may_do_to_its_table_what_its_code_does(
    adapter: Adapter, made: tuple[str, dict[str, list[dict[str, object]]]]
) -> None:
    prefix, policies = made
    table = f"arn:aws:dynamodb:us-east-1:123456789012:table/{prefix}{adapter.table}"
    (statement,) = [one for one in policies[adapter.policy] if one["Resource"] == table]
    assert statement["Effect"] == "Allow"
    actions = statement["Action"]
    assert isinstance(actions, list)
    assert sorted(actions) == sorted(needed(adapter))


def test_every_statement_is_for_something_that_code_does(
    made: tuple[str, dict[str, list[dict[str, object]]]],
) -> None:
    prefix, policies = made
    found = {(output, str(one["Resource"])) for output, statements in policies.items() for one in statements}
    tables = {(one.policy, f"arn:aws:dynamodb:us-east-1:123456789012:table/{prefix}{one.table}") for one in ADAPTERS}
    queue = "arn:aws:sqs:us-east-1:123456789012:thalamus"
    chat = f"arn:aws:dynamodb:us-east-1:123456789012:table/{prefix}chat"  # workers look whether it is there
    of_worker = {("WorkerPolicy", queue), ("WorkerPolicy", chat), ("WorkerPolicy", chat.removesuffix("chat") + "log")}
    bucket = "arn:aws:s3:::thalamus-archive"
    counts = str([queue, f"{queue}-dead"])  # of what waits in both
    of_persistence = {("PersistencePolicy", name) for name in (queue, counts, bucket, f"{bucket}/*")}
    assert found == tables | of_worker | of_persistence


@pytest.mark.parametrize(("policy", "user"), [("PersistencePolicy", "outbox"), ("WorkerPolicy", "worker")])
def test_who_uses_the_queue_may_do_what_its_code_does(
    policy: str, user: str, made: tuple[str, dict[str, list[dict[str, object]]]]
) -> None:
    queue = SERVICES / "persistence" / "queue"
    methods = set(re.findall(r"self\._queue\.(\w+)\(", (queue / f"{user}.py").read_text(encoding="utf-8")))
    assert methods
    calls = {"get_queue_url"}  # at the start, and for each method
    for node in ast.walk(ast.parse((queue / "sqs.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.AsyncFunctionDef) and node.name in methods:
            calls |= set(re.findall(r"\bcall\(\s*'(\w+)'", ast.unparse(node)))
    actions = {"".join(map(str.title, call.removesuffix("_batch").split("_"))) for call in calls}
    (statement,) = [one for one in made[1][policy] if one["Sid"] == "Queue"]
    assert statement["Action"] == sorted(f"sqs:{action}" for action in actions)


def test_persistence_may_do_to_the_archive_what_its_code_does(
    made: tuple[str, dict[str, list[dict[str, object]]]],
) -> None:
    code = (SERVICES / "persistence" / "archive" / "s3.py").read_text(encoding="utf-8")
    rights = {"list_objects_v2": "ListBucket"}
    calls = re.findall(r"_call\(\s*\"(\w+)\"", code)
    assert calls
    actions = {f"s3:{rights.get(call) or ''.join(map(str.title, call.split('_')))}" for call in calls}
    found = {one["Sid"]: one["Action"] for one in made[1]["PersistencePolicy"]}
    assert found["Archive"] in ("s3:ListBucket", ["s3:ListBucket"])
    assert found["ArchivedObjects"] == sorted(actions - {"s3:ListBucket"})


def test_no_policy_has_a_wildcard(made: tuple[str, dict[str, list[dict[str, object]]]]) -> None:
    for statements in made[1].values():
        for one in statements:
            resource = str(one["Resource"])
            if one["Sid"] == "ArchivedObjects":  # all objects of one bucket
                resource = resource.removesuffix("/*")
            assert "*" not in f"{one['Action']}{resource}"
            assert not {"NotAction", "NotResource"} & one.keys()


def test_every_file_that_talks_to_dynamodb_belongs_to_an_adapter() -> None:
    known = {path for adapter in ADAPTERS for path in adapter.paths}
    talking = {
        path
        for path in SERVICES.rglob("*.py")
        if re.search(r"\b_?(db|chains\.db)\.(call|query|write_all)\(", path.read_text(encoding="utf-8"))
        and SERVICES / "shared" not in path.parents
    }
    assert talking <= known
    assert talking
