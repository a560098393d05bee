"""`Roster` on Redis: one script call per run of changes, batched."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from services.presence.domain.ports import Change, Due, Enter, Lease, Leave, Renewal
from services.presence.metrics import JOINS, LEAVES, REDIS_SECONDS
from services.shared.hotlog import keys
from services.shared.hotlog.scripts import Call, Command, load, raise_for_error
from services.shared.redis.pipeline import RedisPipeline

TIMEOUT_S = 2.0  # longest wait for one round trip, seconds
_PAGE = 1_000  # members per HSCAN
_ENTER_TOGETHER = 64  # most members that enter by one script call: their joins are one frame to a client
_LUA = Path(__file__).parent / "lua"
_CLOCK = _LUA / "clock.lua"
_ENTER = load(_LUA / "enter.lua")
_LEASE, _EXPIRED, _LEAVE, _WAIT, _DUE = (
    load(_CLOCK, _LUA / f"{name}.lua") for name in ("lease", "expired", "leave", "wait", "due")
)
SWEEP_S = 0.5  # pause between sweeps, seconds
_SWEEPS = 4  # the clock of presence advances by at most this many pauses between two sweeps


def _names(channel: str) -> list[str]:
    """Return the keys of a channel: roster, users, gone, gone users (one hash tag)."""
    roster = keys.name(f"presence:{{{channel}}}")
    return [roster, f"{roster}:users", f"{roster}:gone", f"{roster}:gone_users"]


def _index(lease: Lease) -> str:
    """Return the key of the set of a lease's members."""
    return keys.name(f"presence:index:{lease.edge}:{lease.generation}")


def _member(channel: str, client: str) -> str:
    return f"{channel}\n{client}"


