"""What a burst in one conversation does to those who publish meanwhile.

`storm`: many users join one group, so many a second. `deletes`: messages of one group are deleted by their authors.

**Rules.** One platform. Some clients publish in the group of the burst, others in other groups, on schedule. Each turn
has a window without the burst (the base) and one with it, in random order. What counts is, for each turn, the p99 of
acknowledgements with the burst by that without: the median of these ratios, and where 95 % of the medians would lie if
the turns were drawn again. Callers are late rather than left out: whether the burst was as fast as asked for is told.

**Redis.** How long it was blocked at a time is the longest command that its slow log has, a script being one command.
On a machine that others use, that is also as long as the system let it wait; so the base has this figure, too.

**Storm.** Each turn has a new group. Its log grows by one event for each join; more would be events that nobody asked
for. Joins that are decided again, because others were numbered first, are counted (`thalamus_chat_rechecks`).

**Trade-off.** Who joins does not subscribe: a thousand subscribers of a thousand joins are half a million deliveries,
which measure a fan-out. The clients that publish in the group are told of all.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import redis.asyncio

import services
from bench.callers import ADDED_AT_ONCE, MESSAGE, NO_LIMITS, Caller, caller, new_groups
from bench.load.commands import Report
from bench.load.fleet import Fleet
from bench.load.histogram import Histogram
from bench.measure.metrics import scrape, total
from bench.scenarios.steady import connect, publish
from bench.servers.platform import platform
from bench.servers.target import Target
from bench.turns import interval
from services.shared.hotlog.scripts import name_of
from verify.progress import steps

_SETTINGS = NO_LIMITS | {"EDGE_PING_INTERVAL_S": "0"}  # callers read nothing while they wait for their turn
_WARM_S = 1.0
_SETTLES_S = 0.5  # what a burst leaves Redis to do counts, too
_SEED = 1
_OPENED_AT_ONCE = 50
_LOGGED_FROM_US = 100
_LOGGED = 10_000  # commands that the slow log keeps


class Window(NamedTuple):
    """What publishers saw, and how long Redis was blocked at a time."""

    inside_ms: float  # p99 of acknowledgements in the group of the burst
    others_ms: float  # of those in other groups
    refused: int  # publications
    blocked_ms: float
    by: str = ""  # which command took so long


class Burst(NamedTuple):
    """What became of the calls of a burst."""

    calls: int
    took_s: float
    p99_ms: float  # of the calls, from when they were due
    events: int  # of the group, publications left out
    rechecks: float


class Turn(NamedTuple):
    """A window without the burst, and one with it."""

    base: Window
    load: Window
    burst: Burst


Call = Callable[[], Awaitable[Any]]


def quantile(values: Sequence[float], fraction: float) -> float:
    """The smallest value that has this fraction of all at or below it."""
    return sorted(values)[max(0, math.ceil(fraction * len(values)) - 1)]


def command_name(command: bytes) -> str:
    """Name of a command in the slow log of Redis; of a script the file that has it."""
    words = command.decode(errors="replace").split(" ", 2)
    if words[0] != "EVALSHA":
        return words[0]
    return name_of(words[1]) or _single_files().get(words[1], f"script {words[1]}")


@functools.cache
def _single_files() -> dict[str, str]:
    """SHA-1 → name of the scripts that are one file each."""
    files = Path(services.__file__ or "").parent.rglob("*.lua")
    return {hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest(): path.name for path in files}


async def on_schedule(calls: Sequence[Call], callers: int, per_s: float) -> list[float]:
    """Make calls, number i by caller i mod `callers`, each of whom waits for its last.

    Returns:
        Milliseconds from when each call was due until its answer.
    """
    begins = time.perf_counter()
    took: list[float] = []

    async def some(first: int) -> None:
        for number in range(first, len(calls), callers):
            due = begins + number / per_s
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            await calls[number]()
            took.append(1e3 * (time.perf_counter() - due))

    await asyncio.gather(*(some(first) for first in range(callers)))
    return took


class _Publishers:
    """Those in the group of the burst and those in others, on a platform."""

    def __init__(
        self, target: Target, fleets: tuple[Fleet, Fleet], *, clients: int, channels: int, per_s: float
    ) -> None:
        self._target, (self._inside, self._others) = target, fleets
        self._clients, self._channels, self._per_s = clients, channels, per_s

    async def open_others(self) -> None:
        """Open those in other groups."""
        groups = await new_groups(self._target, self._clients, self._channels)
        await connect(self._others, self._target, self._clients, groups, payload=MESSAGE)

    async def open_group(self, owner: Caller, more: Sequence[str], joins: int) -> str:
        """Make a group of the publishers and some more, which so many may join.

        Who published in the group before does so in this one from now on.
        """
        members = [*(f"user-{number}" for number in range(self._clients)), *more]
        settings = {"join": "anyone", "max_members": 1 + len(members) + joins}
        made = await owner.call("conversations.create", type="group", settings=settings, users=members[:ADDED_AT_ONCE])
        for user in members[ADDED_AT_ONCE:]:
            await owner.call("members.add", channel=made["channel"], user=user)
        await self._inside.close()
        await connect(self._inside, self._target, self._clients, [made["channel"]], payload=MESSAGE)
        await self.publish(_WARM_S)
        return str(made["channel"])

    async def publish(self, seconds: float) -> tuple[Report, Report]:
        """Publish on schedule, in the group and in others."""
        for fleet in (self._inside, self._others):
            await fleet.counters(reset=True)
        return await asyncio.gather(
            publish(self._inside, self._clients, self._per_s, seconds),
            publish(self._others, self._clients // self._channels, self._per_s, seconds),
        )


class _Bench:
    """Takes turns."""

    def __init__(self, target: Target, publishers: _Publishers, owner: Caller, client: redis.asyncio.Redis) -> None:
        self._target, self.publishers, self.owner, self._redis = target, publishers, owner, client
        self._rng = random.Random(_SEED)

    async def turn(self, channel: str, calls: Sequence[Call], callers: int, per_s: float) -> Turn:
        """Publish for as long as the burst is to take, without it and with it."""
        seconds, windows, burst = len(calls) / per_s, dict[bool, Window](), None
        for with_burst in self._rng.sample((False, True), 2):
            await self._redis.slowlog_reset()
            if with_burst:
                windows[True], burst = await self._load(channel, calls, callers, per_s)
            else:
                windows[False] = await self._window(await self.publishers.publish(seconds))
        assert burst is not None
        return Turn(windows[False], windows[True], burst)

    async def _load(self, channel: str, calls: Sequence[Call], callers: int, per_s: float) -> tuple[Window, Burst]:
        top, rechecks, began = await self._top(channel), await self._rechecks(), time.perf_counter()
        took_s = 0.0

        async def burst() -> list[float]:
            nonlocal took_s
            took = await on_schedule(calls, callers, per_s)
            took_s = time.perf_counter() - began
            return took

        took, seen = await asyncio.gather(burst(), self.publishers.publish(len(calls) / per_s))
        events = await self._top(channel) - top - seen[0].acked
        made = Burst(len(calls), took_s, quantile(took, 0.99), events, await self._rechecks() - rechecks)
        return await self._window(seen), made

    async def _window(self, seen: tuple[Report, Report]) -> Window:
        await asyncio.sleep(_SETTLES_S)
        slow: Any = await self._redis.slowlog_get(_LOGGED)
        nothing: dict[str, Any] = {"duration": 0, "command": b""}
        longest = max(slow, key=lambda one: int(one["duration"]), default=nothing)
        inside_ms, others_ms = (Histogram(one.ack_us).percentile(0.99) / 1e3 for one in seen)
        refused, by = sum(one.refused for one in seen), command_name(longest["command"])
        return Window(inside_ms, others_ms, refused, longest["duration"] / 1e3, by)

    async def _top(self, channel: str) -> int:
        return int((await self.owner.ask(history={"channel": channel, "limit": 0}))["offset"])

    async def _rechecks(self) -> float:
        return total(await scrape(self._target.internal), "thalamus_chat_rechecks_total")


@asynccontextmanager
async def _bench(clients: int, channels: int, per_s: float) -> AsyncIterator[tuple[Target, _Bench]]:
    async with (
        platform(edges=2, environment=_SETTINGS) as target,
        Fleet(1) as inside,
        Fleet(1) as others,
        caller(target, "owner") as owner,
        redis.asyncio.Redis.from_url(target.redis_url) as client,
    ):
        await client.config_set("slowlog-max-len", _LOGGED)
        await client.config_set("slowlog-log-slower-than", _LOGGED_FROM_US)
        publishers = _Publishers(target, (inside, others), clients=clients, channels=channels, per_s=per_s)
        await publishers.open_others()
        yield target, _Bench(target, publishers, owner, client)


async def _callers(exits: AsyncExitStack, target: Target, users: Sequence[str]) -> list[Caller]:
    found: list[Caller] = []
    for first in range(0, len(users), _OPENED_AT_ONCE):
        some = enumerate(users[first : first + _OPENED_AT_ONCE], first)
        opened = (exits.enter_async_context(caller(target, user, number)) for number, user in some)
        found += await asyncio.gather(*opened)
    return found


async def measure_storm(
    *, joins: int, within_s: float, clients: int, channels: int, turns: int, per_s: float
) -> list[Turn]:
    """Have users join a group, a new one in each turn."""
    found = []
    async with _bench(clients, channels, per_s) as (target, bench), AsyncExitStack() as exits:
        users = await _callers(exits, target, [f"joiner-{number}" for number in range(joins)])
        with steps(turns) as progress:
            for number in range(turns):
                progress.begin(f"turn {number + 1}")
                channel = await bench.publishers.open_group(bench.owner, [], joins)
                calls = [functools.partial(user.call, "conversations.join", channel=channel) for user in users]
                found.append(await bench.turn(channel, calls, len(users), joins / within_s))
                progress.end(_line(found[-1]))
    return found


async def measure_deletes(
    *, deletes_per_s: float, seconds: float, authors: int, clients: int, channels: int, turns: int, per_s: float
) -> list[Turn]:
    """Have authors delete messages of a group; they send new ones before each turn."""
    found = []
    async with _bench(clients, channels, per_s) as (target, bench), AsyncExitStack() as exits:
        names = [f"author-{number}" for number in range(authors)]
        users = await _callers(exits, target, names)
        channel = await bench.publishers.open_group(bench.owner, names, 0)
        with steps(turns) as progress:
            for number in range(turns):
                progress.begin(f"turn {number + 1}")
                calls = await _deletes(users, channel, round(deletes_per_s * seconds))
                found.append(await bench.turn(channel, calls, len(users), deletes_per_s))
                progress.end(_line(found[-1]))
    return found


async def _deletes(users: Sequence[Caller], channel: str, count: int) -> list[Call]:
    """Calls that delete new messages, number i by user i modulo their number."""

    async def send(user: Caller) -> Call:
        of = (await user.call("messages.send", channel=channel, text="x" * 80))["offset"]
        return functools.partial(user.call, "messages.delete", channel=channel, of=of)

    calls: list[Call] = []
    while len(calls) < count:
        calls += await asyncio.gather(*map(send, users[: count - len(calls)]))
    return calls


def _line(turn: Turn) -> str:
    inside, others = turn.load.inside_ms / turn.base.inside_ms, turn.load.others_ms / turn.base.others_ms
    blocked = f"Redis blocked {turn.load.blocked_ms:.1f} ms by {turn.load.by}"
    return f"p99 in the group × {inside:.2f}, in others × {others:.2f}; {blocked}"


def bursts_table(found: Sequence[Turn]) -> str:
    """A row for publishers without the burst and with it, and what it did."""
    lines = ["| publishers | p99 in the group, ms | in others, ms | Redis blocked at most, ms | refused |"]
    lines.append("|---|---:|---:|---:|---:|")
    for name, windows in (("alone", [turn.base for turn in found]), ("with the burst", [turn.load for turn in found])):
        inside, others = (median(column) for column in list(zip(*windows, strict=True))[:2])
        longest, refused = max(windows, key=lambda one: one.blocked_ms), sum(one.refused for one in windows)
        blocked = f"{longest.blocked_ms:.1f} ({longest.by})" if longest.by else f"{longest.blocked_ms:.1f}"
        lines.append(f"| {name} | {inside:.1f} | {others:.1f} | {blocked} | {refused:,} |")
    lines.append("")
    for where, ratios in (
        ("the group", [turn.load.inside_ms / turn.base.inside_ms for turn in found]),
        ("other groups", [turn.load.others_ms / turn.base.others_ms for turn in found]),
    ):
        low, high = interval(ratios)
        lines.append(
            f"In {where} the p99 is {median(ratios):.2f} × that of the base, 95 %: {low:.2f} to {high:.2f}, "
            f"of {len(found)} turns."
        )
    bursts = [turn.burst for turn in found]
    longest_ms = [turn.load.blocked_ms for turn in found]
    lines.append(
        f"A burst: {bursts[0].calls:,} calls in {median(one.took_s for one in bursts):.2f} s, their p99 "
        f"{median(one.p99_ms for one in bursts):.1f} ms, {max(one.events for one in bursts):,} events at most, "
        f"{max(one.rechecks for one in bursts):,.0f} decided again at most. "
        f"Redis was blocked {median(longest_ms):.2f} ms at a time, the median of the turns' longest."
    )
    return "\n".join(lines) + "\n"
