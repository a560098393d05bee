"""Methods on conversations in a whole stack.

They are called by rpc, by HTTP of users and by backends. Whatever the way, the answers are the same; C10: who may do
what, and that a refusal tells nothing.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest

from services.edge.api.chat_rest import ROUTES, Route
from services.edge.api.chat_results import RESULTS_BY_METHOD
from services.shared.chat_methods import METHODS
from tests.support.chat_methods import split
from tests.support.stack import Stack
from tests.support.wire_client import WireClient

WAYS = ("rpc", "rest", "api")
ROLES = ("stranger", "invited", "reader", "member", "silenced", "banned", "removed")
NOWHERE = "conv:g." + "b" * 26
FAR = 4_102_444_800_000  # a time to come, Unix ms
_OFF = (
    "EDGE_MESSAGES_PER_USER_PER_S",
    "EDGE_REACTIONS_PER_USER_PER_S",
    "EDGE_CHANGES_PER_USER_PER_S",
    "EDGE_MARKERS_PER_USER_PER_S",
    "EDGE_SEARCHES_PER_USER_PER_S",
    "EDGE_CONVERSATIONS_PER_USER_PER_H",
    "EDGE_INVITES_PER_USER_PER_H",
    "EDGE_COMMANDS_PER_S",
)
NO, YES, SAME = "103 not_allowed", "ok", "unchanged"  # SAME: it is so already

# Who may do what in a group, in the order of `ROLES`.
TABLE: dict[str, tuple[str, ...]] = {
    "conversations.get": (NO, YES, YES, YES, YES, NO, NO),
    "conversations.update": (NO,) * 7,
    "conversations.close": (NO,) * 7,
    "conversations.reopen": (NO,) * 7,
    "conversations.delete": (NO,) * 7,
    "conversations.join": (NO, YES, SAME, SAME, SAME, NO, NO),
    "conversations.leave": (NO, "404 not_a_member", YES, YES, YES, NO, NO),
    "conversations.decline": (NO, YES, *("103 not_invited",) * 3, NO, NO),
    "members.list": (NO, NO, YES, YES, YES, NO, NO),
    "members.add": (NO, NO, NO, YES, YES, NO, NO),
    "members.invite": (NO, NO, NO, YES, YES, NO, NO),
    "members.remove": (NO,) * 7,
    "members.role": (NO,) * 7,
    "members.silence": (NO,) * 7,
    "members.ban": (NO,) * 7,
    "members.unban": (NO,) * 7,
    "messages.send": (NO, NO, NO, YES, "103 silenced", NO, NO),
    "messages.edit": (NO,) * 7,  # of another's message
    "messages.delete": (NO,) * 7,
    "messages.purge": (NO,) * 7,
    "messages.get": (NO, NO, YES, YES, YES, NO, NO),
    "messages.list": (NO, NO, YES, YES, YES, NO, NO),
    "messages.search": (NO, NO, YES, YES, YES, NO, NO),
    "messages.thread": (NO, NO, YES, YES, YES, NO, NO),
    "messages.versions": (NO,) * 7,
    "reactions.add": (NO, NO, YES, YES, YES, NO, NO),
    "reactions.remove": (NO, NO, SAME, SAME, SAME, NO, NO),
    "reactions.list": (NO, NO, YES, YES, YES, NO, NO),
    "pins.add": (NO,) * 7,
    "pins.remove": (NO,) * 7,
    "pins.list": (NO, NO, YES, YES, YES, NO, NO),
    "markers.get": (NO, NO, YES, YES, YES, NO, NO),
    "markers.read": (NO, NO, YES, YES, YES, NO, NO),
    "markers.unread": (NO, NO, YES, YES, YES, NO, NO),
    "markers.delivered": (NO, NO, YES, YES, YES, NO, NO),
    "receipts.list": (NO, NO, YES, YES, YES, NO, NO),
    "conversations.preferences": (NO, NO, YES, YES, YES, NO, NO),
    "typing.start": (NO, NO, NO, YES, "103 silenced", NO, NO),
    "typing.stop": (NO, NO, NO, "unchanged", "103 silenced", NO, NO),
}
ABOUT_NO_CHANNEL = {
    "conversations.create",
    "conversations.list",
    "inbox.list",
    "conversations.directory",
    "conversations.search",
    "messages.between",
    "devices.set",
    "devices.remove",
    "devices.list",
    "me.preferences",
    "me.export",
    "me.erase",
}


def params_of(method: str, channel: str, message: int, role: str) -> dict[str, Any]:
    more: dict[str, Any] = {
        "conversations.update": {"name": "x"},
        "members.add": {"user": f"new-{role}"},
        "members.invite": {"user": f"new-{role}"},
        "members.remove": {"user": "target"},
        "members.role": {"user": "target", "role": "reader"},
        "members.silence": {"user": "target", "until": FAR},
        "members.ban": {"user": "target"},
        "members.unban": {"user": "target"},
        "messages.send": {"text": "x"},
        "messages.edit": {"of": message, "text": "x"},
        "messages.delete": {"of": message},
        "messages.purge": {"user": "owner", "upto": message},
        "messages.get": {"offset": message},
        "messages.search": {"query": "word"},
        "messages.thread": {"thread": message},
        "messages.versions": {"offset": message},
        "reactions.add": {"of": message, "name": "x"},
        "reactions.remove": {"of": message, "name": "x"},
        "reactions.list": {"offset": message},
        "pins.add": {"of": message},
        "pins.remove": {"of": message},
        "markers.read": {"offset": message},
        "markers.unread": {"offset": message},
        "markers.delivered": {"offset": message},
        "receipts.list": {"offset": message},
        "conversations.preferences": {"muted": True},
    }
    return {"channel": channel, **more.get(method, {})}


class Said(NamedTuple):
    """An answer: its result or error, and all its bytes but the id of an rpc."""

    result: dict[str, Any] | None
    error: dict[str, Any] | None
    text: bytes

    @property
    def word(self) -> str:
        if self.result is not None:
            why: str = self.result.get("why", YES)
            return why
        assert self.error is not None
        return f"{self.error['code']} {self.error.get('why', '')}".strip()


class Ways:
    """Calls methods as any user by all three ways, over two edges."""

    def __init__(self, stack: Stack, exits: AsyncExitStack) -> None:
        self.stack, self._exits = stack, exits
        self._clients: dict[str, WireClient] = {}
        self._connecting = asyncio.Lock()
        self.http: list[httpx.AsyncClient] = []

    async def start(self) -> None:
        for url in self.stack.http_urls:
            self.http.append(await self._exits.enter_async_context(httpx.AsyncClient(base_url=url, timeout=30)))

    async def client(self, user: str) -> WireClient:
        async with self._connecting:
            if user not in self._clients:
                edge = len(self._clients) % len(self.stack.ws_urls)
                client = await self._exits.enter_async_context(WireClient(self.stack.ws_urls[edge]))
                await client.connect(self.stack.token(user))
                self._clients[user] = client
            return self._clients[user]

    async def ask(self, way: str, user: str, method: str, params: dict[str, Any], key: str = "") -> Said:
        if way == "rpc":
            client = await self.client(user)
            data = {**params, "key": key} if key else params
            reply = await client.reply(await client.post(rpc={"method": method, "data": data}))
            del reply["id"]
            return Said(reply.get("rpc", {}).get("data"), reply.get("error"), msgspec.json.encode(reply))
        if way == "api":
            body = {**params, **({"as": user} if user else {}), **({"key": key} if key else {})}
            response = await self.http[0].post(
                f"/api/{METHODS[method].call}", json=body, headers={"X-API-Key": self.stack.api_key}
            )
            assert response.status_code == 200, response.text
        else:
            route = next(route for route in ROUTES if route.method == method and _fits(route, params))
            path, rest = split(route, params)
            headers = {"Authorization": f"Bearer {self.stack.token(user)}"} | ({"Idempotency-Key": key} if key else {})
            given: dict[str, Any] = {"json": rest} if route.has_body else {"params": rest}
            response = await self.http[1].request(route.verb, path, headers=headers, **given)
        body = response.json()
        assert body.keys() <= {"result", "error"}, body
        return Said(body.get("result"), body.get("error"), response.content)

    async def do(self, user: str, method: str, /, **params: Any) -> dict[str, Any]:
        said = await self.ask("api", user, method, params)
        assert said.result is not None, (method, said)
        assert said.result.get("applied", True), (method, said)
        return said.result


def _fits(route: Route, params: dict[str, Any]) -> bool:
    if not set(route.in_path.values()) <= params.keys() or set(route.without) & params.keys():
        return False
    return route.method != "messages.send" or ("channel" in route.without) == ("to" in params)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack(environment={**dict.fromkeys(_OFF, "0"), "PERSISTENCE_SEARCH": "on"}) as running:
        yield running


@pytest.fixture
async def ways(stack: Stack) -> AsyncIterator[Ways]:
    async with AsyncExitStack() as exits:
        made = Ways(stack, exits)
        await made.start()
        yield made


async def a_group(ways: Ways) -> tuple[str, int]:
    """A group with somebody of each role, and a message of its owner."""
    users = ["member", "silenced", "banned", "removed", "target"]
    channel = (await ways.do("owner", "conversations.create", users=users))["channel"]
    await ways.do("owner", "members.add", channel=channel, user="reader", role="reader")
    await ways.do("owner", "members.invite", channel=channel, user="invited")
    await ways.do("owner", "members.silence", channel=channel, user="silenced", until=FAR)
    await ways.do("owner", "members.ban", channel=channel, user="banned")
    await ways.do("owner", "members.remove", channel=channel, user="removed")
    return channel, (await ways.do("owner", "messages.send", channel=channel, text="hi"))["offset"]


def test_c10_the_table_has_every_method_about_a_conversation() -> None:
    assert TABLE.keys() | ABOUT_NO_CHANNEL == METHODS.keys()
    assert {len(row) for row in TABLE.values()} == {len(ROLES)}


@pytest.mark.parametrize("way", WAYS)
async def test_c10_who_may_do_what_and_what_a_refusal_tells(ways: Ways, way: str) -> None:
    wrong: list[object] = []

    async def check(method: str) -> None:
        channel, message = await a_group(ways)
        for role, expected in zip(ROLES, TABLE[method], strict=True):
            said = await ways.ask(way, role, method, params_of(method, channel, message, role))
            word = expected.partition(" ")[0] if way == "rpc" and expected[0].isdigit() else expected
            if said.word != word:
                wrong.append((method, role, expected, said))
            elsewhere = await ways.ask(way, role, method, params_of(method, NOWHERE, message, role))
            refused = await ways.ask(way, "stranger", method, params_of(method, NOWHERE, message, role))
            if elsewhere.text != refused.text or (expected == NO and said.text != elsewhere.text):
                wrong.append((method, role, said.text, elsewhere.text, refused.text))

    await _at_once([lambda method=method: check(method) for method in TABLE])  # type: ignore[misc]
    assert wrong == []


async def _at_once(calls: list[Callable[[], Awaitable[None]]]) -> None:
    turns = asyncio.Semaphore(4)

    async def one(call: Callable[[], Awaitable[None]]) -> None:
        async with turns:
            await call()

    await asyncio.gather(*map(one, calls))


@pytest.mark.parametrize("way", WAYS)
async def test_c10_in_another_namespace_there_are_no_conversations(ways: Ways, way: str) -> None:
    for method in TABLE:
        for channel, code in (("chat:lobby", 108), ("nowhere:x", 102)):
            said = await ways.ask(way, "stranger", method, params_of(method, channel, 1, "stranger"))
            assert said.word == str(code), (method, said)


@pytest.mark.parametrize("way", WAYS)
async def test_what_two_users_write_is_theirs_alone(ways: Ways, way: str) -> None:
    one, other, third = (f"{way}-{name}" for name in ("one", "other", "third"))
    await _known(ways, one, other, third)
    await ways.do(one, "messages.send", to=other, text="psst")
    said = await ways.ask(way, other, "messages.between", {"with": one})
    assert said.result is not None
    assert [message["text"] for message in said.result["messages"]] == ["psst"]
    direct = said.result["messages"][0]["channel"]
    refusals = [
        await ways.ask(way, third, "messages.between", {"from": one, "to": other}),
        await ways.ask(way, third, "messages.between", {"from": one, "to": "nobody"}),
        await ways.ask(way, third, "messages.between", {"with": one}),
        await ways.ask(way, third, "messages.list", {"channel": direct}),
        await ways.ask(way, third, "messages.list", {"channel": NOWHERE}),
    ]
    assert {refusal.text for refusal in refusals} == {refusals[-1].text}
    assert refusals[-1].word == ("103" if way == "rpc" else NO)


async def _known(ways: Ways, *users: str) -> None:
    """Let auth know these users."""
    for user in users:
        headers = {"X-API-Key": ways.stack.api_key}
        response = await ways.http[0].post("/api/users_create", json={"user": user}, headers=headers)
        assert "result" in response.json(), response.text


class _Life:
    """The life of some conversations, told in words that are the same by every way."""

    def __init__(self, ways: Ways, way: str) -> None:
        self._ways, self._way = ways, way
        self._names: dict[str, str] = {}
        self.told: list[tuple[str, Any]] = []
        self.used: set[str] = set()

    def user(self, name: str) -> str:
        return f"{self._way}-{name}"

    async def do(self, name: str, method: str, /, **params: Any) -> dict[str, Any]:
        said = await self._ways.ask(self._way, self.user(name), method, params)
        self.used.add(method)
        self.told.append((method, (said.error and {"code": said.error["code"]}) or self._plain(said.result)))
        if said.result is None:
            return {}
        msgspec.convert(said.result, RESULTS_BY_METHOD[method])  # it is as OpenAPI says
        return said.result

    def _plain(self, result: Any) -> Any:
        text = msgspec.json.encode(result).decode()
        text = re.sub(r'"(epoch|since)":"[^"]*"', r'"\1":""', text)
        text = re.sub(r'"(time|set)":\d+', r'"\1":0', text).replace(f'"{self._way}-', '"')
        for channel in re.findall(r"conv:[dgo]\.[a-z0-9.-]+", text):
            text = text.replace(channel, self._names.setdefault(channel, f"conversation {len(self._names) + 1}"))
        return msgspec.json.decode(text)


async def live(life: _Life) -> None:
    u = life.user
    channel = (await life.do("ann", "conversations.create", name="Lunch", users=[u("bob"), u("cem")]))["channel"]
    at: dict[str, Any] = {"channel": channel}
    await life.do("ann", "conversations.get", **at)
    await life.do("bob", "conversations.list", limit=10)
    await life.do("bob", "inbox.list", limit=10)
    await life.do("ann", "conversations.update", **at, name="Dinner", settings={"edit_window_s": 3600})
    await life.do("ann", "members.invite", **at, user=u("dan"))
    await life.do("dan", "conversations.get", **at)
    await life.do("dan", "conversations.join", **at)
    await life.do("ann", "members.invite", **at, user=u("eve"), role="reader")
    await life.do("eve", "conversations.decline", **at)
    await life.do("ann", "members.add", **at, user=u("eve"), role="reader", **{"from": 3})
    await life.do("ann", "members.role", **at, user=u("bob"), role="moderator")
    await life.do("bob", "members.silence", **at, user=u("cem"), until=FAR)
    await life.do("cem", "messages.send", **at, text="?")  # refused
    await life.do("bob", "members.silence", **at, user=u("cem"))
    await life.do("ann", "members.ban", **at, user=u("cem"), until=FAR)
    await life.do("ann", "members.list", **at)
    await life.do("ann", "members.unban", **at, user=u("cem"))
    first = (await life.do("ann", "messages.send", **at, text="See you at 8", mentions=[u("bob")], meta={"a": [1]}))[
        "offset"
    ]
    await life.do("bob", "typing.start", **at)
    await life.do("bob", "typing.stop", **at)
    await life.do("bob", "messages.send", **at, text="fine", reply_to=first, silent=True)
    await life.do("bob", "messages.send", **at, text="where?", thread=first, cid="c1")
    await life.do("bob", "messages.search", **at, query="see you")
    await life.do("bob", "messages.search", query="from:me has:attachment")
    await life.do("bob", "messages.search", query="...")  # 107
    await life.do("bob", "conversations.search", query="din", member=u("ann"))
    await life.do("ann", "messages.thread", **at, thread=first)
    await life.do("bob", "messages.thread", **at, thread=first, limit=1, after=first)
    await life.do("ann", "messages.edit", **at, of=first, text="See you at 9", if_rev=first)
    await life.do("ann", "messages.edit", **at, of=first, text="See you at 10", if_rev=first)  # 409
    await life.do("eve", "reactions.add", **at, of=first, name="👍")
    await life.do("eve", "reactions.add", **at, of=first, name="👍")  # so already
    await life.do("bob", "reactions.list", **at, offset=first, name="👍")
    await life.do("eve", "reactions.remove", **at, of=first, name="👍")
    await life.do("bob", "pins.add", **at, of=first)
    await life.do("bob", "pins.list", **at)
    await life.do("bob", "markers.get", **at)
    await life.do("bob", "messages.get", **at, offset=first)
    await life.do("bob", "messages.get", **at, offset=1)  # 404
    await life.do("ann", "messages.versions", **at, offset=first)
    await life.do("bob", "pins.remove", **at, of=first)
    for page in ({}, {"limit": 1}, {"before": first + 2, "limit": 1}, {"after": first, "limit": 1}, {"around": first}):
        await life.do("bob", "messages.list", **at, **page)
    await life.do("bob", "messages.delete", **at, of=first, reason="moderator")
    await life.do("bob", "messages.delete", **at, of=first)  # 410
    await life.do("ann", "messages.purge", **at, user=u("bob"))
    await life.do("ann", "messages.list", **at)
    await life.do("bob", "markers.read", **at, offset=first)
    await life.do("bob", "markers.unread", **at, offset=2, generation=0)
    await life.do("bob", "markers.read", **at, offset=first, generation=0)  # too late
    await life.do("dan", "markers.delivered", **at, offset=first)
    await life.do("ann", "receipts.list", **at, offset=2)
    await life.do("dan", "me.preferences", receipts="private")
    await life.do("dan", "me.preferences")
    await life.do("ann", "receipts.list", **at, offset=1, limit=1)
    await life.do("bob", "conversations.preferences", **at, muted_until=FAR, archived=True)
    await life.do("bob", "conversations.preferences", **at, notify="mentions", muted=True)
    await life.do("ann", "members.remove", **at, user=u("eve"))
    await life.do("dan", "conversations.leave", **at)
    await life.do("ann", "conversations.close", **at)
    await life.do("bob", "messages.send", **at, text="?")  # refused
    await life.do("ann", "conversations.reopen", **at)
    await life.do("ann", "conversations.delete", **at)
    await life.do("ann", "conversations.get", **at)
    await life.do("ann", "messages.send", to=u("bob"), text="psst")
    await life.do("bob", "messages.between", **{"with": u("ann")}, limit=5)
    await life.do("ann", "conversations.create", type="direct", users=[u("bob")])
    await life.do("ann", "conversations.create", type="open", id=u("lobby"), name=f"{u('lobby')}")
    await life.do("ann", "conversations.directory", prefix=u("lob"))
    await life.do("ann", "conversations.list")
    await life.do("ann", "devices.set", id="phone", platform="fcm", token="t" * 40)
    await life.do("ann", "devices.list")
    await life.do("ann", "devices.remove", id="phone")
    await life.do("ann", "devices.set", id="tablet", platform="apns", token="0a" * 32)
    await life.do("ann", "me.export")
    await life.do("ann", "me.erase", leave=True)
    await life.do("ann", "devices.list")  # they went, too
    await life.do("bob", "messages.between", **{"with": u("ann")}, limit=5)
    await life.do("ann", "me.export", limit=5)


async def test_every_way_tells_the_same_life(ways: Ways) -> None:
    lives = {way: _Life(ways, way) for way in WAYS}
    for way, life in lives.items():
        await _known(ways, *(f"{way}-{name}" for name in ("ann", "bob")))
        await live(life)
        assert life.used == METHODS.keys()
    for way in ("rest", "api"):
        for one, other in zip(lives["rpc"].told, lives[way].told, strict=True):
            assert one == other, way
    codes = [told["code"] for _, told in lives["rpc"].told if "code" in told]
    assert codes == [103, 107, 409, 404, 410, 103, 103]


async def test_a_repeat_may_come_by_another_way(ways: Ways) -> None:
    channel, _ = await a_group(ways)
    params = {"channel": channel, "text": "once"}
    first = await ways.ask("rpc", "member", "messages.send", params, key="k1")
    again = await ways.ask("rest", "member", "messages.send", params, key="k1")
    of_a_backend = await ways.ask("api", "member", "messages.send", params, key="k1")
    assert first.result == again.result
    assert first.result is not None and of_a_backend.result is not None  # noqa: PT018
    assert of_a_backend.result["offset"] == first.result["offset"] + 1  # its keys are its own


async def test_users_are_told_on_their_personal_channels(ways: Ways) -> None:
    bob = await ways.client("bob,1")
    await bob.subscribe("user:#bob%2C1")
    channel, _ = await a_group(ways)
    told = []
    for way, method in (("rpc", "members.add"), ("rest", "members.remove"), ("api", "members.invite")):
        said = await ways.ask(way, "owner", method, {"channel": channel, "user": "bob,1"})
        assert said.result is not None, said
        told.append((await bob.publication("user:#bob%2C1"))["data"])
    assert [(one["kind"], one["channel"]) for one in told] == [
        ("added", channel),
        ("removed", channel),
        ("invited", channel),
    ]


async def test_a_conversation_begun_on_one_device_is_told_to_the_other_one(ways: Ways) -> None:
    await _known(ways, "dora")
    laptop = await ways.client("devi")
    async with WireClient(ways.stack.ws_urls[-1]) as phone, WireClient(ways.stack.ws_urls[0]) as dora:
        for client, user in ((phone, "devi"), (dora, "dora")):
            await client.connect(ways.stack.token(user))
            await client.subscribe(f"user:#{user}")
        begun: list[tuple[str, dict[str, Any]]] = [
            ("conversations.create", {"name": "Lunch", "users": ["dora"]}),
            ("messages.send", {"to": "dora", "text": "psst"}),
        ]
        for method, params in begun:
            reply = await laptop.call(rpc={"method": method, "data": params})
            channel = reply["data"]["channel"]
            for client, user in ((phone, "devi"), (dora, "dora")):
                told = (await client.publication(f"user:#{user}"))["data"]
                assert (told["kind"], told["channel"], told["by"]) == ("added", channel, "devi")


async def test_c45_members_see_who_has_read_but_nothing_of_private_users(ways: Ways) -> None:
    channel, message = await a_group(ways)
    owner = await ways.client("owner")
    await owner.subscribe(channel)
    said = await ways.ask("rpc", "silenced", "me.preferences", {"receipts": "private"})
    assert said.result == {"receipts": "private"}
    for way, user in (("rest", "silenced"), ("rpc", "silenced"), ("api", "silenced"), ("rest", "member")):
        said = await ways.ask(way, user, "markers.read", {"channel": channel, "offset": message - 1})
        assert said.result is not None, said
        said = await ways.ask(way, user, "markers.read", {"channel": channel, "offset": message})
        assert said.result is not None, said
    seen: list[dict[str, Any]] = []
    while not seen or seen[-1]["data"]["read"] < message:
        seen.append(await owner.publication(channel))
    assert {one["data"]["user"] for one in seen} == {"member"}
    assert all("offset" not in one for one in seen)
    assert not [frame for frame in owner.frames if "receipt" in str(frame) and "silenced" in str(frame)]
    said = await ways.ask("rest", "owner", "receipts.list", {"channel": channel, "offset": message})
    assert said.result is not None
    assert said.result["read"] == [{"user": "member"}]


async def test_what_is_read_on_one_device_is_read_on_the_others(ways: Ways) -> None:
    channel, message = await a_group(ways)
    other_edge = ways.stack.ws_urls[-1]
    async with WireClient(other_edge) as phone:
        await phone.connect(ways.stack.token("member"))
        await phone.subscribe("user:#member")
        said = await ways.ask("rest", "member", "markers.read", {"channel": channel, "offset": message})
        assert said.result is not None
        while (told := (await phone.publication("user:#member"))["data"])["kind"] != "marker":
            pass
        assert told == {"kind": "marker", "channel": channel, "generation": 0, "offset": message}
