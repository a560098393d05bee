"""`thalamus dlq`: lists, shows, replays and drops what no worker could store."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import click

from cli.errors import Refused, Unreachable, WrongUsage
from cli.options import json_option
from cli.output import printable, remark, say, say_json
from services.persistence.queue import dead
from services.persistence.queue.messages import UnreadableMessage, decode
from services.persistence.queue.settings import SqsSettings
from services.persistence.queue.sqs import Message, SqsQueue
from services.shared.errors import Unavailable
from services.shared.process.config import ConfigError
from services.shared.process.variables import read_checked_env

T = TypeVar("T")
_ids = click.argument("ids", nargs=-1, metavar="[ID]...")
_all = click.option("--all", "every", is_flag=True, help="All messages.")


@click.group("dlq")
def command() -> None:
    """List, show, replay and drop what no worker could store.

    Reads SQS_QUEUE, SQS_ENDPOINT, AWS_REGION, and credentials as AWS' own tools do.
    """


@command.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the messages of the dead-letter queue, with channel and offsets."""

    async def see(some: Sequence[Message]) -> dead.Seen:
        for one in some:
            _tell(one, as_json)
        return dead.Seen()

    found = _run(lambda queue: dead.look_through(queue, see))
    remark(f"{found} {'message' if found == 1 else 'messages'}")


def _tell(one: Message, as_json: bool) -> None:
    """Print a line about a message."""
    try:
        rows = decode(one.body)
    except UnreadableMessage as error:
        text = f"{one.name}  can't be read: {printable(str(error))}"
        say_json({"id": one.name, "error": str(error)}) if as_json else say(text)
        return
    first, last = rows.rows[0].offset, rows.rows[-1].offset
    if as_json:
        say_json({"id": one.name, "channel": rows.channel, "epoch": rows.epoch, "first": first, "last": last})
    else:
        say(f"{one.name}  {printable(rows.channel)}  {first} to {last}")


@command.command("show")
@click.argument("name", metavar="ID")
def show(name: str) -> None:
    """Print one message as it is."""
    found: list[str] = []

    async def see(some: Sequence[Message]) -> dead.Seen:
        found.extend(one.body for one in some if one.name == name)
        return dead.Seen(goes_on=not found)

    _run(lambda queue: dead.look_through(queue, see))
    if not found:
        raise Refused(f"{name}: there is no such message")
    say(printable(found[0]))


@command.command("replay")
@_ids
@_all
@json_option
def replay(ids: tuple[str, ...], every: bool, as_json: bool) -> None:
    """Send messages to the workers again. What is stored already does no harm."""
    _change(ids, every, as_json, "replayed")


@command.command("drop")
@_ids
@_all
@json_option
def drop(ids: tuple[str, ...], every: bool, as_json: bool) -> None:
    """Delete messages. Persistence stores their rows itself, if Redis has them."""
    _change(ids, every, as_json, "dropped")


def _change(ids: tuple[str, ...], every: bool, as_json: bool, what: str) -> None:
    if bool(ids) == every:
        raise WrongUsage("give ids of messages, or --all")

    def done(name: str) -> None:
        say_json({"id": name, "done": what}) if as_json else say(f"{what}: {name}")

    missing = _run(lambda queue: dead.change(queue, None if every else ids, replay=what == "replayed", done=done))
    if missing:
        raise Refused(f"{min(missing)}: there is no such message")


def _run(work: Callable[[SqsQueue], Awaitable[T]]) -> T:
    """Run work on the queue that the environment names."""
    settings = read_checked_env(SqsSettings, os.environ, "SQS_")

    async def run() -> T:
        queue = SqsQueue(settings)
        try:
            await queue.prepare()
            return await work(queue)
        finally:
            await queue.close()

    try:
        return asyncio.run(run())
    except ConfigError as error:
        raise Refused(str(error)) from error
    except Unavailable as error:
        raise Unreachable(str(error)) from error
