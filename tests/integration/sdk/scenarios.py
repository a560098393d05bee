"""The SDK scenarios with centrifuge-python, any version.

Run by test_sdk.py in a process of its own.

argv: the scenario. stdin: first line the addresses as JSON; then answers to what is asked on stdout, a JSON object per
line: {"do": "token", "claims": …}, {"do": "cut"}, {"do": "heal"}. Exit 0: the scenario held. SDK_ENCODING=protobuf: the
clients speak Protobuf.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from centrifuge import (
    CentrifugeError,
    Client,
    ClientEventHandler,
    DeltaType,
    ReplyError,
    StreamPosition,
    SubscriptionEventHandler,
)

LIMIT_S = 40.0
PROTOBUF = os.environ.get("SDK_ENCODING") == "protobuf"
BACK_WITHIN_S = 60.0  # after a long time away: an SDK waits up to 20 s between two attempts


def payload(value: Any) -> Any:
    """What the SDK takes as data: in Protobuf bytes, here a JSON text."""
    return json.dumps(value).encode() if PROTOBUF else value


def told(pub: Any) -> Any:
    """The data of a publication."""
    return value_of(pub.data)


def value_of(data: Any) -> Any:
    """The value of a payload that the SDK gives."""
    return json.loads(data) if PROTOBUF else data


class Harness:
    def __init__(self, config: dict[str, str]) -> None:
        self.config = config
        self.clients: list[Client] = []

    def channel(self, name: str) -> str:
        """A channel of this run alone."""
        return f"{name}-{self.config['run']}"

    async def ask(self, **what: Any) -> Any:
        print(json.dumps(what), flush=True)
        return json.loads(await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline))

    async def token(self, user: str, ttl_s: float = 300, **claims: Any) -> str:
        return str(await self.ask(do="token", user=user, ttl_s=ttl_s, claims=claims))

    def client(self, edge: str, events: Events | None = None, **options: Any) -> Client:
        options |= {"events": events or Events(), "min_reconnect_delay": 0.05, "use_protobuf": PROTOBUF}
        client = Client(self.config[edge], **options)
        self.clients.append(client)
        return client

    async def user(self, edge: str, user: str, events: Events | None = None) -> Client:
        client = self.client(edge, events, token=await self.token(user))
        await client.connect()
        await client.ready(timeout=LIMIT_S)
        return client


class Events(ClientEventHandler):  # type: ignore[misc]  # the SDK is untyped
    """Remembers everything, in order."""

    def __init__(self) -> None:
        self.log: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self.seen: list[tuple[str, Any]] = []

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("on_"):

            async def note(ctx: Any) -> None:
                self.seen.append((name, ctx))
                self.log.put_nowait((name, ctx))

            return note
        return super().__getattribute__(name)

    async def wait(self, name: str, count: int = 1, limit_s: float = LIMIT_S) -> Any:
        """The next `count` events of this name; the last one's context."""
        ctx = None
        async with asyncio.timeout(limit_s):
            while count:
                found, ctx = await self.log.get()
                count -= found == name
        return ctx

    def publications(self) -> list[Any]:
        return [ctx.pub for name, ctx in self.seen if name == "on_publication"]


class SubEvents(Events, SubscriptionEventHandler):  # type: ignore[misc]
    pass


async def subscribe(client: Client, channel: str, **options: Any) -> tuple[Any, SubEvents]:
    events = SubEvents()
    sub = client.new_subscription(channel, events=events, **options)
    await sub.subscribe()
    await sub.ready(timeout=LIMIT_S)
    return sub, events


async def users_of(sub: Any) -> list[str]:
    """Who is on the roster of a channel, sorted."""
    return sorted(info.user for info in (await sub.presence()).clients.values())


async def until(found: Callable[[], Awaitable[list[str]]], expected: list[str]) -> None:
    """Ask until it is so."""
    async with asyncio.timeout(LIMIT_S):
        while await found() != expected:
            await asyncio.sleep(0.1)


