"""`thalamus store init`: tables made once, and what is said if they can't be."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest

from tests.support.dynamodb import CREDENTIALS
from tests.support.dynamodb_faults import DynamoDbFaults, dynamodb_faults
from tests.support.faults import free_port
from tests.support.stack import clean_environment


@pytest.fixture
def faults(dynamodb: str) -> Iterator[DynamoDbFaults]:
    with dynamodb_faults(dynamodb, seed=1) as made:
        yield made


def init(variables: dict[str, str], *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "store", "init", *arguments],
        env={**clean_environment(), **CREDENTIALS, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == code, done
    return done


def test_tables_are_made_once_and_each_is_named(dynamodb: str) -> None:
    prefix = f"{uuid.uuid4().hex}-"
    where = {"DYNAMODB_ENDPOINT": dynamodb, "DYNAMODB_TABLE_PREFIX": prefix}
    names = [f"{prefix}{name}" for name in ("log", "chat", "accounts")]
    assert init(where).stdout.splitlines() == [f"{name}  made" for name in names]
    assert init(where).stdout.splitlines() == [f"{name}  was there" for name in names]
    found = [json.loads(line) for line in init(where, "--json").stdout.splitlines()]
    assert found == [{"table": name, "made": False} for name in names]


def test_a_wrong_setting_is_wrong_usage() -> None:
    assert "DYNAMODB_THREADS" in init({"DYNAMODB_THREADS": "none"}, code=2).stderr


def test_nobody_there_is_unreachable() -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    said = init({"DYNAMODB_ENDPOINT": endpoint}, code=3).stderr
    assert endpoint in said
    assert len(said.splitlines()) == 1


def test_a_refusal_is_a_failure_in_one_line(faults: DynamoDbFaults) -> None:
    faults.refused = "TableName"
    said = init({"DYNAMODB_ENDPOINT": faults.address}, code=1).stderr
    assert "AccessDenied" in said
    assert [line for line in said.splitlines() if line.startswith("thalamus:")] == said.splitlines()
