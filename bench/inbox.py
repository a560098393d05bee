"""`python -m bench.inbox`: what inboxes cost.

`lists`: many users open their application within some seconds. Each connects and asks for the first page of the inbox,
of several hundred conversations with something unread. Before, each asks once, a few at a time: then nothing is in
Redis but the logs, so persistence reads users' lists from the store, and the conversations; what is not answered in
time then is asked again. The time of an answer is from the request to the reply; CPU is that of each service for a
user, with the connection.

`memory`: what an edge keeps for a user in a conversation. As many users with conversations as without subscribe to
their inboxes; the difference of both growths, by pairs of user and conversation.

`hints`: what an edge spends on what the feed tells of. Entries are appended to the streams as commits append them, so
many at a time, while the edge has nothing else to do; its CPU without them is taken off. The first row is of
conversations that nobody on the edge has, which is what nearly all hints are of. In the second row each conversation
has members who watch their inboxes: so it has their pushes, too.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import quantiles

import click
import redis.asyncio

from bench.callers import ADDED_AT_ONCE, NO_LIMITS, caller
from bench.measure.metrics import scrape, total
from bench.measure.usage import usage
from bench.servers.platform import platform
from bench.servers.target import Target
from services.shared.hotlog import keys
from verify.progress import steps

_PAGE = 100  # conversations of the first page
_MADE_AT_ONCE = 8
_FIRST_AT_ONCE = 4
_HINTS_AT_ONCE = 16  # that a commit appends to one stream
_SETTLED_S = 3.0  # after which what was begun behind the last answer is done
_TOLD_S = 30.0  # longest time until the edge has read all hints
_EDGE = "edge-1"  # name of its process
_SEED = 1
_FAR = 1_000_000  # offsets of hints, beyond those that users know


async def measure_lists(*, users: int, conversations: int, members: int, seconds: float, rounds: int) -> str:
    """Return a table of answers, and a line about memory."""
    async with platform(edges=1, environment=NO_LIMITS) as target:
        with steps(rounds + 2) as progress:
            progress.begin(f"{users * conversations // members:,} groups of {members}")
            await _make(target, users, conversations, members)
            progress.end("made")
            lines = ["| inboxes | p50, ms | p99, ms | CPU of persistence, ms | of the edge | of Redis |"]
            lines.append("|---|---:|---:|---:|---:|---:|")
            for number in range(rounds):
                name = (
                    f"{users / seconds:g} users a second" if number else f"the first time, {_FIRST_AT_ONCE} at a time"
                )
                progress.begin(name)
                row = await _open_all(target, users, min(_PAGE, conversations), seconds if number else None)
                lines.append(f"| {name} | {' | '.join(f'{value:.1f}' for value in row)} |")
                progress.end(lines[-1])
                await asyncio.sleep(_SETTLED_S)
            progress.begin("memory")
            size = await _memory(target, users, conversations)
            progress.end("watched")
    lines.append(f"\n{users:,} users within {seconds:g} s, {conversations} conversations each, in groups of {members}.")
    lines.append(f"Memory of an edge for a user in a conversation: {size:.0f} bytes.")
    return "\n".join(lines) + "\n"


def _groups(users: int, conversations: int, members: int) -> list[list[str]]:
    """Members of groups: every user is in so many, each time with others."""
    rng, names = random.Random(_SEED), [f"user-{number}" for number in range(users)]
    groups = []
    for _ in range(conversations):
        rng.shuffle(names)
        groups += [names[at : at + members] for at in range(0, users, members)]
    return groups


async def _make(target: Target, users: int, conversations: int, members: int) -> None:
    """Make groups, each with a message that nobody but its author has read."""
    groups = iter(_groups(users, conversations, members))

    async def some() -> None:
        for group in groups:
            async with caller(target, group[0]) as owner:
                made = await owner.call("conversations.create", type="group", users=group[1 : ADDED_AT_ONCE + 1])
                await owner.call("messages.send", channel=made["channel"], text="x" * 80)

    await asyncio.gather(*(some() for _ in range(_MADE_AT_ONCE)))
    await asyncio.sleep(_SETTLED_S)


async def _open_all(target: Target, users: int, shown: int, seconds: float | None) -> list[float]:
    """Return p50 and p99 in ms, and CPU by service in ms for a user.

    `seconds`: in which they come, one after the other on schedule; None: a few at a time, as soon as they can.
    """
    took: list[float] = []
    at_once = asyncio.Semaphore(_FIRST_AT_ONCE if seconds is None else users)

    async def open_one(number: int) -> None:
        await asyncio.sleep((seconds or 0.0) * number / users)
        async with at_once, caller(target, f"user-{number}") as one:
            began = time.perf_counter()
            while True:
                try:
                    found = await one.call("inbox.list", limit=_PAGE)
                    break
                except click.ClickException as error:  # the first ones make what all others read
                    if seconds is not None or "'code': 100" not in str(error):
                        raise
            took.append(1e3 * (time.perf_counter() - began))
            if len(found["conversations"]) != shown:
                raise click.ClickException(f"{len(found['conversations'])} conversations in place of {shown}")

    before = usage(target.pids()).cpu
    await asyncio.gather(*map(open_one, range(users)))
    after = usage(target.pids()).cpu
    cuts = quantiles(took, n=100)
    return [cuts[49], cuts[98], *(1e3 * (after[name] - before[name]) / users for name in _SERVICES)]


_SERVICES = ("persistence", _EDGE, "redis")


async def _memory(target: Target, users: int, conversations: int) -> float:
    """Return bytes of an edge for a user in a conversation."""
    async with AsyncExitStack() as exits:
        grown = []
        for name in ("newcomer", "nobody", "user"):  # the first ones pay for what all of them need
            callers = [await exits.enter_async_context(caller(target, f"{name}-{one}")) for one in range(users)]
            await asyncio.sleep(_SETTLED_S)
            before = usage(target.pids()).rss[_EDGE]
            for at, one in enumerate(callers):
                await one.ask(subscribe={"channel": f"inbox:#{name}-{at}"})
            await asyncio.sleep(_SETTLED_S)
            grown.append(usage(target.pids()).rss[_EDGE] - before)
    _, without, with_them = grown
    return 1_024 * (with_them - without) / (users * conversations)


async def measure_hints(*, per_s: float, seconds: float, conversations: int, watchers: int, turns: int) -> str:
    """Return a table with a row for each kind of conversations."""
    lines = ["| hints of | told of in a second | CPU of the edge, % of a core | of Redis | µs of the edge for a hint |"]
    lines.append("|---|---:|---:|---:|---:|")
    async with platform(edges=1, environment=NO_LIMITS) as target:
        client = redis.asyncio.Redis.from_url(target.redis_url)
        async with client, _watching(target, conversations, watchers) as watched:
            channels = {
                "conversations of nobody here": [f"conv:g.{number:026}" for number in range(conversations)],
                "conversations that are watched": watched,
            }
            offsets = itertools.count(_FAR)
            with steps(2 * turns) as progress:
                for name, some in channels.items():
                    rows = []
                    for _ in range(turns):
                        progress.begin(name)
                        rows.append(await _tell(target, client, some, offsets, per_s, seconds))
                        progress.end(f"{rows[-1][1]:.2f} % of a core")
                    middle = sorted(rows, key=lambda row: row[1])[turns // 2]
                    lines.append(f"| {name} | {' | '.join(f'{value:,.2f}' for value in middle)} |")
    return "\n".join(lines) + "\n"


@asynccontextmanager
async def _watching(target: Target, conversations: int, watchers: int) -> AsyncIterator[list[str]]:
    """Context manager: users watch their inboxes; the channels of their conversations.

    There are `conversations` in all, each of two users.
    """
    async with AsyncExitStack() as exits:
        callers = [await exits.enter_async_context(caller(target, f"user-{one}")) for one in range(watchers)]
        channels = []
        for number in range(conversations):
            owner, other = number % watchers, (number + 1) % watchers
            users = [f"user-{other}"] if other != owner else []
            made = await callers[owner].call("conversations.create", type="group", users=users)
            channels.append(str(made["channel"]))
        for number, one in enumerate(callers):
            await one.ask(subscribe={"channel": f"inbox:#user-{number}"})
        yield channels


async def _tell(
    target: Target,
    client: redis.asyncio.Redis,
    channels: Sequence[str],
    offsets: itertools.count[int],
    per_s: float,
    seconds: float,
) -> list[float]:
    """Return hints told of per second, CPU of edge and Redis in %, and µs for a hint."""
    by_shard: dict[int, list[str]] = {}
    for channel in channels:
        by_shard.setdefault(keys.feed_shard(channel), []).append(channel)
    turns = itertools.cycle([(shard, itertools.cycle(some)) for shard, some in by_shard.items()])
    await asyncio.sleep(_SETTLED_S)
    idle, at = usage(target.pids()), time.monotonic()
    await asyncio.sleep(seconds)
    start, idle_s = usage(target.pids()), time.monotonic() - at
    told, sent, began = await _hints(target), 0, time.monotonic()
    while time.monotonic() < began + seconds:
        while sent < per_s * (time.monotonic() - began):
            shard, some = next(turns)
            async with client.pipeline(transaction=False) as pipeline:
                for _ in range(_HINTS_AT_ONCE):
                    number = next(offsets)
                    said = {"c": next(some), "e": "bench", "h": number, "a": "user-0", "l": f"1 {number} 0"}
                    pipeline.xadd(keys.commits(shard), said)  # type: ignore[arg-type]
                await pipeline.execute()
            sent += _HINTS_AT_ONCE
        await asyncio.sleep(_HINTS_AT_ONCE / per_s / 2)
    took = time.monotonic() - began
    while await _hints(target) < told + sent:
        if time.monotonic() > began + took + _TOLD_S:
            raise click.ClickException("the edge did not read all hints")
        await asyncio.sleep(0.1)
    end, whole_s = usage(target.pids()), time.monotonic() - began
    spent = {
        name: (end.cpu[name] - start.cpu[name]) - (start.cpu[name] - idle.cpu[name]) * whole_s / idle_s
        for name in (_EDGE, "redis")
    }
    return [sent / took, 100 * spent[_EDGE] / took, 100 * spent["redis"] / took, 1e6 * spent[_EDGE] / sent]


async def _hints(target: Target) -> float:
    return total(await scrape(target.internal), "thalamus_edge_inbox_hints_total")


@click.command()
@click.option("--users", default=1_000, show_default=True)
@click.option("--conversations", default=300, show_default=True, help="Of each user.")
@click.option("--members", default=50, show_default=True, help="Of each group.", type=click.IntRange(2, 101))
@click.option("--seconds", default=10.0, show_default=True, help="In which they ask; of each turn of hints.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--per-s", default=3_000.0, show_default=True, help="Hints.")
@click.option("--told", default=1_000, show_default=True, help="Conversations that hints are of.")
@click.option("--watchers", default=100, show_default=True)
@click.option("--turns", default=3, show_default=True, help="Of hints; the middle one is shown.")
@click.option("--only", type=click.Choice(["lists", "hints"]), help="One part; memory is with the lists.")
def main(
    users: int,
    conversations: int,
    members: int,
    seconds: float,
    rounds: int,
    per_s: float,
    told: int,
    watchers: int,
    turns: int,
    only: str | None,
) -> None:
    """Measure what inboxes cost."""
    if only != "hints":
        lists = measure_lists(users=users, conversations=conversations, members=members, seconds=seconds, rounds=rounds)
        click.echo(asyncio.run(lists))
    if only != "lists":
        hints = measure_hints(per_s=per_s, seconds=seconds, conversations=told, watchers=watchers, turns=turns)
        click.echo(asyncio.run(hints))


if __name__ == "__main__":
    main()
