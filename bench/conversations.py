"""`python -m bench.conversations`: what a message of a conversation costs.

`cost`: CPU of all processes for a message, beside that of a plain publish in a `stored` channel. One platform has
clients of both; they get load in short turns, one kind at a time, in random order, so that what disturbs the machine
disturbs both. Both publish the same bytes. What counts is the difference of each turn, its median, and where 95 % of
the medians would lie if the turns were drawn again.

`counts`: commands of Redis and calls to the store for a message, in a group of 10, a group of 1,000 and an open
conversation in which 100,000 users were let in. The author follows the conversation and watches the inbox. Messages are
sent one after the other, so that each is a batch of its own, and what is done anyway in so long a time is taken off.
The figures must be equal: nothing is done per member.

`storm` and `deletes`: what bursts do to those who publish meanwhile; see `bench.bursts`.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import click
import redis.asyncio

from bench.bursts import bursts_table, measure_deletes, measure_storm
from bench.callers import ADDED_AT_ONCE, MESSAGE, NO_LIMITS, Caller, caller, new_groups
from bench.load.fleet import Fleet
from bench.measure.metrics import scrape, total
from bench.scenarios.steady import connect, publish, window
from bench.servers.platform import platform
from bench.servers.target import Target
from bench.turns import interval
from verify.progress import steps

_KINDS = ("plain", "conversation")
_WARM_S = 3.0
_SEED = 1
_LET_IN_AT_ONCE = 200


async def measure_cost(*, clients: int, channels: int, turns: int, per_s: float, seconds: float) -> str:
    """Return a table of both kinds of publications."""
    members, rng = clients // channels, random.Random(_SEED)
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in _KINDS}
    async with (
        platform(edges=2, environment=NO_LIMITS) as target,
        Fleet(2) as plain,
        Fleet(2) as chatting,
    ):
        fleets = dict(zip(_KINDS, (plain, chatting), strict=True))
        names = {
            "plain": [f"chat:plain-{number}" for number in range(channels)],
            "conversation": await new_groups(target, clients, channels),
        }
        for kind, fleet in fleets.items():
            await connect(fleet, target, clients, names[kind], payload=MESSAGE)
            await publish(fleet, members, per_s, _WARM_S)
        with steps(turns) as progress:
            for number in range(turns):
                progress.begin(f"turn {number + 1}")
                for kind in rng.sample(_KINDS, len(_KINDS)):
                    figures = await window(fleets[kind], target, members=members, per_s=per_s, seconds=seconds)
                    found[kind].append(figures)
                progress.end(" ".join(f"{kind} {found[kind][-1]['cpu_us_per_publish']:.0f}" for kind in _KINDS))
    return cost_table(found)


def cost_table(found: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """A row for each kind, and the difference of the turns; figures are medians."""
    lines = ["| publish | server CPU, µs | edges | persistence | Redis | p99 of acknowledgement, ms | refused |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|")
    for kind in _KINDS:
        each = [
            (
                turn["cpu_us_per_publish"],
                *(1e6 * sum(turn.get(f"cpu_s_{name}", 0.0) for name in names) / turn["acked"] for names in _PARTS),
                turn["ack_p99_ms"],
            )
            for turn in found[kind]
        ]
        cells = [f"{median(column):.1f}" for column in zip(*each, strict=True)]
        refused = sum(turn["refused"] for turn in found[kind])
        lines.append(f"| {kind} | {' | '.join(cells)} | {refused:,.0f} |")
    more = [
        chat["cpu_us_per_publish"] - plain["cpu_us_per_publish"]
        for plain, chat in zip(*(found[kind] for kind in _KINDS), strict=True)
    ]
    low, high = interval(more)
    lines.append(f"\nA message costs {median(more):.1f} µs more, 95 %: {low:.1f} to {high:.1f}, of {len(more)} turns.")
    return "\n".join(lines) + "\n"


_PARTS = (("edge-1", "edge-2"), ("persistence",), ("redis",))


async def _let_in(target: Target, channel: str, users: int) -> None:
    """Let users ask for the history of an open conversation, each by a connection."""

    async def some(numbers: Sequence[int]) -> None:
        for number in numbers:
            async with caller(target, f"follower-{number}") as follower:
                await follower.ask(history={"channel": channel, "limit": 1})

    await asyncio.gather(*(some(range(at, users, _LET_IN_AT_ONCE)) for at in range(min(users, _LET_IN_AT_ONCE))))


async def _counters(target: Target, client: redis.asyncio.Redis) -> tuple[float, float, float]:
    """Commands of Redis, in scripts too; calls to the store; requests to DynamoDB."""
    said: Any = await client.info("commandstats")
    commands = sum(one["calls"] for name, one in said.items() if name != "cmdstat_info")
    samples = await scrape(target.internal)
    store = total(samples, "thalamus_persistence_store_seconds_count")
    return commands, store, total(samples, "thalamus_dynamodb_calls_total")


async def _per_message(
    target: Target, client: redis.asyncio.Redis, owner: Caller, channel: str, messages: int, every_s: float
) -> list[float]:
    """Return what a message adds to each counter.

    What is added in as long a time without is taken off.
    """
    counts = []
    for sends in (True, False):
        before, ends = await _counters(target, client), time.monotonic() + messages * every_s
        for number in range(messages if sends else 0):
            data = {"kind": "message", "text": "x" * 80, "cid": f"{number}-{secrets.token_hex(4)}"}
            await owner.ask(publish={"channel": channel, "data": data})
            await asyncio.sleep(max(0.0, ends - (messages - number - 1) * every_s - time.monotonic()))
        await asyncio.sleep(max(0.0, ends - time.monotonic()))
        after = await _counters(target, client)
        counts.append([now - then for now, then in zip(after, before, strict=True)])
    return [(with_them - without) / messages for with_them, without in zip(*counts, strict=True)]


async def measure_counts(
    *, sizes: Sequence[int], followers: int, messages: int, every_s: float, environment: Mapping[str, str]
) -> str:
    """Return a table of what a message adds to the counters, by conversation."""
    rows: dict[str, list[float]] = {}
    async with platform(edges=1, environment={**NO_LIMITS, **environment}) as target:
        address = target.redis_url
        client = redis.asyncio.Redis.from_url(address)
        async with client, caller(target, "owner") as owner:
            await owner.ask(subscribe={"channel": "inbox:#owner"})
            channels: dict[str, str] = {"plain `stored` channel": "chat:plain"}
            for size in sizes:
                users = [f"member-{number}" for number in range(size - 1)]
                settings = {"max_members": max(size, 1)}
                made = await owner.call(
                    "conversations.create", type="group", settings=settings, users=users[:ADDED_AT_ONCE]
                )
                for user in users[ADDED_AT_ONCE:]:
                    await owner.call("members.add", channel=made["channel"], user=user)
                channels[f"group of {size:,}"] = made["channel"]
            opened = await owner.call("conversations.create", type="open", id=f"bench-{secrets.token_hex(4)}")
            await _let_in(target, opened["channel"], followers)
            channels[f"open, {followers:,} were let in"] = opened["channel"]
            with steps(len(channels)) as progress:
                for name, channel in channels.items():
                    progress.begin(name)
                    await owner.ask(subscribe={"channel": channel})
                    await owner.ask(publish={"channel": channel, "data": {"kind": "message", "text": "first"}})
                    rows[name] = await _per_message(target, client, owner, channel, messages, every_s)
                    progress.end(f"{name}: {rows[name]}")
    lines = ["| conversation | commands of Redis | calls to the store | requests to DynamoDB |", "|---|---:|---:|---:|"]
    lines += [f"| {name} | {' | '.join(f'{value:.2f}' for value in row)} |" for name, row in rows.items()]
    return "\n".join(lines) + "\n"


@click.group()
def main() -> None:
    """Measure messages of conversations."""


@main.command()
@click.option("--clients", default=1_000, show_default=True, help="Of each kind.")
@click.option("--channels", default=250, show_default=True, help="Of each kind.")
@click.option("--turns", default=60, show_default=True)
@click.option("--per-s", default=1_000.0, show_default=True, help="Publications.")
@click.option("--seconds", default=1.0, show_default=True, help="Of a turn.")
def cost(clients: int, channels: int, turns: int, per_s: float, seconds: float) -> None:
    """CPU of a message beside that of a plain `stored` publish."""
    click.echo(asyncio.run(measure_cost(clients=clients, channels=channels, turns=turns, per_s=per_s, seconds=seconds)))


@main.command()
@click.option("--sizes", default="10,1000", show_default=True, help="Of groups, with commas between.")
@click.option("--followers", default=100_000, show_default=True, help="Of the open conversation.")
@click.option("--messages", default=200, show_default=True)
@click.option("--every-s", default=0.02, show_default=True, help="Between two messages.")
@click.option("--setting", "settings", multiple=True, help="NAME=VALUE of the services, such as another store.")
def counts(sizes: str, followers: int, messages: int, every_s: float, settings: Sequence[str]) -> None:
    """Commands of Redis and calls to the store for a message."""
    click.echo(
        asyncio.run(
            measure_counts(
                sizes=list(map(int, sizes.split(","))),
                followers=followers,
                messages=messages,
                every_s=every_s,
                environment=dict(setting.split("=", 1) for setting in settings),
            )
        )
    )


@main.command()
@click.option("--joins", default=900, show_default=True, help="Of one group, in each turn; a group has 1,000 members.")
@click.option("--within-s", default=2.0, show_default=True, help="In which they join.")
@click.option("--clients", default=50, show_default=True, help="That publish in the group, and as many in others.")
@click.option("--channels", default=25, show_default=True, help="The other groups.")
@click.option("--turns", default=20, show_default=True)
@click.option("--per-s", default=100.0, show_default=True, help="Publications in the group, and as many in others.")
def storm(joins: int, within_s: float, clients: int, channels: int, turns: int, per_s: float) -> None:
    """Publishers while many users join one group at once."""
    storms = measure_storm(joins=joins, within_s=within_s, clients=clients, channels=channels, turns=turns, per_s=per_s)
    click.echo(bursts_table(asyncio.run(storms)))


@main.command()
@click.option("--deletes", "deletes_per_s", default=1_000.0, show_default=True, help="Per second, in one group.")
@click.option("--seconds", default=1.0, show_default=True, help="Of a burst.")
@click.option("--authors", default=100, show_default=True, help="Who delete their messages.")
@click.option("--clients", default=50, show_default=True, help="That publish in the group, and as many in others.")
@click.option("--channels", default=25, show_default=True, help="The other groups.")
@click.option("--turns", default=20, show_default=True)
@click.option("--per-s", default=100.0, show_default=True, help="Publications in the group, and as many in others.")
def deletes(
    deletes_per_s: float, seconds: float, authors: int, clients: int, channels: int, turns: int, per_s: float
) -> None:
    """Publishers, and Redis, while many messages of one group are deleted."""
    bursts = measure_deletes(
        deletes_per_s=deletes_per_s,
        seconds=seconds,
        authors=authors,
        clients=clients,
        channels=channels,
        turns=turns,
        per_s=per_s,
    )
    click.echo(bursts_table(asyncio.run(bursts)))


if __name__ == "__main__":
    main()
