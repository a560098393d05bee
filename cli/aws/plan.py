"""Which stacks a platform in AWS has, from which templates, and in which order.

Each part lives for a time of its own: data stays when its stack goes, services come and go. So each is a stack, named
`<platform>-<part>`. They are made in the order of `PARTS`, then the services, and deleted in reverse.
See `docs/decisions/0069-stacks-in-aws.md`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cli.bundled import bundled

PARTS = ("tables", "queue", "archive", "rights")
SERVICES = ("auth", "presence", "persistence", "edge", "function")
STAYING = ("AWS::DynamoDB::Table", "AWS::S3::Bucket", "AWS::S3::BucketPolicy")  # kept when their stack is deleted
_RIGHTS = {
    "auth": "AuthPolicy",
    "persistence": "PersistencePolicy",
    "function": "WorkerPolicy",
}  # output of the stack of rights


@dataclass(frozen=True, slots=True)
class Stack:
    """One stack.

    `parameters`: values for a new stack; one that exists keeps what it has, except for `changed`.
    """

    name: str
    part: str
    template: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    changed: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> str:
        """Text of the template."""
        return bundled(f"deploy/aws/{self.template}.yaml").read_text(encoding="utf-8")


def part_stacks(platform: str, parts: Sequence[str], table_prefix: str, account: str, region: str) -> list[Stack]:
    """Return the stacks of these parts, in the order in which they are made."""
    bucket = f"{platform}-archive-{account}-{region}"
    values = {
        "tables": {"TablePrefix": table_prefix},
        "queue": {"QueueName": platform},
        "archive": {"BucketName": bucket},
        "rights": {"TablePrefix": table_prefix, "QueueName": platform, "BucketName": bucket},
    }
    return [Stack(f"{platform}-{part}", part, part, values[part]) for part in PARTS if part in parts]


def service_stack(platform: str, service: str, table_prefix: str, outputs: Mapping[str, str]) -> Stack:
    """Return the stack of a service; `outputs`: of the stacks of rights and queue."""
    values = {"TablePrefix": table_prefix}
    if service in _RIGHTS and _RIGHTS[service] in outputs:
        values["Rights"] = outputs[_RIGHTS[service]]
    if service != "function":
        return Stack(f"{platform}-{service}", service, "service", {"Service": service, **values})
    if "QueueArn" in outputs:
        values["QueueArn"] = outputs["QueueArn"]
    return Stack(f"{platform}-{service}", service, "function", values)


def all_names(platform: str) -> list[str]:
    """Return the names that stacks of a platform may have, as they are made."""
    return [f"{platform}-{part}" for part in (*PARTS, *SERVICES)]