async def chat(h: Harness) -> None:
    """Publisher on edge 1, subscriber on edge 2: everything once, in order."""
    for channel in (h.channel("chat:sdk"), h.channel("live:sdk"), h.channel("tick:sdk"), h.channel("plain-sdk")):
        alice, bob = await h.user("edge1", "alice"), await h.user("edge2", "bob")
        sub, _ = await subscribe(alice, channel)
        _, events = await subscribe(bob, channel)
        for number in range(50):
            await sub.publish(payload({"n": number, "text": "größe \u2028 😀"}))
        await events.wait("on_publication", 50)
        got = events.publications()
        assert [told(pub)["n"] for pub in got] == list(range(50)), got
        assert told(got[0])["text"] == "größe \u2028 😀"
        assert got[0].info.user == "alice"
        if not channel.startswith("tick:"):
            first = got[0].offset
            assert [pub.offset for pub in got] == list(range(first, first + 50))
        await alice.disconnect()
        await bob.disconnect()


async def presence(h: Harness) -> None:
    """Join and leave cross edges; presence and its counts name who is there."""
    bob = await h.user("edge2", "bob")
    sub, events = await subscribe(bob, h.channel("chat:presence"), join_leave=True)
    own = await events.wait("on_join")
    assert own.info.user == "bob"
    alice = await h.user("edge1", "alice")
    await subscribe(alice, h.channel("chat:presence"))
    joined = await events.wait("on_join")
    assert joined.info.user == "alice"
    there = (await sub.presence()).clients
    assert sorted(info.user for info in there.values()) == ["alice", "bob"], there
    stats = await sub.presence_stats()
    assert (stats.num_clients, stats.num_users) == (2, 2)
    await alice.disconnect()
    left = await events.wait("on_leave")
    assert left.info == joined.info
    assert [info.user for info in (await sub.presence()).clients.values()] == ["bob"]


async def presence_data(h: Harness) -> None:
    """The operations on presence: enter, update, list, channels, leave, leave all."""
    first, second = h.channel("chat:data-1"), h.channel("chat:data-2")
    bob = await h.user("edge2", f"bob-{first}")
    _, events = await subscribe(bob, first, join_leave=True)
    alice = await h.user("edge1", f"alice-{first}")
    for channel in (first, second):
        await subscribe(alice, channel)

    async def call(client: Client, method: str, **data: Any) -> Any:
        return value_of((await client.rpc(f"presence.{method}", payload(data))).data)

    async def seen(kind: str) -> Any:
        """What comes next of Alice, as Bob sees it."""
        while (ctx := await events.wait(kind)).info.user != f"alice-{first}":
            pass
        return value_of(ctx.info.chan_info) if ctx.info.chan_info else None

    assert await seen("on_join") is None
    assert await call(alice, "leave", channel=first) == {}
    assert await seen("on_leave") is None
    assert await call(alice, "enter", channel=first, data={"mood": "good"}) == {}
    assert await seen("on_join") == {"mood": "good"}
    await call(alice, "update", channel=first, data={"mood": None, "at": "sea"})
    assert await seen("on_join") == {"at": "sea"}, "an update is a second join of the same client"
    members = (await call(bob, "members", channel=first))["members"]
    assert {one["user"]: one.get("chan_info") for one in members} == {
        f"alice-{first}": {"at": "sea"},
        f"bob-{first}": None,
    }
    assert (await call(bob, "counts", channels=[first]))["channels"] == {first: {"num_clients": 2, "num_users": 2}}
    assert await call(alice, "channels") == {"channels": [first, second]}
    online = (await call(bob, "online", users=[f"alice-{first}"]))["users"][f"alice-{first}"]
    assert (online["online"], online["state"]) == (True, "active"), online
    await call(alice, "leave")
    assert await seen("on_leave") == {"at": "sea"}
    assert await call(alice, "channels") == {"channels": []}


async def history(h: Harness) -> None:
    """Pages forwards and backwards meet every publication once."""
    for channel in (h.channel("chat:history"), h.channel("live:history")):
        alice, bob = await h.user("edge1", "alice"), await h.user("edge2", "bob")
        sub, _ = await subscribe(alice, channel)
        reader, _ = await subscribe(bob, channel)
        for number in range(25):
            await sub.publish(payload({"n": number}))
        forwards: list[int] = []
        since = None
        while True:
            page = await reader.history(limit=10, since=since)
            forwards += [told(pub)["n"] for pub in page.publications]
            if len(page.publications) < 10:
                break
            since = StreamPosition(offset=page.publications[-1].offset, epoch=page.epoch)
        assert forwards == list(range(25)), forwards
        backwards: list[int] = []
        since = None
        while True:
            page = await reader.history(limit=10, since=since, reverse=True)
            backwards += [told(pub)["n"] for pub in page.publications]
            if len(page.publications) < 10:
                break
            since = StreamPosition(offset=page.publications[-1].offset, epoch=page.epoch)
        assert backwards == list(reversed(range(25))), backwards
        await alice.disconnect()
        await bob.disconnect()


