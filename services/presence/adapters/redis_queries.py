"""Reads of rosters in Redis: members, counts, channels of a user, who is online."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from services.presence.adapters.names import (
    channels_key,
    order_key,
    roster_key,
    state_key,
    users_key,
)
from services.presence.domain.ports import ChannelsPage, MembersPage, UserOnline, connections_of
from services.presence.metrics import REDIS_SECONDS
from services.shared.hotlog.scripts import Call, Command, load, raise_for_error
from services.shared.process.single_flight import SingleFlight
from services.shared.redis.pipeline import RedisPipeline

TIMEOUT_S = 2.0  # longest wait for one round trip, seconds
_PAGE_BYTES = 1_048_576  # of the entries of a page, unless one alone is larger
_SCAN = 1_000  # members per HSCAN
_ROUNDS = 3  # how often a page looks for a roster that is in order
_LUA = Path(__file__).parent / "lua"
_READ = _LUA / "read_entries.lua"
_PAGE, _ENTRIES = (load(_READ, _LUA / f"{name}.lua") for name in ("page", "entries"))
_ORDER, _IN_CHANNEL, _ONLINE = (load(_LUA / f"{name}.lua") for name in ("order", "in_channel", "online"))


class RedisQueries:
    """Reads of rosters. The object itself holds none."""

    def __init__(self, redis: RedisPipeline) -> None:
        self._redis = redis
        self._ordering: SingleFlight[None] = SingleFlight()

    async def members(self, channel: str) -> AsyncIterator[list[bytes]]:
        cursor, seen = b"0", set[bytes]()
        found: list[bytes]
        while True:
            ((cursor, found),) = await self._commands(
                "members", [("HSCAN", roster_key(channel), cursor, "COUNT", _SCAN)]
            )
            named = zip(found[::2], found[1::2], strict=True)
            fresh = {client: entry for client, entry in named if client not in seen}
            seen.update(fresh)
            yield [_info(entry) for entry in fresh.values()]
            if cursor == b"0":
                return

    async def page(self, channel: str, after: str, limit: int) -> MembersPage:
        """See `Roster`.

        A large roster is kept in order by enter.lua and leave.lua. Services of an earlier version do not do that: then
        it is put in order here, in small steps, which go on when the caller gives up.
        """
        names = [roster_key(channel), order_key(channel)]
        clients: list[bytes] = []
        for attempt in range(_ROUNDS):
            (reply,) = await self._run("page", [Call(_PAGE, names, [after, limit, _PAGE_BYTES])])
            kind, *rest = raise_for_error(reply)
            if kind == 1:
                entries, following = rest
                return MembersPage(_infos(entries), following.decode())
            if kind == 0:
                (clients,) = rest
                break
            if attempt < _ROUNDS - 1:
                how = rest[0]
                await self._ordering.do((channel, how), partial(self._put_in_order, names, how))
        else:  # it changes all the time, by services of an earlier version
            (clients,) = await self._commands("page", [("HKEYS", names[0])])
        return await self._page_of(names, clients, after.encode(), limit)

    async def _page_of(self, names: Sequence[str], clients: Sequence[bytes], after: bytes, limit: int) -> MembersPage:
        """Return a page of a roster that is not in order; these are all its clients."""
        following = sorted(client for client in clients if client > after)
        asked = following[:limit]
        if not asked:
            return MembersPage([], "")
        (entries,) = await self._run("page", [Call(_ENTRIES, names, [_PAGE_BYTES, *asked])])
        found = raise_for_error(entries)
        more = len(found) < len(following)
        return MembersPage(_infos(found), asked[len(found) - 1].decode() if more else "")

    async def _put_in_order(self, names: Sequence[str], how: bytes) -> None:
        cursor = b"0"
        while True:
            (reply,) = await self._run("order", [Call(_ORDER, names, [how, cursor, _SCAN])])
            cursor = raise_for_error(reply)
            if cursor == b"0":
                break

    async def stats(self, channels: Sequence[str]) -> list[tuple[int, int]]:
        commands = [("HLEN", key) for channel in channels for key in (roster_key(channel), users_key(channel))]
        counts = await self._commands("stats", commands)
        return list(zip(counts[::2], counts[1::2], strict=True))

    async def channels(self, user: str, after: str, limit: int) -> ChannelsPage:
        key = channels_key(user)
        start = f"({after}" if after else "-"
        (names,) = await self._commands("channels", [("ZRANGEBYLEX", key, start, "+", "LIMIT", 0, limit + 1)])
        asked = [name.decode() for name in names[:limit]]
        calls = [Call(_IN_CHANNEL, [users_key(channel), key], [user, channel]) for channel in asked]
        there = map(raise_for_error, await self._run("channels", calls))
        found = [channel for channel, is_there in zip(asked, there, strict=True) if is_there]
        return ChannelsPage(found, asked[-1] if len(names) > limit else "")

    async def online(self, users: Sequence[str]) -> list[UserOnline]:
        rosters = [connections_of(user) for user in users]
        calls = [Call(_ONLINE, [roster_key(roster), state_key(roster)], []) for roster in rosters]
        replies = map(raise_for_error, await self._run("online", calls))
        return [UserOnline(count, bool(away), since, seen) for count, away, since, seen in replies]

    async def _run(self, op: str, calls: Sequence[Call]) -> list[Any]:
        if not calls:
            return []
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


def _infos(entries: Sequence[bytes]) -> list[bytes]:
    """Return the ClientInfos of roster entries; "" stands for one that is not there."""
    return [_info(entry) for entry in entries if entry]


def _info(entry: bytes) -> bytes:
    """Return the ClientInfo of a roster entry, without the header and the user."""
    end = entry.index(b"\n")
    return entry[end + 1 + int(entry[entry.rindex(b" ", 0, end) : end]) :]
