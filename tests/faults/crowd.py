"""Users with two tabs each, who come back and change their presence data.

They keep members as docs/presence.md says. What each tab was told, and what it made of it, is kept:
`tests/faults/rosters.py` compares it with the rosters.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import defaultdict
from typing import Any, NamedTuple

from verify.socket import Closed, CommandError, Socket, open_socket

ROOM, HALL, TABS = "room:1", "hall:1", "tabs:1"  # without grace; with grace; by user
CHANNELS = (ROOM, HALL, TABS)
CHANNELS_TOML = "".join(
    f"""
[namespaces.{name}]
durability = "hot"
presence = true
join_leave = "force"
subscribe = ["authenticated"]
presence_read = ["subscriber"]
events = ["join", "update", "leave", "occupied", "vacated"]
{more}
"""
    for name, more in (
        ("room", "presence_grace_s = 0"),
        ("hall", "presence_grace_s = 3"),
        ("tabs", 'presence_grace_s = 3\npresence_by = "user"'),
    )
)
_PAUSE_S = (0.1, 0.6)  # before a tab comes back
_BETWEEN_S = (0.2, 0.8)  # two updates of one tab
_ANSWER_S = 4.0
_AGAIN_S = 0.2  # a list that could not be had is asked for again
_LIMIT = 100


class Told(NamedTuple):
    """One push: `kind` is `join`, `update` or `leave`; `at` in monotonic seconds."""

    at: float
    kind: str
    user: str
    client: str
    data: Any


class Members:
    """The members of one channel, as a reader keeps them.

    By client, or by user where the namespace tells by user. `told` holds all pushes of one subscription.
    """

    def __init__(self, channel: str) -> None:
        self.by_user = channel == TABS
        self.here: dict[str, tuple[str, Any]] = {}  # client (or user) → user, data
        self.data: dict[str, Any] = {}  # client → data, by user: of the last update
        self.told: list[Told] = []
        self.must_ask = True  # for the list
        self._changed: set[str] = set()

    def push(self, told: Told) -> None:
        """Set a member on every join, remove it on a leave.

        A client that one does not know, of a user whom one knows, may have taken the place of another one.
        """
        self.told.append(told)
        key = told.user if self.by_user else told.client
        self._changed.add(key)
        if not self.by_user and key not in self.here and told.user in {user for user, _ in self.here.values()}:
            self.must_ask = True
        if told.kind == "leave":
            self.here.pop(key, None)
        else:
            self.here[key] = (told.user, told.data)
            self.data[told.client] = told.data

    def ask(self) -> None:
        """The list is asked for now."""
        self.must_ask = False
        self._changed.clear()

    def listed(self, infos: list[dict[str, Any]]) -> None:
        """Take the list, except for whom pushes have told of since."""
        found = {
            info["user"] if self.by_user else info["client"]: (info["user"], info.get("chan_info")) for info in infos
        }
        kept = {key: self.here[key] for key in self._changed & self.here.keys()}
        self.here = {key: value for key, value in found.items() if key not in self._changed} | kept


class Tab:
    """One tab.

    `run` keeps it connected until it is cancelled, and changes its data unless it is `calm`.
    """

    def __init__(self, urls: list[str], token: str, user: str, rng: random.Random, *, edge: int) -> None:
        self.user, self.edge = user, edge
        self.client = ""  # "": not connected
        self.data: dict[str, Any] = {}  # by channel: the data that is wanted
        self.members: dict[str, Members] = {}
        self.past: list[tuple[str, Members]] = []  # of earlier connections, by channel
        self.clients: list[str] = []  # all ids so far
        self.errors: list[str] = []  # what must not happen
        self.calm = False
        self._urls, self._token, self._rng = urls, token, rng
        self._socket: Socket | None = None
        self._ended = asyncio.Event()
        self._busy = asyncio.Lock()

    async def run(self) -> None:
        """Come, change the data now and then, and come back."""
        while True:
            with contextlib.suppress(Closed, TimeoutError, CommandError):
                await self._come()
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(part()) for part in (self._keep_lists, self._keep_changing)]
                    await self._ended.wait()
                    for task in tasks:
                        task.cancel()
            self._forget()
            self.edge = self._rng.randrange(len(self._urls))
            await asyncio.sleep(self._rng.uniform(*_PAUSE_S))

    async def _come(self) -> None:
        self._ended = asyncio.Event()
        ended = self._ended
        self._socket = await open_socket(self._urls[self.edge], self._push, lambda code: ended.set())
        client = (await self._socket.call(_ANSWER_S, connect={"token": self._token}))["client"]
        self.clients.append(client)
        self.members = {channel: Members(channel) for channel in CHANNELS}
        for channel in CHANNELS:
            await self._socket.call(_ANSWER_S, subscribe={"channel": channel})
        self.client = client

    def _forget(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self.past += self.members.items()
        self.client, self.members, self.data = "", {}, {}

    def leave(self) -> None:
        """Close as a client that leaves; `run` has to be cancelled before."""
        self._forget()

    def _push(self, push: dict[str, Any]) -> None:
        members = self.members.get(push.get("channel", ""))
        for name in ("join", "leave"):
            if members is not None and name in push:
                info = push[name]["info"]
                kind = "update" if push[name].get("updated") else name
                members.push(Told(time.monotonic(), kind, info["user"], info["client"], info.get("chan_info")))

    async def _keep_lists(self) -> None:
        while True:
            for channel, members in self.members.items():
                if members.must_ask:
                    await self._list(channel, members)
            await asyncio.sleep(0.05)

    async def _list(self, channel: str, members: Members) -> None:
        members.ask()
        found: list[dict[str, Any]] = []
        cursor = ""
        while True:
            page = await self._rpc("members", channel=channel, limit=_LIMIT, cursor=cursor)
            if page is None:
                members.must_ask = True
                await asyncio.sleep(_AGAIN_S)
                return
            found += page["members"]
            cursor = page.get("cursor", "")
            if not cursor:
                members.listed(found)
                return

    async def _keep_changing(self) -> None:
        while True:
            await asyncio.sleep(self._rng.uniform(*_BETWEEN_S))
            if not self.calm:
                await self.change(self._rng.choice(CHANNELS), n=self._rng.randrange(1_000))

    async def change(self, channel: str, **data: int) -> None:
        """Replace the presence data; it counts whether presence answers or not."""
        async with self._busy:
            if self.client:
                self.data[channel] = data
                await self._rpc("update", channel=channel, data=data, replace=True)

    async def _rpc(self, method: str, **data: Any) -> Any:
        """Return the result; None: presence did not answer."""
        assert self._socket is not None
        try:
            result = await self._socket.call(_ANSWER_S, rpc={"method": f"presence.{method}", "data": data})
        except CommandError as error:
            if error.code != 100:
                self.errors.append(f"presence.{method}: {error}")
            return None
        except (Closed, TimeoutError):
            return None
        return result["data"]


class Crowd:
    """Users with two tabs each, on different edges at first."""

    def __init__(self, urls: list[str], tokens: dict[str, str], seed: int) -> None:
        self.tabs = [
            Tab(urls, token, user, random.Random(f"{seed} {user} {number}"), edge=(at + number) % len(urls))
            for at, (user, token) in enumerate(tokens.items())
            for number in range(2)
        ]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(tab.run()) for tab in self.tabs]

    def calm_down(self, calm: bool) -> None:
        """Whether the tabs change nothing by themselves from now on."""
        for tab in self.tabs:
            tab.calm = calm

    def on(self, edge: int) -> list[str]:
        """Return the clients that are connected to an edge."""
        return [tab.client for tab in self.tabs if tab.client and tab.edge == edge]

    async def end(self) -> None:
        """Every tab leaves, with a close frame."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for tab in self.tabs:
            tab.leave()

    def failed(self) -> list[str]:
        """What must not happen: unexpected errors, and tabs that ended by themselves."""
        found = [f"{tab.user}: {error}" for tab in self.tabs for error in tab.errors]
        return found + [f"a tab ended: {task!r}" for task in self._tasks if task.done() and not task.cancelled()]

    def subscriptions(self) -> list[tuple[str, Members]]:
        """All subscriptions so far, of all tabs, by channel."""
        return [pair for tab in self.tabs for pair in (*tab.past, *tab.members.items())]

    def first_leaves(self, channel: str) -> dict[str, float]:
        """When the leave of each client was first told to anybody, monotonic seconds."""
        found: dict[str, float] = defaultdict(lambda: float("inf"))
        for name, members in self.subscriptions():
            for told in members.told:
                if name == channel and told.kind == "leave":
                    found[told.client] = min(found[told.client], told.at)
        return dict(found)
