"""`python -m bench.unread`: what it costs to tell a member what is unread.

A group gets messages, and members who have read none of them ask `markers.get` again and again, several at a time.
The first answers make persistence read the log; then the others are measured: CPU of all processes for an answer,
that of each service, and the time of it. CPU is with everything that a call takes, such as gRPC and the WebSocket. What
the services spend in as long a time without calls is taken off. The row without unread messages shows what the call
costs by itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from statistics import quantiles

import click

from bench.callers import Caller, caller
from bench.measure.usage import usage
from bench.servers.platform import platform
from bench.servers.target import Target
from verify.progress import steps

_SETTINGS = {
    "EDGE_COMMANDS_PER_S": "0",
    "EDGE_MESSAGES_PER_USER_PER_S": "0",
    "EDGE_INVITES_PER_USER_PER_H": "0",
}


async def measure(*, members: int, unread: Sequence[int], asking: int, answers: int) -> str:
    """Return a table with a row for each number of unread messages."""
    lines = ["| unread | server CPU, µs | of persistence | of edges | of Redis | p50, ms | p99, ms |"]
    lines.append("|---:|---:|---:|---:|---:|---:|---:|")
    async with platform(edges=1, environment=_SETTINGS) as target, AsyncExitStack() as exits:
        owner = await exits.enter_async_context(caller(target, "owner"))
        callers = [await exits.enter_async_context(caller(target, f"member-{number}")) for number in range(asking)]
        with steps(len(unread)) as progress:
            for count in unread:
                progress.begin(f"{count:,} unread")
                channel = await _group(owner, members)
                for number in range(count):
                    data = {"kind": "message", "text": "x" * 80, "cid": f"{number}"}
                    await owner.ask(publish={"channel": channel, "data": data})
                row = await _ask(target, callers, channel, count, answers)
                lines.append(f"| {count:,} | {' | '.join(f'{value:,.1f}' for value in row)} |")
                progress.end(lines[-1])
    return "\n".join(lines) + "\n"


async def _group(owner: Caller, members: int) -> str:
    users = [f"member-{number}" for number in range(members)]
    settings = {"max_members": members + 1}
    made = await owner.call("conversations.create", type="group", settings=settings, users=users[:100])
    for user in users[100:]:
        await owner.call("members.add", channel=made["channel"], user=user)
    return str(made["channel"])


async def _ask(target: Target, callers: Sequence[Caller], channel: str, unread: int, answers: int) -> list[float]:
    """Return CPU, all and by service, in µs for an answer, and times in ms."""
    took: list[float] = []

    async def ask(one: Caller, count: int) -> None:
        for _ in range(count):
            began = time.perf_counter()
            found = await one.call("markers.get", channel=channel)
            took.append(1e3 * (time.perf_counter() - began))
            if found["unread"] != unread:
                raise click.ClickException(f"{found} in place of {unread} unread")

    await asyncio.gather(*(ask(one, 5) for one in callers))
    took.clear()
    before = usage(target.pids())
    await asyncio.gather(*(ask(one, answers // len(callers)) for one in callers))
    after = usage(target.pids())
    await asyncio.sleep(after.at_s - before.at_s)
    idle = usage(target.pids())
    share = (after.at_s - before.at_s) / (idle.at_s - after.at_s)
    spent = {
        name: 1e6 * (cpu - before.cpu[name] - share * (idle.cpu[name] - cpu)) / len(took)
        for name, cpu in after.cpu.items()
    }
    cuts = quantiles(took, n=100)
    edges = sum(value for name, value in spent.items() if name.startswith("edge"))
    return [sum(spent.values()), spent["persistence"], edges, spent["redis"], cuts[49], cuts[98]]


@click.command()
@click.option("--members", default=100, show_default=True)
@click.option("--unread", default="0,10,1000,10000", show_default=True, help="Messages, with commas between.")
@click.option("--asking", default=8, show_default=True, help="Members that ask at a time.")
@click.option("--answers", default=8_000, show_default=True)
def main(members: int, unread: str, asking: int, answers: int) -> None:
    """Measure what it costs to tell a member what is unread."""
    counts = list(map(int, unread.split(",")))
    click.echo(asyncio.run(measure(members=members, unread=counts, asking=asking, answers=answers)))


if __name__ == "__main__":
    main()
