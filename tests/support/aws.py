"""AWS for tests: clients of moto's server, and stacks made of the templates."""

from __future__ import annotations

import json
import urllib.parse
from pathlib import Path
from typing import Any

import boto3

REGION = "us-east-1"
TEMPLATES = Path(__file__).parents[2] / "deploy" / "aws"


def client(service: str, address: str) -> Any:
    """A client of boto3 for moto's server; credentials are in the environment."""
    session: Any = boto3.session.Session()  # its types know no name that is a variable
    return session.client(service, region_name=REGION, endpoint_url=address)


def listed(client: Any, operation: str, **arguments: str) -> list[Any]:
    """All that an operation lists, such as `list_tables`.

    One request returns no more than the first 50 or 100, and tests share a server.
    """
    paginator = client.get_paginator(operation)
    (names,) = paginator.result_keys
    return [one for page in paginator.paginate(**arguments) for one in names.search(page) or ()]


def make_stack(address: str, name: str, template: str, parameters: dict[str, str]) -> dict[str, str]:
    """Make a stack from `deploy/aws/<template>.yaml`; return its outputs."""
    cloud = client("cloudformation", address)
    cloud.create_stack(
        StackName=name,
        TemplateBody=(TEMPLATES / f"{template}.yaml").read_text(encoding="utf-8"),
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        Capabilities=["CAPABILITY_IAM"],
    )
    (stack,) = cloud.describe_stacks(StackName=name)["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE", stack
    return {one["OutputKey"]: one["OutputValue"] for one in stack.get("Outputs", [])}


def policy(address: str, arn: str) -> dict[str, Any]:
    """The document of a managed policy."""
    iam = client("iam", address)
    version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
    return document(iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"])


def document(found: Any) -> dict[str, Any]:
    """A policy as boto3 returns it, which may be text."""
    made: dict[str, Any] = json.loads(urllib.parse.unquote(found)) if isinstance(found, str) else found
    return made
