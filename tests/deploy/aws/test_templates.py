"""The CloudFormation templates: what cfn-lint says, and what moto makes of them."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from cfnlint.decode import cfn_yaml  # type: ignore[import-untyped]

from services.persistence.queue.settings import DEAD, SqsSettings
from services.persistence.queue.sqs import RECEIPTS
from services.shared.dynamodb import tables
from services.shared.dynamodb.client import DynamoDb
from tests.support.aws import REGION, TEMPLATES, client, listed, make_stack
from tests.support.dynamodb import settings_of

FILES = sorted(TEMPLATES.glob("*.yaml"))
_OF_ONE_TABLE = ("TableName", "TableArn", "TableId", "CreationDateTime")  # differ from table to table


def load(name: str) -> dict[str, Any]:
    """A template, with `Fn::…` in place of tags."""
    found: dict[str, Any] = json.loads(json.dumps(cfn_yaml.load(str(TEMPLATES / f"{name}.yaml"))))
    return found


def test_cfn_lint_has_nothing_to_say() -> None:
    assert FILES
    lint = Path(sys.executable).with_name("cfn-lint")
    command: list[str | Path] = [lint, "--regions", REGION, "eu-central-1", "--", *FILES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_holds_data_stays_when_its_stack_is_deleted(path: Path) -> None:
    for name, resource in load(path.stem)["Resources"].items():
        if resource["Type"] in ("AWS::DynamoDB::Table", "AWS::S3::Bucket"):
            assert resource["DeletionPolicy"] == resource["UpdateReplacePolicy"] == "Retain", name


async def test_the_tables_are_those_that_the_code_makes(dynamodb: str) -> None:
    of_stack, of_code = (settings_of(dynamodb, f"{uuid.uuid4().hex}-") for _ in range(2))
    make_stack(dynamodb, f"t{uuid.uuid4().hex}", "tables", {"TablePrefix": of_stack.table_prefix})
    db = DynamoDb(of_code)
    try:
        assert len(await tables.create(db, of_code)) == 3
        # Nothing is missing of those of the stack but what moto leaves out: time to live, see the next test.
        assert await tables.create(db, of_stack) == []
        asked = client("dynamodb", dynamodb)
        names = [name for name in listed(asked, "list_tables") if name.startswith(of_stack.table_prefix)]
        assert len(names) == 3
        for name in names:
            found = [
                asked.describe_table(TableName=of.table_prefix + name.removeprefix(of_stack.table_prefix))["Table"]
                for of in (of_stack, of_code)
            ]
            for table in found:
                for key in _OF_ONE_TABLE:
                    table.pop(key, None)
            assert found[0] == found[1], name
    finally:
        await db.close()


def test_the_tables_have_all_arguments_of_the_code_and_its_time_to_live() -> None:
    resources = load("tables")["Resources"].values()
    made = []
    for resource in resources:
        properties = resource["Properties"]
        assert properties.pop("TimeToLiveSpecification") == {"AttributeName": tables.EXPIRY, "Enabled": True}
        del properties["PointInTimeRecoverySpecification"]
        properties["TableName"] = properties["TableName"]["Fn::Sub"].replace("${TablePrefix}", "thalamus-")
        made.append(properties)
    assert made == tables.definitions(settings_of("", "thalamus-"))


def test_what_is_taken_five_times_and_not_deleted_is_in_the_dead_letter_queue(dynamodb: str) -> None:
    name = uuid.uuid4().hex
    urls = make_stack(dynamodb, f"q{name}", "queue", {"QueueName": name})
    sqs = client("sqs", dynamodb)
    queue, dead = urls["QueueUrl"], urls["DeadLetterQueueUrl"]
    sqs.send_message(QueueUrl=queue, MessageBody="poison")
    for _ in range(5):
        (message,) = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=0)["Messages"]
        assert message["Body"] == "poison"
        sqs.change_message_visibility(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0)
    assert "Messages" not in sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=0)
    (message,) = sqs.receive_message(QueueUrl=dead, WaitTimeSeconds=0)["Messages"]
    assert message["Body"] == "poison"


def test_the_queues_are_those_that_the_code_looks_for() -> None:
    queue, dead = (load("queue")["Resources"][name]["Properties"] for name in ("Queue", "DeadLetterQueue"))
    assert queue["QueueName"] == {"Ref": "QueueName"}
    assert dead["QueueName"] == {"Fn::Sub": f"${{QueueName}}{DEAD}"}
    assert queue["RedrivePolicy"]["maxReceiveCount"] == RECEIPTS
    assert load("queue")["Parameters"]["QueueName"]["Default"] == SqsSettings().queue


def test_the_function_answers_which_messages_failed_and_ends_before_they_come_again(dynamodb: str) -> None:
    name = uuid.uuid4().hex
    queue = make_stack(dynamodb, f"q{name}", "queue", {"QueueName": name})["QueueArn"]
    function = load("function")["Resources"]
    assert function["FromQueue"]["Properties"]["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    module, _, called = function["Function"]["Properties"]["Handler"].rpartition(".")
    assert callable(getattr(importlib.import_module(module), called))
    hidden = load("queue")["Parameters"]["VisibilityTimeout"]["Default"]
    assert hidden >= function["Function"]["Properties"]["Timeout"]
    given = {
        "CodeBucket": "none",
        "CodeKey": "none.zip",
        "QueueArn": queue,
        "Rights": "arn:aws:iam::123456789012:policy/x",
    }
    assert given.keys() | {"TablePrefix", "Concurrency", "Memory"} == load("function")["Parameters"].keys()


def test_the_dead_letter_queue_keeps_messages_for_longer_and_takes_them_from_its_queue_alone(dynamodb: str) -> None:
    name = uuid.uuid4().hex
    urls = make_stack(dynamodb, f"q{name}", "queue", {"QueueName": name})
    sqs = client("sqs", dynamodb)
    found = {
        url: sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        for url in urls.values()
        if url.startswith("http")
    }
    queue, dead = found[urls["QueueUrl"]], found[urls["DeadLetterQueueUrl"]]
    assert int(dead["MessageRetentionPeriod"]) - int(queue["MessageRetentionPeriod"]) >= 10 * 86_400
    assert queue["SqsManagedSseEnabled"] == dead["SqsManagedSseEnabled"] == "true"
    allowed = load("queue")["Resources"]["DeadLetterQueue"]["Properties"]["RedriveAllowPolicy"]
    assert allowed["redrivePermission"] == "byQueue"
    (source,) = allowed["sourceQueueArns"]
    resolved = source["Fn::Sub"].replace("${AWS::Partition}", "aws").replace("${AWS::Region}", REGION)
    assert resolved.replace("${AWS::AccountId}", "123456789012").replace("${QueueName}", name) == queue["QueueArn"]


def test_the_bucket_is_private_encrypted_and_has_versions(dynamodb: str) -> None:
    name = f"archive-{uuid.uuid4().hex}"
    assert make_stack(dynamodb, name, "archive", {"BucketName": name}) == {"BucketArn": f"arn:aws:s3:::{name}"}
    s3 = client("s3", dynamodb)
    (rule,) = s3.get_bucket_encryption(Bucket=name)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
    properties = load("archive")["Resources"]["Bucket"]["Properties"]  # moto leaves the rest out
    assert set(properties["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(properties["PublicAccessBlockConfiguration"]) == 4
    assert properties["OwnershipControls"] == {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    assert properties["VersioningConfiguration"] == {"Status": "Enabled"}


def test_no_rule_of_the_bucket_deletes_what_is_in_use() -> None:
    rules = load("archive")["Resources"]["Bucket"]["Properties"]["LifecycleConfiguration"]["Rules"]
    assert {rule["Status"] for rule in rules} == {"Enabled"}
    keys = {key for rule in rules for key in rule} - {"Id", "Status"}
    # ExpirationInDays, or ExpirationDate, would remove objects that the manifest names.
    expected = {"AbortIncompleteMultipartUpload", "ExpiredObjectDeleteMarker", "NoncurrentVersionExpiration"}
    assert keys == expected | {"Transitions"}


@pytest.mark.parametrize(("template", "resource"), [("queue", "OnlyEncrypted"), ("archive", "OnlyEncrypted")])
def test_nobody_gets_in_without_tls(template: str, resource: str) -> None:
    (statement,) = load(template)["Resources"][resource]["Properties"]["PolicyDocument"]["Statement"]
    assert (statement["Effect"], statement["Principal"]) == ("Deny", "*")
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
