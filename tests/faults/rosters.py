"""Compares rosters, what subscribers have of them, and lifecycle events.

All functions return what is wrong, in words; empty: nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import httpx
import redis.asyncio

from services.shared.feed.events import Event, decode
from services.shared.hotlog import keys
from tests.faults.crowd import CHANNELS, ROOM, TABS, Crowd, Members
from tests.support.stack import Stack

Roster = dict[str, tuple[str, Any]]  # client → user, data
_LIMIT = 100
_LOOKS_S = 0.15


class Rosters:
    """What presence says, over the HTTP API of any edge that answers."""

    def __init__(self, stack: Stack, http: httpx.AsyncClient) -> None:
        self._stack, self._http = stack, http

    async def call(self, method: str, **body: Any) -> Any:
        """Return a result.

        Raises:
            httpx.HTTPError: no edge answers.
            LookupError: an error.
        """
        *others, last = self._stack.http_urls
        response = None
        for url in others:
            with contextlib.suppress(httpx.HTTPError):
                response = await self._http.post(f"{url}/api/{method}", json=body)
                break
        if response is None:
            response = await self._http.post(f"{last}/api/{method}", json=body)
        if "result" not in response.json():
            raise LookupError(response.text)
        return response.json()["result"]

    async def read(self, channel: str) -> Roster:
        """Return the members of a channel, read in pages."""
        found: Roster = {}
        cursor = ""
        while True:
            page = await self.call("presence_members", channel=channel, limit=_LIMIT, cursor=cursor)
            for info in page["members"]:
                assert info["client"] not in found, "a member is on two pages"
                found[info["client"]] = (info["user"], info.get("chan_info"))
            cursor = page.get("cursor", "")
            if not cursor:
                return found


async def until_right(rosters: Rosters, crowd: Crowd, within_s: float, *, exactly: bool = False) -> list[str]:
    """Wait until rosters are what the tabs want, and every tab has them right.

    `exactly`: also the clients of the channel with a grace, where one may have taken the place of another one unseen.
    """
    deadline = time.monotonic() + within_s
    while True:
        try:
            wrong = await _differences(rosters, crowd, exactly)
        except (LookupError, httpx.HTTPError) as error:
            wrong = [f"presence does not answer: {error!r}"]
        if not wrong:
            return []
        if time.monotonic() > deadline:
            return [f"after {within_s:g} s: {one}" for one in wrong[:8]]
        await asyncio.sleep(_LOOKS_S)


async def _differences(rosters: Rosters, crowd: Crowd, exactly: bool) -> list[str]:
    away = [tab.user for tab in crowd.tabs if not tab.client]
    if away:
        return [f"not connected: {away}"]
    found: list[str] = []
    for channel in CHANNELS:
        wanted = {tab.client: (tab.user, tab.data.get(channel)) for tab in crowd.tabs}
        roster = await rosters.read(channel)
        found += _compared(f"roster of {channel}", roster, wanted)
        for tab in crowd.tabs:
            members = tab.members[channel]
            if members.by_user:
                seen: Any = set(members.here)
                found += _compared(f"{tab.user}'s {channel}", dict.fromkeys(seen), dict.fromkeys(_users(roster)))
                if exactly:
                    data = {client: members.data.get(client) for client in roster}
                    found += _compared(f"{tab.user}'s data in {channel}", data, {c: d for c, (_, d) in roster.items()})
            elif channel == ROOM or exactly:
                found += _compared(f"{tab.user}'s {channel}", members.here, roster)
            else:
                found += _compared(f"{tab.user}'s {channel}", Counter(_users(members.here)), Counter(_users(roster)))
    users = {tab.user: {"online": True, "connections": 2} for tab in crowd.tabs}
    online = (await rosters.call("presence_online", users=list(users)))["users"]
    is_said = {user: {name: one.get(name) for name in ("online", "connections")} for user, one in online.items()}
    return found + _compared("online", is_said, users)


def _users(roster: Roster) -> list[str]:
    return [user for user, _ in roster.values()]


def _compared(what: str, found: dict[Any, Any], wanted: dict[Any, Any]) -> list[str]:
    if found == wanted:
        return []
    extra = {key: found[key] for key in found if key not in wanted}
    missing = {key: wanted[key] for key in wanted if key not in found}
    other = {key: (found[key], wanted[key]) for key in found.keys() & wanted.keys() if found[key] != wanted[key]}
    return [f"{what}: too much {extra}, missing {missing}, other {other}"]


# What was told, in which order.


def untrue(subscriptions: Iterable[tuple[str, Members]], *, again: bool) -> Iterator[str]:
    """Find what was told twice, or behind a leave.

    `again`: a lease was lost, so a client may have entered again.
    """
    for channel, members in subscriptions:
        seen: dict[str, list[str]] = defaultdict(list)
        for told in members.told:
            before = seen[told.user if members.by_user else told.client]
            if before[-1:] == ["leave"] and told.kind != "join":
                yield f"{channel}: {told} behind a leave"
            elif before[-1:] == ["leave"] and not members.by_user and not again:
                yield f"{channel}: {told} behind the client's leave"
            elif told.kind == "join" and before and before[-1] != "leave":
                yield f"{channel}: {told} is told twice"
            before.append(told.kind)


# Lifecycle events.


async def lifecycle(url: str) -> list[Event]:
    """Return all lifecycle events that Redis has.

    Those of each channel and user are in the order of their numbers.
    """
    found: list[Event] = []
    async with redis.asyncio.Redis.from_url(url) as client:
        for shard in range(keys.FEED_SHARDS):
            entries: Any = await client.xrange(keys.lifecycle(shard))
            for entry_id, fields in entries:
                event = decode(f"events{shard}", entry_id.decode(), fields)
                assert event is not None
                found.append(event)
    return sorted(found, key=lambda event: (event.channel, event.channel or event.user, event.number))


def unclosed(events: Iterable[Event], *, again: bool) -> Iterator[str]:
    """Find who came and was not told as gone once, and what is out of order.

    `again`: as for `untrue`.
    """
    streams: dict[tuple[str, str], list[Event]] = defaultdict(list)
    for event in events:
        streams[event.channel, "" if event.channel else event.user].append(event)
    for of, told in streams.items():
        numbers = [event.number for event in told]
        if len(set(numbers)) != len(numbers):
            yield f"{of}: a number is used twice"
        pairs: dict[str, list[str]] = defaultdict(list)
        for event in told:
            kind = str(event.type)
            if kind in ("occupied", "vacated"):
                pairs["the channel"].append(kind)
            else:
                pairs[event.user if event.channel == TABS else event.client].append(kind)
        for who, kinds in pairs.items():
            ends = [kind for kind in kinds if kind != "update"]
            first, last = {"connect": ("connect", "disconnect"), "occupied": ("occupied", "vacated")}.get(
                ends[0] if ends else "", ("join", "leave")
            )
            if ends != [first, last] * (len(ends) // 2):
                yield f"{of}: {who}: {kinds}"
            elif len(ends) != 2 and not again and of[0] != TABS and who != "the channel":
                yield f"{of}: {who} came twice: {kinds}"
            elif kinds[0] != first or kinds[-1] != last:
                yield f"{of}: {who}: an update outside: {kinds}"
