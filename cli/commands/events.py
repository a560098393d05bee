"""`thalamus events`: prints the events of the feed, as a member of a group."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Sequence
from pathlib import Path

import click

from cli.errors import EXIT_OK, Unreachable, WrongUsage
from cli.options import data_option, find_redis
from cli.output import remark, say_json
from services.shared.errors import ThalamusError, Unavailable
from services.shared.feed.events import EventType
from services.shared.feed.reader import FeedReader, checked_group
from services.shared.process.backoff import Backoff

_BATCH = 100  # events that are taken at once, and told again together if this process dies meanwhile
_PAUSES_S = (0.1, 2.0)  # first and longest pause before Redis is asked again, seconds


@click.command("events")
@click.option("--group", required=True, help="Name of the group. Processes with the same one share the events.")
@click.option("--types", default="", help="Events to print, separated by commas [all]. Gaps are printed in any case.")
@click.option(
    "--from",
    "begin",
    type=click.Choice(["now", "start"]),
    default="now",
    show_default=True,
    help="Where a new group begins: with what comes, or with the oldest event that is kept.",
)
@click.option(
    "--claim-after",
    type=click.FloatRange(0.1, 86_400),
    default=60.0,
    show_default=True,
    help="Seconds after which events that another process took and did not acknowledge are printed here.",
)
@click.option("--forget", is_flag=True, help="Delete the group instead: Redis keeps nothing of it.")
@data_option
def command(group: str, types: str, begin: str, claim_after: float, forget: bool, data: Path) -> int:
    """Print the events of the feed as JSON lines until Ctrl-C.

    An event is acknowledged once its line is written. What a process that died did not acknowledge another one of the
    group prints, with the same id. Reads REDIS_URL, REDIS_PASSWORD_FILE and REDIS_PREFIX, or asks the Redis of the
    running stack.
    """
    try:
        checked_group(group)
        wanted = [EventType(name.strip()) for name in types.split(",") if name.strip()] or list(EventType)
    except ThalamusError as error:
        raise WrongUsage(f"--group: {error}") from error
    except ValueError as error:
        raise WrongUsage(f"--types: {error}; known: {', '.join(EventType)}") from error
    address = find_redis(data)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(address, group, wanted, begin == "start", claim_after, forget))
    return EXIT_OK


async def _run(
    address: str, group: str, types: Sequence[EventType], from_start: bool, claim_after_s: float, forget: bool
) -> None:
    reader = FeedReader(address, group, types=types, from_start=from_start, claim_after_s=claim_after_s)
    try:
        if forget:
            await reader.forget()
            remark(f"{group} is forgotten")
            return
        main = asyncio.ensure_future(_follow(reader))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, main.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await main
    except Unavailable as error:
        raise Unreachable(str(error)) from error
    finally:
        await reader.close()


async def _follow(reader: FeedReader) -> None:
    """Print and acknowledge until cancelled; go on when Redis was away.

    Raises:
        Unavailable: Redis has not answered yet.
    """
    backoff, has_answered = Backoff(*_PAUSES_S), False
    while True:
        try:
            events = await reader.next(_BATCH)
            has_answered = True
            for event in events:
                say_json(event.as_json())
            await reader.done(events)
            backoff.reset()
        except Unavailable as error:
            if not has_answered:
                raise
            remark(f"Redis does not answer: {error}")
            await asyncio.sleep(backoff.next_s())