class RedisRoster:
    """Rosters in Redis. The object itself holds no state."""

    def __init__(
        self, redis: RedisPipeline, run_id: Callable[[], str] = lambda: "", *, sweep_s: float = SWEEP_S
    ) -> None:
        """Take the connection; makes no request.

        Args:
            redis: The connection.
            run_id: Returns the run id of the server that `redis` is connected to.
            sweep_s: Pause between two sweeps, seconds.
        """
        self._redis = redis
        self._run_id = run_id
        parts = ("leases", "generations", "reap", "runs", "later", "clock")
        self._lease_keys = tuple(keys.name(f"presence:{part}") for part in parts)
        self._leases, self._generations, self._reap, self._runs, _, self._clock = self._lease_keys
        self._due = keys.name("presence:due")
        self._most_ms = int(1_000 * _SWEEPS * sweep_s)

    async def renew(self, lease: Lease, ttl_s: float, *, held: bool, roster: str = "") -> Renewal:
        while True:
            run_id = self._run_id()
            arguments: list[str | bytes | int] = [lease.edge, lease.generation, int(ttl_s * 1000), int(held), run_id]
            arguments += (roster, secrets.token_hex(8))
            (renewed,) = await self._run("lease", [Call(_LEASE, self._lease_keys, arguments)])
            if self._run_id() == run_id:  # else the connection is new, maybe to a restarted server: ask again
                granted, name = raise_for_error(renewed)
                return Renewal(bool(granted), name.decode())

    async def change(self, lease: Lease, changes: Sequence[Change]) -> None:
        if not changes:
            return
        entering = [_member(one.channel, one.client) for one in changes if isinstance(one, Enter)]
        index = _index(lease)
        await self._commands("index", [("SADD", index, *entering)] if entering else [])
        runs = _runs(changes)
        replies = await self._run("change", [self._call(lease, run) for run in runs])
        changes = [change for run in runs for change in run]
        results: list[Any] = []
        for run, reply in zip(runs, replies, strict=True):
            results += raise_for_error(reply) if isinstance(run[0], Enter) else [raise_for_error(reply)]
        over: list[str] = []
        replaced: list[Command] = []
        waits: list[str | bytes | int] = []
        for change, result in zip(changes, results, strict=True):
            if isinstance(change, Enter):
                grew, place, owner = result
                JOINS.inc(grew)
                if owner:
                    edge, generation = owner.decode().rsplit(" ", 1)
                    replaced.append(
                        ("SREM", _index(Lease(edge, int(generation))), _member(change.channel, place.decode()))
                    )
                continue
            removed, _, left_ms = result
            if removed or not left_ms:
                over.append(_member(change.channel, change.client))
                LEAVES.labels("clean" if change.clean else "unclean").inc(removed)
            else:
                waits += (_member(change.channel, change.client), left_ms)
        if waits:
            raise_for_error((await self._run("wait", [Call(_WAIT, [self._due, self._clock], waits)]))[0])
        await self._commands("index", [*([("SREM", index, *over)] if over else []), *replaced])

    async def members(self, channel: str) -> AsyncIterator[list[bytes]]:
        cursor, seen = b"0", set[bytes]()
        found: list[bytes]
        while True:
            ((cursor, found),) = await self._commands(
                "members", [("HSCAN", _names(channel)[0], cursor, "COUNT", _PAGE)]
            )
            named = zip(found[::2], found[1::2], strict=True)
            fresh = {client: entry for client, entry in named if client not in seen}
            seen.update(fresh)
            yield [_info(entry) for entry in fresh.values()]
            if cursor == b"0":
                return

    async def stats(self, channels: Sequence[str]) -> list[tuple[int, int]]:
        commands = [("HLEN", name) for channel in channels for name in _names(channel)[:2]]
        counts = await self._commands("stats", commands)
        return list(zip(counts[::2], counts[1::2], strict=True))

    async def due(self, limit: int) -> Due:
        replies = await self._run(
            "due", [Call(_EXPIRED, self._lease_keys, [self._most_ms]), Call(_DUE, [self._due, self._clock], [limit])]
        )
        expired, members = map(raise_for_error, replies)
        leases = [entry.decode().rsplit(" ", 1) for entry in expired]
        return Due([Lease(edge, int(generation)) for edge, generation in leases], members)

    async def reap(self, lease: Lease, limit: int) -> int:
        (members,) = await self._commands("reap", [("SRANDMEMBER", _index(lease), limit)])
        if not members:
            await self._commands("reap", [("SREM", self._reap, f"{lease.edge} {lease.generation}")])
            await self._forget(lease)
            return 0
        await self._remove("reap", members, lease)
        await self._commands("reap", [("SREM", _index(lease), *members)])
        return len(members)

    async def _forget(self, lease: Lease) -> None:
        """Forget the generation of an edge that is gone for good."""
        (score, known) = await self._commands(
            "reap", [("ZSCORE", self._leases, lease.edge), ("HGET", self._generations, lease.edge)]
        )
        if score is None and known is not None and int(known) == lease.generation:
            await self._commands("reap", [("HDEL", self._generations, lease.edge), ("HDEL", self._runs, lease.edge)])

    async def end_graces(self, members: Sequence[bytes]) -> None:
        results = await self._remove("due", members, Lease("", 0))
        again: list[str | bytes | int] = []
        for member, (_, _, left_ms) in zip(members, results, strict=True):
            if left_ms:
                again += (member, left_ms)
        done = [member for member, (_, _, left_ms) in zip(members, results, strict=True) if not left_ms]
        if again:
            raise_for_error((await self._run("wait", [Call(_WAIT, [self._due, self._clock], again)]))[0])
        if done:
            removals: list[Command] = [("ZREM", self._due, *done)]
            for member, (removed, owner, _) in zip(members, results, strict=True):
                if removed:
                    edge, generation = owner.decode().rsplit(" ", 1)
                    removals.append(("SREM", _index(Lease(edge, int(generation))), member))
            await self._commands("due", removals)

    async def _remove(self, how: str, members: Sequence[bytes], lease: Lease) -> list[Any]:
        """Remove members by the leave script, `how` is `reap` or `due`.

        Returns (removed, owner, milliseconds of grace left) of each.
        """
        calls = []
        for member in members:
            channel, client = member.decode().rsplit("\n", 1)
            names = [*_names(channel), self._clock]
            calls.append(Call(_LEAVE, names, [client, how, lease.edge, lease.generation, keys.pub(channel), "", ""]))
        results = [raise_for_error(one) for one in await self._run(how, calls)]
        LEAVES.labels(how).inc(sum(removed for removed, _, _ in results))
        return results

    def _call(self, lease: Lease, run: Sequence[Change]) -> Call:
        """Return the script call for one run of changes."""
        channel = run[0].channel
        names, pub = _names(channel), keys.pub(channel)
        arguments: list[str | bytes | int] = [lease.edge, lease.generation, pub]
        for one in run:
            if isinstance(one, Leave):
                how = "clean" if one.clean else "unclean"
                leaving: list[str | bytes | int] = [one.client, how, lease.edge, lease.generation, pub, one.lost_info]
                most_ms = int(one.at_most_s * 1000) if one.at_most_s else ""
                return Call(_LEAVE, [*names, self._clock], [*leaving, most_ms])
            known = "1" if one.known else ""
            arguments += (one.client, int(one.announce), int(one.grace_s * 1000), one.user, one.info, known)
        return Call(_ENTER, names, arguments)

    async def _run(self, op: str, calls: Sequence[Call]) -> list[Any]:
        started = time.perf_counter()
        try:
            return await self._redis.run(calls, timeout_s=TIMEOUT_S)
        finally:
            REDIS_SECONDS.labels(op).observe(time.perf_counter() - started)

    async def _commands(self, op: str, commands: Sequence[Command]) -> list[Any]:
        if not commands:
            return []
        started = time.perf_counter()
        try:
            return [raise_for_error(reply) for reply in await self._redis.execute(commands, timeout_s=TIMEOUT_S)]
        finally:
            REDIS_SECONDS.labels(op).observe(time.perf_counter() - started)


def _runs(changes: Sequence[Change]) -> list[list[Change]]:
    """Group changes into runs, one script call each.

    Clients that enter the same channel, without a leave of that channel in between, are one run and one join message.
    Changes of one channel stay in order.
    """
    runs: list[list[Change]] = []
    last: dict[str, list[Change]] = {}
    for change in changes:
        run = last.get(change.channel)
        if run is None or isinstance(change, Leave) or isinstance(run[0], Leave) or len(run) >= _ENTER_TOGETHER:
            run = last[change.channel] = []
            runs.append(run)
        run.append(change)
    return runs


def _info(entry: bytes) -> bytes:
    """Return the ClientInfo of a roster entry, without the header and the user."""
    head, rest = entry.split(b"\n", 1)
    return rest[int(head.rsplit(b" ", 1)[1]) :]
