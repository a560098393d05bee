"""`python -m bench.feed`: what the feed costs Redis, as Markdown tables.

Memory of an entry, and CPU and commands of an append to a `hot` log: by the script of an earlier commit, of a namespace
that asks for no events, and of one that does, in alternation on one server.
"""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click
import redis

from bench.servers.process import redis as own_redis
from services.edge.domain.presence.data import MAX_BYTES
from services.shared.hotlog import hot
from services.shared.hotlog.scripts import APPEND_HOT, Call, Script
from thalamus.common.v1 import common_pb2

_FOLDER = "services/shared/hotlog"
_DATA = b'{"text":"' + b"x" * 80 + b'"}'
_AUTHOR = "user-12345"
_CHANNELS = [f"chat:room-{number:04}" for number in range(1_000)]
_ITEMS = 4  # publications of a channel in one call
_AT_ONCE = 16  # channels in one call


def _script_of(commit: str) -> Script:
    """The append script of a commit."""
    parts = [
        subprocess.run(["git", "show", f"{commit}:{_FOLDER}/{name}"], check=True, capture_output=True).stdout
        for name in ("stamp.lua", "append_hot.lua")
    ]
    return Script(b"".join(parts), hashlib.sha1(b"".join(parts), usedforsecurity=False).hexdigest())


def _call(script: Script, channels: Sequence[str], *, told: bool) -> Call:
    authors = [_AUTHOR] * _ITEMS if told else []
    batches = [hot.HotBatch(channel, 100, 600, [(_DATA, "")] * _ITEMS, authors) for channel in channels]
    call = hot.append_call(batches, edge="bench", fresh_epoch="1.abcdefghijkl", now_s=0)
    return Call(script, call.keys, call.arguments)


def _run(client: redis.Redis, call: Call) -> None:
    client.evalsha(call.script.sha, len(call.keys), *call.keys, *call.arguments)


def _cpu_s(client: redis.Redis) -> float:
    said: Any = client.info("cpu")
    return float(said["used_cpu_user"] + said["used_cpu_sys"])


def _commands(client: redis.Redis) -> int:
    said: Any = client.info("commandstats")
    return sum(one["calls"] for name, one in said.items() if name not in ("cmdstat_info", "cmdstat_evalsha"))


def _bytes_per_entry(client: redis.Redis, fields: dict[str, Any], count: int) -> float:
    """Memory of a stream, by entry."""
    client.delete("stream")
    for number in range(count):
        entry: Any = fields | {"o" if "o" in fields else "n": number + 1_000}
        client.xadd("stream", entry)
    size: Any = client.memory_usage("stream", samples=0)
    return float(size) / count


@click.command()
@click.option("--commit", default="7826526", show_default=True, help="With the append script of before.")
@click.option("--turns", default=15, show_default=True, type=click.IntRange(1))
@click.option("--calls", default=400, show_default=True, type=click.IntRange(1), help="Calls of a turn.")
def main(commit: str, turns: int, calls: int) -> None:
    """Measure and print the tables."""
    asyncio.run(_measure(commit, turns, calls))


async def _measure(commit: str, turns: int, calls: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with own_redis(Path(folder)) as (_, port):
            with redis.Redis(port=port) as client:
                _print_memory(client)
                _print_appends(client, commit, turns, calls)


def _print_memory(client: redis.Redis) -> None:
    member = common_pb2.ClientInfo(user=_AUTHOR, client="3f8a1f0e-92c1-4c52-8f2b-0d2f8f0c1a11")
    publication = {"c": _CHANNELS[0], "e": "1.abcdefghijkl", "o": 0, "a": _AUTHOR}
    lifecycle = {"k": "join", "n": 0, "c": _CHANNELS[0], "m": member.SerializeToString()}
    named, largest = (lifecycle | {"m": _with_data(member, size).SerializeToString()} for size in (100, MAX_BYTES))
    print("| entry of the feed | bytes in Redis |\n|---|---:|")
    for name, fields in (
        ("publication", publication),
        ("join, without infos", lifecycle),
        ("join, with data of 100 bytes", named),
        (f"join, with data of {MAX_BYTES:,} bytes, the most", largest),
    ):
        print(f"| {name} | {_bytes_per_entry(client, fields, 20_000):.0f} |")


def _with_data(member: common_pb2.ClientInfo, size: int) -> common_pb2.ClientInfo:
    found = common_pb2.ClientInfo(user=member.user, client=member.client)
    found.chan_info = b'"%s"' % (b"x" * (size - 2))
    return found


def _print_appends(client: redis.Redis, commit: str, turns: int, calls: int) -> None:
    before = _script_of(commit)
    for script in (before, APPEND_HOT):
        client.script_load(script.text)
    kinds = {f"{commit}": (before, False), "now, no events": (APPEND_HOT, False), "now, told": (APPEND_HOT, True)}
    cpu_us: dict[str, list[float]] = {name: [] for name in kinds}
    commands: dict[str, float] = {}
    for turn in range(turns + 1):
        order = list(kinds.items()) if turn % 2 else list(kinds.items())[::-1]
        for name, (script, told) in order:
            made = [
                _call(script, _CHANNELS[start : start + _AT_ONCE], told=told)
                for start in range(0, len(_CHANNELS) - _AT_ONCE, _AT_ONCE)
            ]
            cpu, count = _cpu_s(client), _commands(client)
            for number in range(calls):
                _run(client, made[number % len(made)])
            done = calls * _AT_ONCE * _ITEMS
            if turn:  # the first one fills the logs
                cpu_us[name].append(1e6 * (_cpu_s(client) - cpu) / done)
            commands[name] = (_commands(client) - count) / done
    first = cpu_us[commit]
    print(
        "\n| append of a `hot` publication | commands in the script | CPU of Redis, µs | ratio |\n|---|---:|---:|---:|"
    )
    for name, found in cpu_us.items():
        ratio = median(one / other for one, other in zip(found, first, strict=True))
        print(
            f"| {name} | {commands[name]:.2f} | {median(found):.2f} ({min(found):.2f}–{max(found):.2f}) | {ratio:.2f} |"
        )


if __name__ == "__main__":
    main()
