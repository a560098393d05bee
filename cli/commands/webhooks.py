"""`thalamus webhooks`: lists, replays and drops dead letters of webhooks."""

from __future__ import annotations

from pathlib import Path

import click

from cli.dead_letters import change_dead, counted, dead_of
from cli.errors import WrongUsage
from cli.options import data_option, find_redis, json_option
from cli.output import printable, remark, say, say_json, when
from cli.redis_work import with_redis
from services.persistence.webhooks.letters import WEBHOOKS, Letter, Letters, feed_group, known_endpoints
from services.shared.feed.reader import FeedReader
from services.shared.redis.pipeline import RedisPipeline

_ids = click.argument("ids", nargs=-1, metavar="[ID]...")
_endpoint = click.argument("endpoint")
_all = click.option("--all", "every", is_flag=True, help="All dead letters of the endpoint.")


@click.group("webhooks")
def command() -> None:
    """List, replay and drop what backends did not take.

    Reads REDIS_URL, REDIS_PASSWORD_FILE and REDIS_PREFIX, or asks the Redis of the running stack.
    """


@command.command("list")
@click.argument("endpoint", required=False)
@data_option
@json_option
def list_(endpoint: str | None, data: Path, as_json: bool) -> None:
    """List dead letters, the oldest of each endpoint first.

    Then says of each endpoint how many batches wait to be sent, also of one that is no longer in the file.
    """

    async def read(redis: RedisPipeline) -> tuple[list[tuple[str, Letter, int]], dict[str, int]]:
        names = [endpoint] if endpoint else await known_endpoints(redis)
        dead = await dead_of(redis, names, WEBHOOKS)
        counts = {name: await Letters(redis, name).counts() for name in names}
        return dead, {name: waiting for name, (waiting, _) in counts.items() if waiting}

    found, waiting = with_redis(data, read)
    for name, letter, ms in found:
        if as_json:
            say_json(
                {
                    "endpoint": name,
                    "id": letter.id,
                    "events": letter.events,
                    "tries": letter.tries,
                    "last_try": ms,
                    "error": letter.error,
                }
            )
        else:
            events = counted(letter.events, "event")
            say("  ".join((name, letter.id, events, when(ms // 1000), printable(letter.error))))
    for name, count in waiting.items():
        say_json({"endpoint": name, "waiting": count}) if as_json else say(
            f"{name}  {count} {'batch waits' if count == 1 else 'batches wait'}"
        )
    remark(counted(len(found), "dead letter"))


@command.command("replay")
@_endpoint
@_ids
@_all
@data_option
@json_option
def replay(endpoint: str, ids: tuple[str, ...], every: bool, data: Path, as_json: bool) -> None:
    """Send dead letters of ENDPOINT again, with their old ids, events and numbers."""
    change_dead("endpoint", endpoint, WEBHOOKS, ids, every, data, as_json, "replayed", Letters.revive)


@command.command("drop")
@_endpoint
@_ids
@_all
@click.option(
    "--endpoint", "whole", is_flag=True, help="The endpoint itself: what waits, too, and its place in the feed."
)
@data_option
@json_option
def drop(endpoint: str, ids: tuple[str, ...], every: bool, whole: bool, data: Path, as_json: bool) -> None:
    """Forget dead letters of ENDPOINT, or, with --endpoint, all that is kept for it.

    Take an endpoint out of the file first, and restart what sends webhooks: else it begins anew, with a gap.
    """
    if not whole:
        change_dead("endpoint", endpoint, WEBHOOKS, ids, every, data, as_json, "dropped", Letters.drop)
        return
    if ids or every:
        raise WrongUsage("--endpoint drops all that is kept for it: give neither ids nor --all")

    async def run(redis: RedisPipeline) -> tuple[int, int]:
        reader = FeedReader(find_redis(data), feed_group(endpoint))
        try:
            await reader.forget()
        finally:
            await reader.close()
        return await Letters(redis, endpoint).forget()

    waiting, dead = with_redis(data, run)
    if as_json:
        say_json({"endpoint": endpoint, "done": "dropped", "waiting": waiting, "dead": dead})
    else:
        batches = f"{waiting} {'batch' if waiting == 1 else 'batches'} that waited"
        say(f"dropped: {endpoint}, {batches}, {counted(dead, 'dead letter')}")