async def recovery(h: Harness) -> None:
    """50 messages missed while the connection is cut arrive in order, once."""
    for channel in (h.channel("chat:recovery"), h.channel("live:recovery")):
        alice, bob = await h.user("edge1", "alice"), await h.user("proxied2", "bob")
        sub, _ = await subscribe(alice, channel)
        _, events = await subscribe(bob, channel, recoverable=True)
        await sub.publish(payload({"n": 0}))
        await events.wait("on_publication")
        await h.ask(do="cut")
        await events.wait("on_subscribing")
        for number in range(1, 51):
            await sub.publish(payload({"n": number}))
        await h.ask(do="heal")
        subscribed = await events.wait("on_subscribed")
        assert subscribed.was_recovering, subscribed
        assert subscribed.recovered, subscribed
        await sub.publish(payload({"n": 51}))
        async with asyncio.timeout(LIMIT_S):
            while len(events.publications()) < 52:
                await events.wait("on_publication")
        assert [told(pub)["n"] for pub in events.publications()] == list(range(52))
        await alice.disconnect()
        await bob.disconnect()


async def resubscribed(h: Harness) -> None:
    """What was missed between unsubscribe and subscribe comes with the next subscribe.

    The connection stays.
    """
    for channel in (h.channel("chat:resubscribed"), h.channel("live:resubscribed")):
        alice, bob = await h.user("edge1", "alice"), await h.user("edge2", "bob")
        sub, _ = await subscribe(alice, channel)
        own, events = await subscribe(bob, channel)
        await sub.publish(payload({"n": 0}))
        await events.wait("on_publication")
        await own.unsubscribe()
        for number in range(1, 4):
            await sub.publish(payload({"n": number}))
        await own.subscribe()
        subscribed = await events.wait("on_subscribed")
        assert subscribed.recovered, subscribed
        await sub.publish(payload({"n": 4}))
        await events.wait("on_publication", 4)
        assert [told(pub)["n"] for pub in events.publications()] == list(range(5))
        await alice.disconnect()
        await bob.disconnect()


async def too_old(h: Harness) -> None:
    """More missed than a `hot` channel keeps.

    Told that it is not recovered, and then what is live, no more.
    """
    channel = h.channel("live:too-old")
    alice, bob = await h.user("edge1", "alice"), await h.user("edge2", "bob")
    sub, _ = await subscribe(alice, channel)
    own, events = await subscribe(bob, channel)
    await sub.publish(payload({"n": 0}))
    await events.wait("on_publication")
    await own.unsubscribe()
    await h.ask(do="fill", channel=channel, count=1_200)
    await own.subscribe()
    subscribed = await events.wait("on_subscribed")
    assert (subscribed.was_recovering, subscribed.recovered) == (True, False), subscribed
    await sub.publish(payload({"n": 1_201}))
    await events.wait("on_publication")
    assert [told(pub)["n"] for pub in events.publications()] == [0, 1_201]


async def comes_and_goes(h: Harness) -> None:
    """What ends before it began leaves nobody behind; the last wish counts.

    Of subscriptions and of connections.
    """
    channel = h.channel("chat:comes-and-goes")
    watcher = await h.user("edge1", "watcher")
    roster, _ = await subscribe(watcher, channel)
    bob = await h.user("edge2", "bob")
    sub = bob.new_subscription(channel, events=SubEvents())
    for is_last in [False] * 10 + [True]:
        await sub.subscribe()
        if not is_last:
            await sub.unsubscribe()
    await sub.ready(timeout=LIMIT_S)
    await until(lambda: users_of(roster), ["bob", "watcher"])
    await sub.unsubscribe()
    await until(lambda: users_of(roster), ["watcher"])
    for _ in range(10):
        await bob.connect()
        await bob.disconnect()
    await bob.connect()
    await bob.ready(timeout=LIMIT_S)
    await sub.subscribe()
    await sub.ready(timeout=LIMIT_S)
    await until(lambda: users_of(roster), ["bob", "watcher"])


