"""`Roster` on Redis: one script call per run of changes, batched."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from services.presence.adapters.names import all_keys, channels_key, index_key, member_of, roster_key, users_key
from services.presence.adapters.redis_queries import RedisQueries
from services.presence.domain.ports import Change, Due, Enter, Lease, Leave, Renewal, channel_of
from services.presence.metrics import JOINS, LEAVES
from services.shared import feed
from services.shared.hotlog import keys
from services.shared.hotlog.hotlog import FEED_MAX_ENTRIES
from services.shared.hotlog.scripts import Call, Command, load, raise_for_error
from services.shared.redis.pipeline import RedisPipeline

_ENTER_TOGETHER = 64  # most members that enter by one script call: their joins are one frame to a client
_LUA = Path(__file__).parent / "lua"
_CLOCK = _LUA / "clock.lua"
_LEASE, _EXPIRED, _WAIT, _DUE = (load(_CLOCK, _LUA / f"{name}.lua") for name in ("lease", "expired", "wait", "due"))
_LIFECYCLE = Path(feed.__file__).parent / "lifecycle.lua"
_ENTER, _LEAVE = (load(_CLOCK, _LIFECYCLE, _LUA / "roster.lua", _LUA / f"{name}.lua") for name in ("enter", "leave"))
_IN_CHANNEL = load(_LUA / "in_channel.lua")
SWEEP_S = 0.5  # pause between sweeps, seconds
_SWEEPS = 4  # the clock of presence advances by at most this many pauses between two sweeps


class RedisRoster(RedisQueries):
    """Rosters in Redis. The object itself holds no state."""

    def __init__(
        self,
        redis: RedisPipeline,
        run_id: Callable[[], str] = lambda: "",
        *,
        sweep_s: float = SWEEP_S,
        feed_max_entries: int = FEED_MAX_ENTRIES,
    ) -> None:
        """Take the connection; makes no request.

        Args:
            redis: The connection.
            run_id: Returns the run id of the server that `redis` is connected to.
            sweep_s: Pause between two sweeps, seconds.
            feed_max_entries: Entries that a stream of the feed keeps.
        """
        super().__init__(redis)
        self._feed_max_entries = feed_max_entries
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

    async def change(self, lease: Lease, changes: Sequence[Change]) -> bool:
        if not changes:
            return True
        entering = [member_of(one.roster, one.client) for one in changes if isinstance(one, Enter)]
        index = index_key(lease)
        await self._commands("index", [("SADD", index, *entering)] if entering else [])
        runs = _runs(changes)
        replies = [raise_for_error(one) for one in await self._run("change", [self._call(lease, run) for run in runs])]
        gone: dict[tuple[str, str], None] = {}  # index, member
        refused: list[Change] = []
        waits: list[str | bytes | int] = []
        left: list[tuple[str, str]] = []
        for run, reply in zip(runs, replies, strict=True):
            if isinstance(run[0], Leave):
                removed, _, left_ms, user = reply
                member = member_of(run[0].roster, run[0].client)
                if removed or not left_ms:
                    gone[index, member] = None
                    _count_leaves("clean" if run[0].clean else "unclean", run[0].roster, removed)
                    if user:
                        left.append((user.decode(), run[0].roster))
                else:
                    waits += (member, left_ms)
            elif not reply:
                refused += run
            else:
                for one, (grew, place, owner) in zip(run, reply, strict=True):
                    gone.pop((index, member_of(one.roster, one.client)), None)
                    if channel_of(one.roster):
                        JOINS.inc(grew)
                    if owner:
                        gone[_index_of(owner), member_of(one.roster, place.decode())] = None
        if waits:
            raise_for_error((await self._run("wait", [Call(_WAIT, [self._due, self._clock], waits)]))[0])
        removals: dict[str, list[str]] = {index: await self._without_entry(lease, refused)}
        for name, member in gone:
            removals.setdefault(name, []).append(member)
        await self._commands("index", [("SREM", name, *members) for name, members in removals.items() if members])
        await self._take_off(left)
        return not refused

    async def _without_entry(self, lease: Lease, changes: Sequence[Change]) -> list[str]:
        """Return those members that have no entry under a generation that is over.

        A member whose change was refused may still have one: the sweep finds it by the index.
        """
        entries = await self._commands("index", [("HGET", roster_key(one.roster), one.client) for one in changes])
        owner = f"{lease.edge} {lease.generation} ".encode()
        return [
            member_of(one.roster, one.client)
            for one, entry in zip(changes, entries, strict=True)
            if not (entry or b"").startswith(owner)
        ]

    async def _take_off(self, left: Sequence[tuple[str, str]]) -> None:
        """Take channels off the lists of users whose last client left them.

        Each item is a user and a channel. What is not done here is done when the list is read.
        """
        calls = [Call(_IN_CHANNEL, [users_key(channel), channels_key(user)], [user, channel]) for user, channel in left]
        for reply in await self._run("index", calls):
            raise_for_error(reply)

    async def due(self, limit: int) -> Due:
        replies = await self._run(
            "due", [Call(_EXPIRED, self._lease_keys, [self._most_ms]), Call(_DUE, [self._due, self._clock], [limit])]
        )
        expired, members = map(raise_for_error, replies)
        leases = [entry.decode().rsplit(" ", 1) for entry in expired]
        return Due([Lease(edge, int(generation)) for edge, generation in leases], members)

    async def reap(self, lease: Lease, limit: int) -> int:
        (members,) = await self._commands("reap", [("SRANDMEMBER", index_key(lease), limit)])
        if not members:
            await self._commands("reap", [("SREM", self._reap, f"{lease.edge} {lease.generation}")])
            await self._forget(lease)
            return 0
        await self._remove("reap", members, lease)
        await self._commands("reap", [("SREM", index_key(lease), *members)])
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
        done: list[bytes] = []
        removals: list[Command] = []
        for member, (removed, owner, left_ms, _) in zip(members, results, strict=True):
            if left_ms:
                again += (member, left_ms)
                continue
            done.append(member)
            if removed:
                removals.append(("SREM", _index_of(owner), member))
        if again:
            raise_for_error((await self._run("wait", [Call(_WAIT, [self._due, self._clock], again)]))[0])
        if done:
            await self._commands("due", [("ZREM", self._due, *done), *removals])

    async def _remove(self, how: str, members: Sequence[bytes], lease: Lease) -> list[Any]:
        """Remove members by the leave script, `how` is `reap` or `due`.

        Returns of each: removed, owner, milliseconds of grace left, the user, if no client of the user is left.
        """
        calls, rosters = [], []
        for member in members:
            roster, client = member.decode().rsplit("\n", 1)
            rosters.append(roster)
            calls.append(Call(_LEAVE, [*all_keys(roster), self._clock], [*self._head(lease, roster), client, how]))
        results = [raise_for_error(one) for one in await self._run(how, calls)]
        left = []
        for roster, (removed, _, _, user) in zip(rosters, results, strict=True):
            _count_leaves(how, roster, removed)
            if user:
                left.append((user.decode(), roster))
        await self._take_off(left)
        return results

    def _head(self, lease: Lease, roster: str) -> list[str | bytes | int]:
        """ARGV 1 to 5 of roster.lua."""
        channel = channel_of(roster)
        return [lease.edge, lease.generation, keys.pub(channel) if channel else "", self._feed_max_entries, channel]

    def _call(self, lease: Lease, run: Sequence[Change]) -> Call:
        """Return the script call for one run of changes."""
        roster = run[0].roster
        names, arguments = all_keys(roster), self._head(lease, roster)
        channels = []
        for one in run:
            if isinstance(one, Leave):
                most_ms = int(one.at_most_s * 1000) if one.at_most_s else ""
                arguments += (one.client, "clean" if one.clean else "unclean", most_ms)
                if one.lost is not None:
                    lost = one.lost
                    arguments += (lost.info, lost.user, int(lost.told), lost.events, int(lost.by_user))
                return Call(_LEAVE, [*names, self._clock], arguments)
            arguments += (one.client, _how(one), one.events, int(one.grace_s * 1000), one.user, one.info)
            arguments += (int(one.known), int(one.updated), one.since_ms)
            channels.append(channels_key(one.user))
        return Call(_ENTER, [*names, self._generations, self._leases, *channels, self._clock], arguments)


def _how(enter: Enter) -> int:
    """Return the digit `how` of an entry, see roster.lua."""
    if not channel_of(enter.roster):
        return 2 if enter.away else 0
    return {(False, False): 0, (True, False): 1, (True, True): 2, (False, True): 3}[enter.announce, enter.by_user]


def _index_of(owner: bytes) -> str:
    edge, generation = owner.decode().rsplit(" ", 1)
    return index_key(Lease(edge, int(generation)))


def _count_leaves(how: str, roster: str, count: int) -> None:
    if channel_of(roster):
        LEAVES.labels(how).inc(count)


def _runs(changes: Sequence[Change]) -> list[list[Change]]:
    """Group changes into runs, one script call each.

    Clients that enter the same roster, without a leave in between, are one run and one join message. Changes of one
    roster stay in order.
    """
    runs: list[list[Change]] = []
    last: dict[str, list[Change]] = {}
    for change in changes:
        run = last.get(change.roster)
        if run is None or isinstance(change, Leave) or isinstance(run[0], Leave) or len(run) >= _ENTER_TOGETHER:
            run = last[change.roster] = []
            runs.append(run)
        run.append(change)
    return runs
