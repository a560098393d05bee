"""Presence of a running platform: changed on one edge, seen on another.

docs/presence.md says what each call does; tests/edge/wire/test_presence_methods.py has its details.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.lateness import Lateness
from tests.support.stack import Stack
from tests.support.wire_client import WireClient, WireError

WITHIN_S = 1.0  # error 100 comes by then, while presence is away
SLACK_S = 0.5  # of a busy machine
CHANNELS = """
[namespaces.room]
durability = "hot"
presence = true
join_leave = "force"
subscribe = ["authenticated"]
publish = ["subscriber"]
presence_read = ["subscriber"]

[namespaces.stage]
durability = "hot"
presence = true
join_leave = "force"
presence_auto = false
presence_enter = ["authenticated"]
subscribe = ["authenticated"]
presence_read = ["authenticated"]

[namespaces.tabs]
durability = "hot"
presence = true
join_leave = "force"
presence_by = "user"
presence_enter = ["authenticated"]
subscribe = ["authenticated"]
presence_read = ["subscriber"]

[namespaces.hall]
durability = "hot"
presence = true
join_leave = "force"
presence_event_rate = 20
subscribe = ["authenticated"]
presence_read = ["subscriber"]
"""


def channels_file(folder: Path) -> Path:
    """A channels file with what these tests use."""
    path = folder / "channels.toml"
    path.write_text(CHANNELS)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    file = channels_file(tmp_path_factory.mktemp("presence"))
    with Stack(channels_file=file, restart=False) as running:
        yield running


class Tab(WireClient):
    """A client that knows its id, and reads joins and leaves in order."""

    id = ""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._events: dict[str, int] = {}

    def next_event(self, channel: str) -> dict[str, Any] | None:
        """The next join or leave of the channel; None: it has not come."""
        at = self._events.get(channel, 0)
        found = [one for one in self.pushes(channel) if "join" in one or "leave" in one]
        if len(found) == at:
            return None
        self._events[channel] = at + 1
        return found[at]


class Site:
    """Clients on either edge, and a backend."""

    def __init__(self, stack: Stack, exits: AsyncExitStack, backend: httpx.AsyncClient) -> None:
        self.stack, self._exits, self._backend = stack, exits, backend
        self.run = secrets.token_hex(4)

    def channel(self, namespace: str) -> str:
        return f"{namespace}:{self.run}"

    def user(self, name: str) -> str:
        return f"{name}-{self.run}"

    async def client(self, name: str, edge: int, *channels: str, **claims: Any) -> Tab:
        made = await self._exits.enter_async_context(Tab(self.stack.ws_urls[edge]))
        made.id = (await made.connect(self.stack.token(self.user(name), **claims)))["client"]
        for channel in channels:
            await made.subscribe(channel)
        return made

    async def api(self, method: str, edge: int = 0, **body: Any) -> Any:
        response = await self._backend.post(f"{self.stack.http_urls[edge]}/api/{method}", json=body)
        assert "result" in response.json(), response.text
        return response.json()["result"]


@pytest.fixture
async def site(place: Stack) -> AsyncIterator[Site]:
    async with AsyncExitStack() as exits:
        backend = await exits.enter_async_context(httpx.AsyncClient(headers={"X-API-Key": place.api_key}, timeout=10))
        yield Site(place, exits, backend)


async def rpc(client: WireClient, method: str, **data: Any) -> Any:
    return (await client.call(rpc={"method": f"presence.{method}", "data": data}))["data"]


async def told(client: Tab, channel: str) -> tuple[str, str, Any]:
    """The next join, update or leave: what, of which client, and its chan_info."""
    push = await client.wait_for(lambda: client.next_event(channel), f"a join or leave in {channel}")
    kind = "join" if "join" in push else "leave"
    info = push[kind]["info"]
    return ("update" if push[kind].get("updated") else kind), info["client"], info.get("chan_info")


async def test_the_six_operations_over_http_are_seen_on_the_other_edge(site: Site) -> None:
    room, other_room = site.channel("room"), site.channel("stage")
    watcher = await site.client("watcher", 1, room, other_room)
    ann = await site.client("ann", 0)
    user = site.user("ann")
    assert (await told(watcher, room))[:2] == ("join", watcher.id)
    # Add.
    assert await site.api("presence_enter", user=user, channel=room, data={"mood": "good"}) == {"num_clients": 1}
    assert await told(watcher, room) == ("join", ann.id, {"mood": "good"})
    await site.api("presence_enter", 1, user=user, channel=other_room)
    assert await told(watcher, other_room) == ("join", ann.id, None)
    # Update.
    await site.api("presence_update", 1, user=user, channel=room, data={"at": 1.0})
    assert await told(watcher, room) == ("update", ann.id, {"mood": "good", "at": 1.0})
    await site.api("presence_update", user=user, channel=room, data={"at": 2}, replace=True)
    assert await told(watcher, room) == ("update", ann.id, {"at": 2})
    # List.
    page = await site.api("presence_members", 1, channel=room)
    assert {one["user"]: one.get("chan_info") for one in page["members"]} == {
        user: {"at": 2},
        site.user("watcher"): None,
    }
    counts = await site.api("presence_counts", channels=[room, other_room])
    assert counts == {
        "channels": {room: {"num_clients": 2, "num_users": 2}, other_room: {"num_clients": 1, "num_users": 1}}
    }
    # Channels of a user.
    assert await site.api("presence_channels", user=user) == {"channels": sorted((room, other_room))}
    # Remove.
    assert await site.api("presence_leave", 1, user=user, channel=other_room) == {"num_clients": 1}
    assert await told(watcher, other_room) == ("leave", ann.id, None)
    assert ann.pushes(other_room) == []
    # Remove from all.
    await site.api("presence_enter", user=user, channel=other_room)
    await told(watcher, other_room)
    assert await site.api("presence_remove", 1, user=user) == {"num_clients": 1}
    assert await told(watcher, other_room) == ("leave", ann.id, None)
    assert await told(watcher, room) == ("leave", ann.id, {"at": 2})
    for channel in (room, other_room):  # she is told
        assert (await ann.push(channel, "leave"))["leave"]["info"]["client"] == ann.id
    assert await site.api("presence_channels", user=user) == {"channels": []}


async def test_a_user_is_removed_on_every_edge_and_may_be_unsubscribed(site: Site) -> None:
    room = site.channel("room")
    watcher = await site.client("watcher", 1, room)
    tabs = [await site.client("ann", edge, room) for edge in (0, 1)]
    for _ in range(3):
        await told(watcher, room)
    result = await site.api("presence_remove", user=site.user("ann"), channel=room, unsubscribe=True)
    assert result == {"num_clients": 2}
    assert {(await told(watcher, room))[1] for _ in tabs} == {tab.id for tab in tabs}
    for tab in tabs:
        assert (await tab.push(room, "unsubscribe"))["unsubscribe"]["code"] == 2000
        assert tab.id in [push["leave"]["info"]["client"] for push in tab.pushes(room, "leave")]
    again = await site.client("ann", 0, room)  # who connects later is not concerned
    assert (await told(watcher, room))[:2] == ("join", again.id)


async def test_a_client_is_seen_and_changes_what_is_seen(site: Site) -> None:
    stage = site.channel("stage")
    watcher = await site.client("watcher", 1, stage)
    ann = await site.client("ann", 0)
    await rpc(ann, "enter", channel=stage, data={"seat": 7})
    assert await told(watcher, stage) == ("join", ann.id, {"seat": 7})
    assert (await rpc(watcher, "members", channel=stage))["members"] == [
        {"user": site.user("ann"), "client": ann.id, "chan_info": {"seat": 7}}
    ]
    assert await rpc(ann, "channels") == {"channels": [stage]}
    await rpc(ann, "update", channel=stage, data={"seat": None, "row": 2})
    assert await told(watcher, stage) == ("update", ann.id, {"row": 2})
    await ann.call(refresh={"token": site.stack.token(site.user("ann"), info={"name": "Anne"})})
    assert await told(watcher, stage) == ("update", ann.id, {"row": 2})
    assert watcher.pushes(stage, "join")[-1]["join"]["info"]["conn_info"] == {"name": "Anne"}
    await rpc(ann, "leave", channel=stage)
    assert await told(watcher, stage) == ("leave", ann.id, {"row": 2})
    assert await rpc(watcher, "counts", channels=[stage]) == {"channels": {stage: {"num_clients": 0, "num_users": 0}}}


@pytest.mark.parametrize("namespace", ["stage", "tabs"])
async def test_who_comes_back_is_told_of_if_others_see_other_data(site: Site, namespace: str) -> None:
    channel = site.channel(namespace)
    watcher = await site.client("watcher", 1)
    old = {}
    for name, data in (("ann", {"n": 1}), ("bob", {"n": 1}), ("cid", None)):
        client = await site.client(name, 0, channel)
        await rpc(client, "enter", channel=channel, **({"data": data} if data else {}))
        client.abort()
        old[name] = client.id
    await watcher.subscribe(channel)
    if namespace == "tabs":
        await told(watcher, channel)  # its own join
    for name, data in (("cid", None), ("ann", {"n": 2}), ("bob", None)):
        back = await site.client(name, 1)
        await rpc(back, "enter", channel=channel, **({"data": data} if data else {}))
        if name == "cid":
            continue  # as before: nobody is told
        if namespace == "tabs":
            assert await told(watcher, channel) == ("update", back.id, data)
        else:
            assert await told(watcher, channel) == ("leave", old[name], {"n": 1})
            assert await told(watcher, channel) == ("join", back.id, data)
    await rpc(back, "leave", channel=channel)
    assert await told(watcher, channel) == ("leave", back.id, None)


async def test_three_tabs_on_two_edges_are_one_user(site: Site) -> None:
    channel = site.channel("tabs")
    watcher = await site.client("watcher", 1, channel)
    await told(watcher, channel)
    tabs = [await site.client("ann", edge, channel) for edge in (0, 1, 0)]
    assert await told(watcher, channel) == ("join", tabs[0].id, None)
    assert (await rpc(watcher, "counts", channels=[channel]))["channels"][channel] == {"num_clients": 4, "num_users": 2}
    await rpc(tabs[1], "update", channel=channel, data="typing")
    assert await told(watcher, channel) == ("update", tabs[1].id, "typing")
    for tab in tabs:
        await tab.call(unsubscribe={"channel": channel})
    assert await told(watcher, channel) == ("leave", tabs[2].id, None)
    assert watcher.next_event(channel) is None


async def test_who_is_online_is_known_on_every_edge(site: Site) -> None:
    ann, bob = site.user("ann"), site.user("bob")
    tabs = [await site.client("ann", edge) for edge in (0, 1)]
    asking = await site.client("bob", 0)

    async def online(user: str, **expected: Any) -> None:
        deadline = time.monotonic() + 30
        while True:
            found = (await rpc(asking, "online", users=[user]))["users"][user]
            assert (await site.api("presence_online", 1, users=[user]))["users"].keys() == {user}
            if expected.items() <= found.items():
                return
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.05)

    await online(ann, online=True, state="active", connections=2)
    await online(bob, online=True, state="active", connections=1)
    for tab in tabs:
        await rpc(tab, "state", state="away")
    await online(ann, online=True, state="away")
    await rpc(tabs[1], "state", state="active")
    await online(ann, online=True, state="active")
    for tab in tabs:
        await tab.socket.close(1000)
    await online(ann, online=False)
    found = (await rpc(asking, "online", users=[ann, site.user("nobody")]))["users"]
    assert 0 <= time.time() * 1000 - found[ann]["last_seen"] < 60_000
    assert found[site.user("nobody")] == {"online": False}


async def test_a_storm_of_joins_is_told_slowly_and_ends_as_it_is(site: Site) -> None:
    """The state of who sets members by client is right at the end."""
    hall = site.channel("hall")
    watcher = await site.client("watcher", 1, hall)
    crowd = await asyncio.gather(*(site.client(f"u{number}", number % 2, hall) for number in range(60)))
    began = time.monotonic()
    at_once = len(watcher.pushes(hall, "join"))
    assert at_once < 60, "a rate of 20 told all at once"
    for one in crowd[::2]:
        await one.call(unsubscribe={"channel": hall})
    for one in crowd[1::6]:
        await rpc(one, "update", channel=hall, data={"n": 1})
    expected = {
        one["client"]: one.get("chan_info")
        for one in (await rpc(watcher, "members", channel=hall, limit=1_000))["members"]
    }
    assert len(expected) == 31
    seen: dict[str, Any] = {}

    def is_right() -> bool | None:
        seen.clear()
        for push in watcher.pushes(hall):
            if "join" in push:
                seen[push["join"]["info"]["client"]] = push["join"]["info"].get("chan_info")
            elif "leave" in push:
                seen.pop(push["leave"]["info"]["client"], None)
        return seen == expected or None

    await watcher.wait_for(is_right, "the members as they are")
    events = len(watcher.pushes(hall, "join")) + len(watcher.pushes(hall, "leave"))
    assert events <= at_once + 20 * (time.monotonic() - began + SLACK_S) + 10


async def test_while_presence_is_away_calls_are_100_and_messages_go_on_and_then_all_is_as_wanted(site: Site) -> None:
    room, stage = site.channel("room"), site.channel("stage")
    watcher = await site.client("watcher", 1, room, stage)
    ann = await site.client("ann", 0, room)
    for _ in range(2):
        await told(watcher, room)
    site.stack.kill9("presence")
    try:
        for method, data in (
            ("update", {"channel": room, "data": {"n": 1}}),
            ("enter", {"channel": stage, "data": {"n": 2}}),
            ("counts", {"channels": [stage]}),
            ("channels", {}),
            ("online", {"users": ["x"]}),
            ("members", {"channel": stage}),
        ):
            async with Lateness() as late:
                error = await ann.error(rpc={"method": f"presence.{method}", "data": data})
            assert (error["code"], error["temporary"]) == (100, True), method
            assert late.took_s < WITHIN_S + SLACK_S, method
        async with Lateness() as late:
            await ann.publish(room, "still here")
            assert (await watcher.publication(room))["data"] == "still here"
        assert late.took_s < WITHIN_S
    finally:
        site.stack.start("presence")
    found = set()
    for channel in (room, stage):
        while True:
            try:
                event = await told(watcher, channel)
            except WireError as error:
                raise AssertionError(f"{channel}: {watcher.pushes(channel)}") from error
            if event[1] == ann.id and event[0] in ("join", "update"):
                found.add((channel, event[2]["n"]))
                break
    assert found == {(room, 1), (stage, 2)}
    members = {one["client"]: one.get("chan_info") for one in (await rpc(watcher, "members", channel=room))["members"]}
    assert members == {watcher.id: None, ann.id: {"n": 1}}