async def not_served(h: Harness) -> None:
    """A call that this server does not have fails with 104, and nothing else ends."""
    alice = await h.user("edge1", "alice")
    code = 0
    try:
        await alice.rpc("method", payload({"my": "data"}))
    except ReplyError as error:
        code = error.code
    assert code == 104
    await subscribe(alice, h.channel("chat:after"))


async def binary(h: Harness) -> None:
    """Bytes that are no text arrive as they were: live, from history, and after a cut.

    JSON clients are refused.
    """
    channel = h.channel("bytes:sdk")
    sent = [bytes(range(256)), b"\x00", b"\xff\xfe", b"{", os.urandom(20_000)]
    alice, bob = await h.user("edge1", "alice"), await h.user("proxied2", "bob")
    if not PROTOBUF:
        events = SubEvents()
        await alice.new_subscription(channel, events=events).subscribe()
        assert (await events.wait("on_unsubscribed")).code == 108
        return
    sub, _ = await subscribe(alice, channel)
    reader, events = await subscribe(bob, channel, recoverable=True)
    await sub.publish(sent[0])
    await events.wait("on_publication")
    await h.ask(do="cut")
    await events.wait("on_subscribing")
    for data in sent[1:]:
        await sub.publish(data)
    await h.ask(do="heal")
    assert (await events.wait("on_subscribed")).recovered
    async with asyncio.timeout(LIMIT_S):
        while len(events.publications()) < len(sent):
            await events.wait("on_publication")
    assert [pub.data for pub in events.publications()] == sent
    assert [pub.data for pub in (await reader.history(limit=10)).publications] == sent
    code = 0
    try:
        await sub.publish(b"")
    except ReplyError as error:
        code = error.code
    assert code == 107


async def deltas(h: Harness) -> None:
    """Only what changed is sent to who asks for it.

    Live, over a cut, and after a resubscribe; others get it whole.
    """
    channel = h.channel("states:sdk")
    alice, bob = await h.user("edge1", "alice"), await h.user("proxied2", "bob")
    sub, plain = await subscribe(alice, channel)
    own, events = await subscribe(bob, channel, delta=DeltaType.FOSSIL)

    def value(number: int) -> dict[str, Any]:
        return {"n": number, "text": "größe 漢字 😀 ", "filler": "a" * 500}

    async def publish(*numbers: int) -> None:
        for number in numbers:
            await sub.publish(payload(value(number)))

    async def check(count: int, full: int) -> None:
        async with asyncio.timeout(LIMIT_S):
            while len(events.publications()) < count:
                await events.wait("on_publication")
        assert [told(pub) for pub in events.publications()] == [value(number) for number in range(count)]
        assert [pub.delta for pub in events.publications()].count(False) == full
        while not events.log.empty():
            events.log.get_nowait()  # what came until now is no answer to what is asked next

    await publish(*range(10))
    await check(10, 1)
    await h.ask(do="cut")
    await events.wait("on_subscribing")
    await publish(*range(10, 15))
    await h.ask(do="heal")
    assert (await events.wait("on_subscribed")).recovered
    await publish(15, 16)
    await check(17, 3)
    await own.unsubscribe()
    await publish(17, 18)
    await own.subscribe()
    assert (await events.wait("on_subscribed")).recovered
    await publish(19)
    await check(20, 5)
    async with asyncio.timeout(LIMIT_S):
        while len(plain.publications()) < 20:
            await plain.wait("on_publication")
    assert [told(pub) for pub in plain.publications()] == [value(number) for number in range(20)]
    found = (await own.history(limit=20)).publications
    assert [told(pub) for pub in found] == [value(number) for number in range(20)]


