"""Requests to CloudFormation, and to what its stacks hold."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import boto3
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError, WaiterError

from cli.aws.plan import Stack
from cli.errors import CommandError, Refused, Unreachable, WrongUsage

_WAIT = {"Delay": 2, "MaxAttempts": 1_800}  # an hour: the first task of a service may need long
_NOTHING = ("didn't contain changes", "No updates are to be performed")
_GONE = "does not exist"
_BROKEN = ("CREATE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "DELETE_FAILED")
UNMADE = "REVIEW_IN_PROGRESS"  # only a change set was made


class Change(NamedTuple):
    """What would happen to one resource; `action`: Add, Modify or Remove."""

    action: str
    name: str
    kind: str
    replaces: bool


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """Changes that CloudFormation has computed and not made."""

    arn: str
    stack: str
    is_new: bool
    changes: tuple[Change, ...]


class Resource(NamedTuple):
    """A resource of a stack; `at` is its name in AWS."""

    name: str
    kind: str
    at: str
    status: str


class Cloud:
    """AWS in one region, with the credentials that AWS' own tools would use."""

    def __init__(self, region: str, endpoint: str | None) -> None:
        """Make no request.

        Raises:
            WrongUsage: boto3 does not accept the region or the endpoint.
        """
        self.region = region
        self._session: Any = boto3.session.Session()
        self._endpoint = endpoint or None
        self._clients: dict[str, Any] = {}
        self._cloud = self._client("cloudformation")

    def account(self) -> str:
        """Return the number of the account."""
        with self._told("STS"):
            return str(self._client("sts").get_caller_identity()["Account"])

    def stack(self, name: str) -> dict[str, Any] | None:
        """Describe a stack; None: there is none, or only a change set was made."""
        with self._told(name):
            try:
                (found,) = self._cloud.describe_stacks(StackName=name)["Stacks"]
            except ClientError as error:
                if _GONE in str(error):
                    return None
                raise
        described: dict[str, Any] = found
        return None if described["StackStatus"] == UNMADE else described

    def outputs(self, name: str) -> dict[str, str]:
        """Return the outputs of a stack; none if there is no stack."""
        found = self.stack(name) or {}
        return {one["OutputKey"]: one["OutputValue"] for one in found.get("Outputs", [])}

    def resources(self, name: str) -> list[Resource]:
        """List what is in a stack."""
        with self._told(name):
            pages = list(self._cloud.get_paginator("list_stack_resources").paginate(StackName=name))
        return [
            Resource(
                one["LogicalResourceId"], one["ResourceType"], one.get("PhysicalResourceId", ""), one["ResourceStatus"]
            )
            for page in pages
            for one in page["StackResourceSummaries"]
        ]

    def parameters_of(self, stack: Stack) -> set[str]:
        """Return the names of the parameters of its template."""
        with self._told(stack.name):
            found = self._cloud.get_template_summary(TemplateBody=stack.body)
        return {one["ParameterKey"] for one in found["Parameters"]}

    def compute(self, stack: Stack) -> ChangeSet | None:
        """Let CloudFormation compute what would change; None: nothing.

        Raises:
            Refused: the stack is being changed, failed at its first creation, or the values are not accepted.
        """
        there = self.stack(stack.name)
        if there is not None:
            _check_usable(stack.name, there["StackStatus"])
        with self._told(stack.name):
            try:
                made = self._cloud.create_change_set(
                    StackName=stack.name,
                    ChangeSetName=f"thalamus-{uuid.uuid4().hex}",
                    ChangeSetType="CREATE" if there is None else "UPDATE",
                    TemplateBody=stack.body,
                    Parameters=self._values(stack, there),
                    Capabilities=["CAPABILITY_IAM"],
                )
                with contextlib.suppress(WaiterError):  # why is in the description
                    waiter = self._cloud.get_waiter("change_set_create_complete")
                    waiter.wait(ChangeSetName=made["Id"], StackName=stack.name, WaiterConfig={**_WAIT, "Delay": 1})
                found = self._cloud.describe_change_set(ChangeSetName=made["Id"], StackName=stack.name)
            except ClientError as error:
                if any(text in str(error) for text in _NOTHING):
                    return None
                raise
        computed = ChangeSet(made["Id"], stack.name, there is None, tuple(map(_change, found.get("Changes", []))))
        if found["Status"] == "FAILED":
            self.forget(computed)
            reason = found.get("StatusReason", "")
            if any(text in reason for text in _NOTHING):
                return None
            raise Refused(f"{stack.name}: {reason}")
        return computed

    def forget(self, computed: ChangeSet) -> None:
        """Delete a change set, and the empty stack that was made for it."""
        with self._told(computed.stack):
            self._cloud.delete_change_set(ChangeSetName=computed.arn, StackName=computed.stack)
            if computed.is_new:
                self._cloud.delete_stack(StackName=computed.stack)

    def make(self, stack: Stack) -> None:
        """Make a stack, and wait until all of it is there.

        Raises:
            Refused: it failed. What was made is deleted again, except for what holds data.
        """
        with self._told(stack.name):
            made = self._cloud.create_stack(
                StackName=stack.name,
                TemplateBody=stack.body,
                Parameters=self._values(stack, None),
                Capabilities=["CAPABILITY_IAM"],
                OnFailure="DELETE",
            )
        self._wait(made["StackId"], "stack_create_complete")

    def execute(self, computed: ChangeSet) -> None:
        """Make the changes to a stack, and wait until they are made.

        Raises:
            Refused: they failed; CloudFormation takes back what it has made.
        """
        with self._told(computed.stack):
            self._cloud.execute_change_set(ChangeSetName=computed.arn, StackName=computed.stack)
        self._wait(computed.stack, "stack_update_complete")

    def delete(self, name: str) -> None:
        """Delete a stack, and wait until it is gone.

        Raises:
            Refused: something in it is in use.
        """
        there = self.stack(name)
        if there is None:
            return
        with self._told(name):
            self._cloud.delete_stack(StackName=name)
        self._wait(there["StackId"], "stack_delete_complete")

    def has_table(self, name: str) -> bool:
        """Return whether a table of DynamoDB is there."""
        return self._is_there("dynamodb", "describe_table", ("ResourceNotFoundException",), TableName=name)

    def has_queue(self, name: str) -> bool:
        """Return whether a queue is there."""
        absent = ("AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist")
        return self._is_there("sqs", "get_queue_url", absent, QueueName=name)

    def has_bucket(self, name: str) -> bool:
        """Return whether a bucket is there.

        Raises:
            Refused: it is somebody else's.
        """
        return self._is_there("s3", "head_bucket", ("404", "NoSuchBucket"), Bucket=name)

    def messages_in(self, queue_url: str) -> int:
        """Return how many messages a queue has, about, with those that are being stored."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        names.append("ApproximateNumberOfMessagesDelayed")
        with self._told(queue_url):
            found = self._client("sqs").get_queue_attributes(QueueUrl=queue_url, AttributeNames=names)["Attributes"]
        return sum(int(found.get(name, 0)) for name in names)

    def _values(self, stack: Stack, there: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        """Return the parameters; a stack that exists keeps its own, unless changed."""
        if there is None:
            values = {**stack.parameters, **stack.changed}
            return [{"ParameterKey": key, "ParameterValue": value} for key, value in values.items()]
        known = {one["ParameterKey"] for one in there.get("Parameters", [])}
        kept = [{"ParameterKey": key, "UsePreviousValue": True} for key in sorted(known - stack.changed.keys())]
        new = {key: value for key, value in stack.parameters.items() if key not in known} | dict(stack.changed)
        return kept + [{"ParameterKey": key, "ParameterValue": value} for key, value in new.items()]

    def _is_there(self, service: str, operation: str, absent: tuple[str, ...], **arguments: str) -> bool:
        with self._told(" ".join(arguments.values())):
            try:
                getattr(self._client(service), operation)(**arguments)
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in absent:
                    return False
                raise
        return True

    def _wait(self, name: str, waiter: str) -> None:
        """Wait for a stack.

        Raises:
            Refused: what was begun failed; says what failed first.
        """
        with self._told(name):
            try:
                self._cloud.get_waiter(waiter).wait(StackName=name, WaiterConfig=_WAIT)
            except WaiterError as error:
                raise Refused(f"{name}: {self._first_failure(name) or error}") from error

    def _first_failure(self, name: str) -> str:
        """Return why the newest change failed; "" if CloudFormation does not say."""
        first = ""
        for event in self._cloud.describe_stack_events(StackName=name)["StackEvents"]:  # newest first
            if event["ResourceType"] == "AWS::CloudFormation::Stack" and event["ResourceStatus"] in (
                "CREATE_IN_PROGRESS",
                "UPDATE_IN_PROGRESS",
                "DELETE_IN_PROGRESS",
            ):
                break
            if event["ResourceStatus"].endswith("_FAILED"):
                first = f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason', event['ResourceStatus'])}"
        return first

    def _client(self, service: str) -> Any:
        if service not in self._clients:
            try:
                made = self._session.client(service, region_name=self.region, endpoint_url=self._endpoint)
            except (BotoCoreError, ValueError) as error:
                raise WrongUsage(f"--region, --endpoint: {error}") from error
            self._clients[service] = made
        return self._clients[service]

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Turn what boto3 raises into errors of the command line, which name `what`."""
        try:
            yield
        except CommandError:
            raise
        except ClientError as error:
            raise Refused(f"{what}: {error}") from error
        except (NoCredentialsError, NoRegionError) as error:
            raise WrongUsage(f"{error}; AWS' own tools say how to give them") from error
        except BotoCoreError as error:
            raise Unreachable(f"{what}: {error}") from error


def _change(found: Mapping[str, Any]) -> Change:
    one = found["ResourceChange"]
    return Change(
        one["Action"], one["LogicalResourceId"], one["ResourceType"], one.get("Replacement", "False") == "True"
    )


def _check_usable(name: str, status: str) -> None:
    """Check that a stack can be changed.

    Raises:
        Refused: it can't.
    """
    if status in _BROKEN:
        raise Refused(f"{name} is {status}: delete it first (thalamus deploy destroy), then create it again")
    if status.endswith("_IN_PROGRESS"):
        raise Refused(f"{name} is {status}: wait until that is done")
