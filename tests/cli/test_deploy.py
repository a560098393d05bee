"""`thalamus deploy` on moto: what it says, makes, leaves alone and removes."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from typing import Any, NamedTuple

import pytest

from cli.main import run
from tests.support.aws import REGION, client, listed
from tests.support.dynamodb import CREDENTIALS
from tests.support.faults import free_port
from tests.support.stack import clean_environment

KINDS = {"log", "chat", "accounts"}


class Said(NamedTuple):
    code: int
    out: list[str]
    err: str

    def json(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out]


class Deploy:
    """The command with a platform of its own, in one process with the test."""

    def __init__(self, address: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.address, self._capsys = address, capsys
        self.name = f"p{uuid.uuid4().hex[:12]}"
        self.prefix = f"{uuid.uuid4().hex}-"
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        monkeypatch.setenv("AWS_REGION", REGION)
        monkeypatch.setenv("DYNAMODB_TABLE_PREFIX", self.prefix)
        self._tables, self._sqs = client("dynamodb", address), client("sqs", address)
        self._cloud = client("cloudformation", address)

    def __call__(self, what: str, *arguments: str) -> Said:
        code = run(["deploy", what, "--name", self.name, *arguments])
        said = self._capsys.readouterr()
        return Said(code, said.out.splitlines(), said.err)

    def there(self) -> set[str]:
        """What is there of the platform, and of nobody else."""
        names = [name for name in listed(self._tables, "list_tables") if name.startswith(self.prefix)]
        urls = listed(self._sqs, "list_queues", QueueNamePrefix=self.name)
        stacks = [one["StackName"] for one in listed(self._cloud, "describe_stacks")]
        buckets = [one["Name"] for one in listed(client("s3", self.address), "list_buckets")]
        of_platform = [name for name in (*stacks, *buckets) if name.startswith(self.name)]
        return {*names, *(url.rpartition("/")[2] for url in urls), *of_platform}

    def all_of_it(self) -> set[str]:
        stacks = {f"{self.name}-{part}" for part in ("tables", "queue", "archive", "rights")}
        return stacks | self.data() | {self.name, f"{self.name}-dead"}

    def data(self) -> set[str]:
        return {f"{self.prefix}{kind}" for kind in KINDS} | {f"{self.name}-archive-123456789012-{REGION}"}


@pytest.fixture
def deploy(dynamodb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Deploy:
    return Deploy(dynamodb, capsys, monkeypatch)


def test_without_yes_it_says_all_and_leaves_nothing(deploy: Deploy) -> None:
    said = deploy("create")
    assert said.code == 0
    heads = [line for line in said.out if not line.startswith(" ")]
    assert heads == [f"{deploy.name}-{part}  would be made" for part in ("tables", "queue", "archive", "rights")]
    for line in (
        "  + Log  AWS::DynamoDB::Table",
        "  + DeadLetterQueue  AWS::SQS::Queue",
        "  + Bucket  AWS::S3::Bucket",
    ):
        assert line in said.out
    assert "nothing was changed" in said.err
    assert deploy.there() == set()


def test_it_makes_all_once_and_destroys_all_but_the_data(deploy: Deploy) -> None:
    assert [one["outcome"] for one in deploy("create", "--yes", "--json").json()] == ["made"] * 4
    assert deploy.there() == deploy.all_of_it()
    again = deploy("create", "--yes")
    assert again.out == [
        f"{deploy.name}-{part}  is as it should be" for part in ("tables", "queue", "archive", "rights")
    ]

    stacks = {one["stack"].removeprefix(f"{deploy.name}-"): one for one in deploy("status", "--json").json()}
    assert {one["status"] for one in stacks.values()} == {"CREATE_COMPLETE"}
    assert {one["at"] for one in stacks["tables"]["resources"]} == {f"{deploy.prefix}{kind}" for kind in KINDS}
    assert stacks["rights"]["outputs"].keys() == {"AuthPolicy", "PersistencePolicy", "WorkerPolicy"}

    assert deploy("destroy").code == 0
    assert deploy.there() == deploy.all_of_it()  # nothing yet
    gone = {one["stack"].removeprefix(f"{deploy.name}-"): one for one in deploy("destroy", "--yes", "--json").json()}
    assert list(gone) == ["rights", "archive", "queue", "tables"]
    assert (gone["tables"]["goes"], set(gone["tables"]["stays"])) == ([], {"Log", "Chat", "Accounts"})
    assert deploy.there() == deploy.data()
    assert deploy("status").out == [
        f"{deploy.name}-{part}  not made" for part in ("tables", "queue", "archive", "rights")
    ]

    # What stayed is used again, and is nobody's stack.
    assert [one["outcome"] for one in deploy("create", "--yes", "--json").json()] == [
        "was there, without a stack",
        "made",
        "was there, without a stack",
        "made",
    ]


def test_a_stack_keeps_its_values_unless_another_is_given(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    assert deploy("create", "--part", "queue", "--set", "VisibilityTimeout=77", "--yes").code == 0
    assert deploy("create", "--part", "rights", "--yes").code == 0
    monkeypatch.setenv("DYNAMODB_TABLE_PREFIX", "another-")
    said = deploy("create", "--part", "queue", "--part", "rights", "--yes")
    assert said.out == [f"{deploy.name}-queue  is as it should be", f"{deploy.name}-rights  is as it should be"]
    sqs = client("sqs", deploy.address)
    url = sqs.get_queue_url(QueueName=deploy.name)["QueueUrl"]
    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["VisibilityTimeout"])["Attributes"]
    assert found == {"VisibilityTimeout": "77"}
    assert (
        deploy("create", "--part", "queue", "--set", "VisibilityTimeout=66").out[0].endswith("-queue  would be changed")
    )


def test_some_tables_without_a_stack_are_not_touched(deploy: Deploy) -> None:
    client("dynamodb", deploy.address).create_table(
        TableName=f"{deploy.prefix}log",
        KeySchema=[{"AttributeName": "p", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "p", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    said = deploy("create", "--yes")
    assert said.code == 1
    assert f"{deploy.prefix}log" in said.err
    assert "thalamus store init" in said.err
    assert deploy.there() == {f"{deploy.prefix}log"}


def test_a_queue_with_messages_is_not_deleted(deploy: Deploy) -> None:
    assert deploy("create", "--part", "queue", "--yes").code == 0
    sqs = client("sqs", deploy.address)
    dead = sqs.get_queue_url(QueueName=f"{deploy.name}-dead")["QueueUrl"]
    sqs.send_message(QueueUrl=dead, MessageBody="poison")
    said = deploy("destroy", "--yes")
    assert said.code == 1
    assert "1 messages" in said.err
    assert f"{deploy.name}-queue" in deploy.there()
    assert deploy("destroy", "--yes", "--drop-messages").code == 0
    assert deploy.there() == set()


def test_a_service_gets_the_rights_of_the_stack_and_goes_first(deploy: Deploy) -> None:
    client("ecs", deploy.address).create_cluster(clusterName="thalamus")
    secret = "arn:aws:secretsmanager:us-east-1:123456789012:secret:one-abcdef"
    given = ["Image=thalamus:1", "Cluster=thalamus", "Subnets=subnet-0123456789abcdef0", "RedisHost=redis.example.com"]
    given += ["SecurityGroups=sg-0123456789abcdef0", f"RedisPassword={secret}", f"ServiceToken={secret}"]
    values = [word for value in given for word in ("--set", value)]
    assert deploy("create", "--part", "rights", "--yes").code == 0
    assert deploy("create", "--service", "persistence", *values, "--yes").code == 0
    cloud = client("cloudformation", deploy.address)
    (made,) = cloud.describe_stacks(StackName=f"{deploy.name}-persistence")["Stacks"]
    parameters = {one["ParameterKey"]: one["ParameterValue"] for one in made["Parameters"]}
    (rights,) = [one for one in deploy("status", "--json").json() if one["stack"] == f"{deploy.name}-rights"]
    assert parameters["Rights"] == rights["outputs"]["PersistencePolicy"]
    assert parameters["TablePrefix"] == deploy.prefix
    stacks = [one["stack"].removeprefix(f"{deploy.name}-") for one in deploy("destroy", "--json").json()]
    assert stacks == ["persistence", "rights"]
    assert deploy("destroy", "--service", "persistence", "--yes").code == 0
    assert deploy.there() == {f"{deploy.name}-rights"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("create", "--set", "Nonsense=1"), "Nonsense"),
        (("create", "--set", "Nonsense"), "NAME=VALUE"),
        (("create", "--part", "queue", "--service", "edge"), "not both"),
        (("status", "--name", "Upper"), "lower-case"),
    ],
)
def test_wrong_usage_is_said_and_does_nothing(deploy: Deploy, arguments: tuple[str, ...], says: str) -> None:
    said = deploy(arguments[0], *arguments[1:])
    assert said.code == 2
    assert says in said.err
    assert deploy.there() == set()


def test_nobody_there_is_unreachable_in_one_line() -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "deploy", "status", "--endpoint", endpoint],
        env={**clean_environment(), **CREDENTIALS, "AWS_MAX_ATTEMPTS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 3, done
    assert endpoint in done.stderr
    assert len(done.stderr.splitlines()) == 1
