"""`thalamus deploy`: stacks in AWS, made, shown and removed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import click

from cli.aws.cloud import Change, Cloud
from cli.aws.plan import PARTS, SERVICES, STAYING, Stack, all_names, part_stacks, service_stack
from cli.errors import EXIT_FAILED, EXIT_OK, Refused, WrongUsage
from cli.options import json_option
from cli.output import remark, say, say_json
from services.shared.dynamodb import tables
from services.shared.dynamodb.settings import DynamoDbSettings
from services.shared.process.variables import read_checked_env

_PLATFORM = re.compile(r"[a-z][a-z0-9-]{0,30}")
_SIGNS = {"Add": "+", "Modify": "~", "Remove": "-"}
_FAILED = ("FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_IN_PROGRESS")


def _aws_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which platform, and where."""
    for option in (
        click.option(
            "--name", default="thalamus", show_default=True, help="Name of the platform: stacks begin with it."
        ),
        click.option("--region", envvar="AWS_REGION", show_envvar=True, default="us-east-1", show_default=True),
        click.option(
            "--endpoint", envvar="AWS_ENDPOINT_URL", show_envvar=True, help="Another address than that of AWS."
        ),
    ):
        command = option(command)
    return command


_yes_option = click.option("--yes", is_flag=True, help="Do it. Without, say what would be done.")
_parts_option = click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="Only these stacks.")
_service_option = click.option(
    "--service", type=click.Choice(SERVICES), help="The stack of a service, or of the function."
)


@click.group("deploy")
def command() -> None:
    """Make what Thalamus keeps in AWS, show it, or remove it.

    Four stacks of CloudFormation: tables, queue, archive and rights; and where there is no Swarm one for each service.
    Credentials are found as AWS' own tools find them.
    """


@command.command("create")
@_aws_options
@_parts_option
@_service_option
@click.option("--set", "given", multiple=True, metavar="NAME=VALUE", help="A parameter of a template.")
@_yes_option
@json_option
def create(
    name: str,
    region: str,
    endpoint: str | None,
    parts: tuple[str, ...],
    service: str | None,
    given: tuple[str, ...],
    yes: bool,
    as_json: bool,
) -> None:
    """Make the stacks, or bring them up to date.

    Without --yes it says what CloudFormation would change, and changes nothing. A stack that exists keeps its
    parameters, except for those of --set. Tables, a queue or a bucket that exist without a stack are left as they are.
    Reads DYNAMODB_TABLE_PREFIX for new stacks.
    """
    cloud = _cloud(name, region, endpoint)
    settings = read_checked_env(DynamoDbSettings, os.environ, "DYNAMODB_")
    if service is not None:
        if parts:
            raise WrongUsage("give --part or --service, not both")
        outputs = cloud.outputs(f"{name}-rights") | cloud.outputs(f"{name}-queue")
        stacks = [service_stack(name, service, settings.table_prefix, outputs)]
    else:
        stacks = part_stacks(name, parts or PARTS, settings.table_prefix, cloud.account(), region)
    for stack in _with_values(cloud, stacks, given):
        _create(cloud, stack, settings, yes, as_json)
    if not yes:
        remark("nothing was changed: --yes does it")


@command.command("status")
@_aws_options
@json_option
def status(name: str, region: str, endpoint: str | None, as_json: bool) -> int:
    """Show the stacks with what is in them; exit code 1 if one has failed."""
    cloud = _cloud(name, region, endpoint)
    failed = False
    for stack in all_names(name):
        found = cloud.stack(stack)
        if found is None:
            if not as_json and stack.removeprefix(f"{name}-") in PARTS:
                say(f"{stack}  not made")
            continue
        failed |= found["StackStatus"].endswith(_FAILED)
        resources, outputs = cloud.resources(stack), cloud.outputs(stack)
        if as_json:
            listed = [{"name": one.name, "type": one.kind, "at": one.at, "status": one.status} for one in resources]
            say_json({"stack": stack, "status": found["StackStatus"], "resources": listed, "outputs": outputs})
            continue
        say(f"{stack}  {found['StackStatus']}")
        for one in resources:
            say(f"  {one.name}  {one.kind}  {one.at}  {one.status}")
        for key, value in outputs.items():
            say(f"  {key} = {value}")
    return EXIT_FAILED if failed else EXIT_OK