async def many_missed(h: Harness) -> None:
    """Thousands missed, far more than a reply carries.

    All of them in order, then what is live.
    """
    count, channel = int(h.config["missed"]), h.channel("chat:many")
    alice, bob = await h.user("edge1", "alice"), await h.user("proxied2", "bob")
    sub, _ = await subscribe(alice, channel)
    _, events = await subscribe(bob, channel, recoverable=True)
    await sub.publish(payload({"n": 0}))
    await events.wait("on_publication")
    await h.ask(do="cut")
    await events.wait("on_subscribing")
    await h.ask(do="fill", channel=channel, count=count)
    await h.ask(do="heal")
    await events.wait("on_subscribed", limit_s=BACK_WITHIN_S)
    await sub.publish(payload({"n": count + 1}))
    await events.wait("on_publication", count + 1, limit_s=60 + count / 200)
    assert [told(pub)["n"] for pub in events.publications()] == list(range(count + 2))
    again = [ctx.recovered for name, ctx in events.seen if name == "on_subscribed"][1:]
    assert all(again), again
    assert (len(again) > 1) == bool(h.config["cuts"]), again


async def ephemeral(h: Harness) -> None:
    """A position stands over 1,000 ephemeral events, and recovery is exact."""
    channel, on_server = h.channel("chat:ephemeral"), h.config["kind"] == "server"
    alice = await h.user("edge1", "alice")
    sub, _ = await subscribe(alice, channel)
    events = own = Events()
    claims: dict[str, Any] = {"channels": [channel]} if on_server else {}
    bob = h.client("proxied2", own, token=await h.token("bob", **claims))
    await bob.connect()
    await bob.ready(timeout=LIMIT_S)
    if not on_server:
        _, events = await subscribe(bob, channel, recoverable=True)
    await events.wait("on_subscribed")

    async def publish(*numbers: int) -> None:
        for number in numbers:
            await sub.publish(payload({"n": number}))

    await publish(1, 2, 3)
    await events.wait("on_publication", 3)
    await h.ask(do="ephemeral", channel=channel, count=1_000)
    await events.wait("on_publication", 1_000)
    await h.ask(do="cut")
    await events.wait("on_subscribing")
    await publish(4, 5, 6)
    await h.ask(do="ephemeral", channel=channel, count=3)
    await h.ask(do="heal")
    again = await events.wait("on_subscribed", limit_s=BACK_WITHIN_S)
    assert (again.was_recovering, again.recovered) == (True, True), again
    await events.wait("on_publication", 3)
    await h.ask(do="ephemeral", channel=channel, count=1)
    await events.wait("on_publication")
    await publish(7)
    await events.wait("on_publication")
    got = [(told(pub), pub.offset) for pub in events.publications()]
    assert [(data["n"], offset) for data, offset in got if "n" in data] == [(n, n) for n in range(1, 8)]
    typing = [3] * 1_000 + [6] if PROTOBUF else [0] * 1_001
    assert [(data["kind"], offset) for data, offset in got if "n" not in data] == [("typing", at) for at in typing]


async def refresh(h: Harness) -> None:
    """An expired token is replaced through get_token at connect.

    A running-out one by refresh, without reconnect.
    """
    asked = 0

    async def get_token(*_: Any) -> str:
        nonlocal asked
        asked += 1
        return await h.token("alice", ttl_s=2 if asked == 1 else 300)

    events = Events()
    alice = h.client("edge1", events, token=await h.token("alice", ttl_s=-60), get_token=get_token)
    await alice.connect()
    await events.wait("on_connected")
    assert asked == 1
    async with asyncio.timeout(LIMIT_S):
        while asked < 2:
            await asyncio.sleep(0.05)
    await asyncio.sleep(1.0)
    names = [name for name, _ in events.seen]
    assert names.count("on_connected") == 1, names
    assert not {"on_disconnected", "on_error"} & set(names[names.index("on_connected") :]), names


async def subscription_token(h: Harness) -> None:
    """A private channel needs a token.

    An expiring one is refreshed while publications go on.
    """
    asked = 0

    async def get_token(*_: Any) -> str:
        nonlocal asked
        asked += 1
        return await h.token("alice", ttl_s=2 if asked == 1 else 300, channel=h.channel("$secret"), info={"role": "x"})

    alice = await h.user("edge1", "alice")
    sub, events = await subscribe(alice, h.channel("$secret"), get_token=get_token)
    bob = await h.user("edge2", "bob")
    other, others = await subscribe(bob, h.channel("$secret"), token=await h.token("bob", channel=h.channel("$secret")))
    await sub.publish(payload({"n": 1}))
    got = await others.wait("on_publication")
    assert value_of(got.pub.info.chan_info) == {"role": "x"}, got
    if h.config["version"] != "0.5.0":  # 0.5.0 forgets the channel in sub_refresh; wire tests cover that
        async with asyncio.timeout(LIMIT_S):
            while asked < 2:
                await asyncio.sleep(0.05)
    await other.publish(payload({"n": 2}))
    async with asyncio.timeout(LIMIT_S):
        while [told(pub)["n"] for pub in events.publications()] != [1, 2]:
            await events.wait("on_publication")
    assert "on_unsubscribed" not in [name for name, _ in events.seen]


async def server_side(h: Harness) -> None:
    """Channels of the token are there at once, on another edge than the publisher."""
    events = Events()
    bob = h.client("edge2", events, token=await h.token("bob", channels=[h.channel("chat:server")]))
    await bob.connect()
    subscribed = await events.wait("on_subscribed")
    assert subscribed.channel == h.channel("chat:server")
    alice = await h.user("edge1", "alice")
    sub, _ = await subscribe(alice, h.channel("chat:server"))
    await sub.publish(payload({"n": 1}))
    got = await events.wait("on_publication")
    assert (got.channel, told(got.pub)) == (h.channel("chat:server"), {"n": 1})


async def removed(h: Harness) -> None:
    """Removed from a conversation: told, and not back.

    What follows being added again is recovered.
    """
    alice, bob = await h.user("edge1", "alice"), await h.user("edge2", "bob")

    async def call(method: str, **data: Any) -> Any:
        return value_of((await alice.rpc(method, payload(data))).data)

    created = await call("conversations.create", type="group", users=["bob"], settings={"history": "joined"})
    channel = created["channel"]
    own, events = await subscribe(bob, channel)
    await own.publish(payload({"kind": "message", "text": "one"}))
    assert told((await events.wait("on_publication")).pub)["text"] == "one"
    await call("members.remove", channel=channel, user="bob")
    ended = await events.wait("on_unsubscribed")
    assert ended.code == 2100, ended
    assert told(events.publications()[-1])["op"] == "remove"
    await call("messages.send", channel=channel, text="secret")
    code = 0
    try:
        await bob.publish(channel, payload({"kind": "message", "text": "two"}))
    except ReplyError as error:
        code = error.code
    assert code == 103, code
    await own.subscribe()
    refused = await events.wait("on_unsubscribed")
    assert refused.code == 103, refused
    await call("members.add", channel=channel, user="bob")
    seen = len(events.publications())
    await call("messages.send", channel=channel, text="three")
    await own.subscribe()
    subscribed = await events.wait("on_subscribed")
    assert subscribed.recovered, subscribed
    await events.wait("on_publication")
    assert [told(pub)["text"] for pub in events.publications()[seen:]] == ["three"]
    assert [name for name, _ in events.seen].count("on_unsubscribed") == 2, "it did not come back by itself"


async def wrong_token(h: Harness) -> None:
    """A token that nobody signed ends for good with 3500."""
    events = Events()
    alice = h.client("edge1", events, token=(await h.token("alice"))[:-6] + "AAAAAA")
    await alice.connect()
    ended = await events.wait("on_disconnected")
    assert ended.code == 3500, ended


async def wrong_subscription_token(h: Harness) -> None:
    """A wrong subscription token ends the subscription for good with 103."""
    alice = await h.user("edge1", "alice")
    events = SubEvents()
    token = (await h.token("alice", channel="$x"))[:-6] + "AAAAAA"
    sub = alice.new_subscription("$x", events=events, token=token)
    await sub.subscribe()
    ended = await events.wait("on_unsubscribed")
    assert ended.code == 103, ended


async def main() -> None:
    h = Harness(json.loads(sys.stdin.readline()))
    try:
        async with asyncio.timeout(150 + int(h.config.get("missed", 0)) / 200):
            await globals()[sys.argv[1]](h)
    finally:
        for client in h.clients:
            with contextlib.suppress(CentrifugeError):
                await client.disconnect()


if __name__ == "__main__":
    asyncio.run(main())