@command.command("destroy")
@_aws_options
@_parts_option
@_service_option
@click.option("--drop-messages", is_flag=True, help="Delete the queue though messages are in it.")
@_yes_option
@json_option
def destroy(
    name: str,
    region: str,
    endpoint: str | None,
    parts: tuple[str, ...],
    service: str | None,
    drop_messages: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Delete the stacks, services first. Tables and the bucket stay, with all data.

    Without --yes it says what would be deleted. A queue with messages is not deleted without --drop-messages.
    """
    cloud = _cloud(name, region, endpoint)
    wanted = {f"{name}-{part}" for part in (*parts, *filter(None, [service]))}
    stacks = [one for one in reversed(all_names(name)) if one in (wanted or all_names(name)) and cloud.stack(one)]
    if not drop_messages and f"{name}-queue" in stacks:
        _refuse_messages(cloud, f"{name}-queue")
    for stack in stacks:
        resources = cloud.resources(stack)
        if yes:
            cloud.delete(stack)
        if as_json:
            goes = [one.name for one in resources if one.kind not in STAYING]
            stays = [one.name for one in resources if one.kind in STAYING]
            say_json({"stack": stack, "deleted": yes, "goes": goes, "stays": stays})
            continue
        say(f"{stack}  {'deleted' if yes else 'would be deleted'}")
        for one in resources:
            say(f"  {'=' if one.kind in STAYING else '-'} {one.name}  {one.kind}  {one.at}")
    if not stacks:
        remark("there is no such stack")
    elif not yes:
        remark("nothing was changed: --yes does it")


def _cloud(name: str, region: str, endpoint: str | None) -> Cloud:
    if not _PLATFORM.fullmatch(name):
        raise WrongUsage("--name has lower-case letters, digits and hyphens, begins with a letter, and 31 at most")
    return Cloud(region, endpoint)


def _with_values(cloud: Cloud, stacks: Sequence[Stack], given: Sequence[str]) -> list[Stack]:
    """Give each stack those values of --set that its template has.

    Raises:
        WrongUsage: one is not NAME=VALUE, or no template has it.
    """
    values = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise WrongUsage(f"--set {text}: it is NAME=VALUE")
        values[key] = value
    known = {stack.name: cloud.parameters_of(stack) for stack in stacks}
    for key in values:
        if not any(key in names for names in known.values()):
            raise WrongUsage(f"--set {key}: these templates have no such parameter")
    return [
        replace(stack, changed={key: value for key, value in values.items() if key in known[stack.name]})
        for stack in stacks
    ]


def _create(cloud: Cloud, stack: Stack, settings: DynamoDbSettings, yes: bool, as_json: bool) -> None:
    """Make or update one stack, or say what would be done."""
    if cloud.stack(stack.name) is None:
        if _is_made_otherwise(cloud, stack, settings):
            _say(stack.name, "was there, without a stack", (), as_json)
            return
        if yes:
            cloud.make(stack)
            made = [Change("Add", one.name, one.kind, False) for one in cloud.resources(stack.name)]
            _say(stack.name, "made", made, as_json)
            return
    computed = cloud.compute(stack)
    if computed is None:
        _say(stack.name, "is as it should be", (), as_json)
        return
    if not yes:
        _say(stack.name, "would be made" if computed.is_new else "would be changed", computed.changes, as_json)
        cloud.forget(computed)
        return
    cloud.execute(computed)
    _say(stack.name, "changed", computed.changes, as_json)


def _say(name: str, what: str, changes: Sequence[Change], as_json: bool) -> None:
    if as_json:
        listed = [
            {"action": one.action, "name": one.name, "type": one.kind, "replaces": one.replaces} for one in changes
        ]
        say_json({"stack": name, "outcome": what, "changes": listed})
        return
    say(f"{name}  {what}")
    for one in changes:
        say(f"  {_SIGNS.get(one.action, one.action)} {one.name}  {one.kind}{'  REPLACED' if one.replaces else ''}")


def _is_made_otherwise(cloud: Cloud, stack: Stack, settings: DynamoDbSettings) -> bool:
    """Return whether what a new stack would make is there already.

    Raises:
        Refused: some of it is.
    """
    values = {**stack.parameters, **stack.changed}
    if stack.part == "queue":
        return cloud.has_queue(values["QueueName"])
    if stack.part == "archive":
        return cloud.has_bucket(values["BucketName"])
    if stack.part != "tables":
        return False
    prefix = values["TablePrefix"]
    names = [one["TableName"] for one in tables.definitions(replace(settings, table_prefix=prefix))]
    there = [name for name in names if cloud.has_table(name)]
    if there and there != names:
        raise Refused(f"there is {', '.join(there)} already, without a stack: `thalamus store init` makes the others")
    return bool(there)


def _refuse_messages(cloud: Cloud, name: str) -> None:
    """Check that no message would be lost with the queues of a stack.

    Raises:
        Refused: some would.
    """
    for one in cloud.resources(name):
        if one.kind == "AWS::SQS::Queue" and (count := cloud.messages_in(one.at)):
            raise Refused(f"{one.at} has {count} messages, which would be lost: --drop-messages deletes them, too")
