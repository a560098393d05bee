"""Who may do what in a conversation, and that a refusal tells nothing."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from services.edge.api import methods, requests
from services.edge.domain.chat.refusal_time import wait_s
from services.edge.domain.control import operations as ops
from services.edge.domain.conversations.calls import ChatRefused
from services.edge.domain.session.node import Node
from services.shared.errors import ErrorCode, ThalamusError
from tests.support.edge import Client, Cluster, connected, settle
from tests.support.edge_chat import CONV, GROUP, NOWHERE, OPEN_ONE

if TYPE_CHECKING:
    from services.edge.api.context import ApiContext

MESSAGE = {"kind": "message", "text": "hi"}
OPERATIONS: dict[str, dict[str, Any]] = {
    "subscribe": {"subscribe": {"channel": GROUP}},
    "recover": {"subscribe": {"channel": GROUP, "recover": True, "epoch": "epoch1", "offset": 1}},
    "publish": {"publish": {"channel": GROUP, "data": MESSAGE}},
    "history": {"history": {"channel": GROUP, "limit": 10}},
    "presence": {"presence": {"channel": GROUP}},
    "presence_stats": {"presence_stats": {"channel": GROUP}},
    "presence.members": {"rpc": {"method": "presence.members", "data": {"channel": GROUP}}},
    "presence.enter": {"rpc": {"method": "presence.enter", "data": {"channel": GROUP}}},
}
ALL = set(OPERATIONS)
READS = ALL - {"publish", "presence.enter"}  # who enters presence has a subscription
PERMITTED = {
    "owner": ALL - {"presence.enter"},
    "member": ALL - {"presence.enter"},
    "reader": READS,
    "silenced": READS,
    "stranger": set(),
    "invited": set(),
    "removed": set(),
    "banned": set(),
    "other": set(),  # a member of another conversation
    "": set(),  # anonymous
}
OTHER = "conv:g." + "c" * 26


def conversations() -> Cluster:
    cluster = Cluster(conv=CONV, other=CONV)
    chat = cluster.chat
    chat.begin("owner", "member", "reader", "silenced", "removed", "banned")
    chat.does(GROUP, "owner", kind="member", op="role", user="reader", role="reader")
    chat.does(GROUP, "owner", kind="member", op="silence", user="silenced", until=2_000_000_000_000)
    chat.does(GROUP, "owner", kind="member", op="remove", user="removed")
    chat.does(GROUP, "owner", kind="member", op="ban", user="banned")
    chat.does(GROUP, "owner", kind="member", op="invite", user="invited")
    chat.begin("other", channel=OTHER)
    return cluster


def at(channel: str, operation: str) -> dict[str, Any]:
    """The operation in another channel."""
    moved: dict[str, Any] = json.loads(json.dumps(OPERATIONS[operation]).replace(GROUP, channel))
    return moved


async def reply_of(cluster: Cluster, node: Node, user: str, request: dict[str, Any]) -> dict[str, Any]:
    """What a new client of this user is told, without the number of the command."""
    client = Client(cluster, node)
    await client.call(connect={"token": cluster.token(user)} if user else {})
    reply = await client.reply(**request)
    await client.hang_up()
    return {name: value for name, value in reply.items() if name != "id"}


@pytest.mark.parametrize("user", PERMITTED)
async def test_c10_what_each_may_do(user: str) -> None:
    cluster = conversations()
    node = cluster.edge(allow_anonymous=True)
    may = set()
    for operation, request in OPERATIONS.items():
        reply = await reply_of(cluster, node, user, request)
        if "error" in reply:
            assert reply == {"error": {"code": 103, "message": "permission denied"}}, (operation, reply)
        else:
            may.add(operation)
    assert may == PERMITTED[user]


@pytest.mark.parametrize("operation", sorted(ALL))
@pytest.mark.parametrize("user", ["stranger", "removed", "banned", "invited", "other", ""])
async def test_c10_a_conversation_that_is_not_there_is_refused_alike(user: str, operation: str) -> None:
    """The same words after the same questions, whatever is asked how often."""
    cluster = conversations()
    node = cluster.edge(allow_anonymous=True, new_channels_per_minute=1)
    chat = cluster.chat
    seen = []
    for channel in (GROUP, NOWHERE, "conv:nonsense", "conv:d.x", "conv:#1" if operation == "publish" else NOWHERE) * 3:
        chat.checks.clear()
        chat.appends.clear()
        reply = await reply_of(cluster, node, user, at(channel, operation))
        seen.append((reply, len(chat.checks), len(chat.appends)))
        assert channel not in node.hub.channels  # nothing was opened
    assert all(one == seen[0] for one in seen)
    assert NOWHERE not in cluster.bus.logs


@pytest.mark.parametrize("user", ["stranger", ""])
async def test_insecure_mode_makes_nobody_a_member(user: str) -> None:
    cluster = conversations()
    node = cluster.edge(insecure=True)
    for operation, request in OPERATIONS.items():
        reply = await reply_of(cluster, node, user, request)
        assert reply.get("error", {}).get("code") == 103, operation


async def test_an_operation_for_nobody_asks_nobody() -> None:
    cluster = Cluster(conv=CONV)
    node = cluster.edge()
    closed = cluster.namespaces.named["conv"].__class__(name="conv", conversations=True)  # grant and nobody
    cluster.namespaces.named["conv"] = closed  # type: ignore[index]
    for request in OPERATIONS.values():
        reply = await reply_of(cluster, node, "owner", request)
        assert reply["error"]["code"] in (103, 108)
    assert not cluster.chat.checks
    assert not cluster.chat.appends


async def test_a_member_without_a_subscription_is_asked_about_each_time() -> None:
    cluster = conversations()
    client = await connected(cluster, cluster.edge(), "member")
    for _ in range(3):
        await client.call(history={"channel": GROUP, "limit": 0})
    await client.call(presence={"channel": GROUP})
    assert cluster.chat.checks == [(GROUP, "member")] * 4
    await client.call(subscribe={"channel": GROUP})
    cluster.chat.checks.clear()
    await client.call(history={"channel": GROUP, "limit": 5})
    await client.call(presence={"channel": GROUP})
    assert not cluster.chat.checks  # the subscription says it
    await client.call(unsubscribe={"channel": GROUP})
    cluster.chat.does(GROUP, "owner", kind="member", op="remove", user="member")
    assert await client.error(history={"channel": GROUP}) == 103
    assert await client.error(presence={"channel": GROUP}) == 103


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ({"kind": "erased", "was": "message", "by": 1}, 103),
        ({"kind": "member", "op": "leave"}, 103),
        ({"kind": "member", "op": "add", "user": "stranger"}, 103),
        ({"kind": "conversation", "op": "delete"}, 103),
        ({"kind": "purge", "user": "member", "upto": 9}, 103),
        ({"kind": "song"}, 107),
        ({"kind": "message", "text": "hi", "colour": "red"}, 107),
        ({"kind": "message"}, 107),
        ({"kind": "message", "text": "hi", "mentions": ["u"] * 51}, 107),
        ([MESSAGE], 107),
        ("hi", 107),
        ({"kind": "edit", "of": 999, "text": "x"}, 404),
        ({"kind": "message", "text": "x" * 40_000}, 106),
    ],
)
async def test_c07_what_must_not_be_published_gets_no_number(data: Any, code: int) -> None:
    cluster = conversations()
    client = await connected(cluster, cluster.edge(), "owner")
    top = cluster.chat.position(GROUP)
    assert await client.error(publish={"channel": GROUP, "data": data}) == code
    assert cluster.chat.position(GROUP) == top


async def test_refusals_are_said_with_code_words_and_time_to_wait() -> None:
    cluster = conversations()
    client = await connected(cluster, cluster.edge(), "owner")
    reply = await client.reply(publish={"channel": GROUP, "data": {"kind": "message"}})
    assert reply["error"]["code"] == 107
    assert "text" in reply["error"]["message"]  # what is wrong
    said = cluster.chat.says(GROUP, "owner")
    edit = {"kind": "edit", "of": said, "text": "x", "if_rev": 1}
    assert await client.error(publish={"channel": GROUP, "data": edit}) == 409
    cluster.chat.does(GROUP, "owner", kind="delete", of=said)
    del edit["if_rev"]
    assert await client.error(publish={"channel": GROUP, "data": edit}) == 410


async def test_a_limit_of_the_conversation_says_when_to_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = conversations()
    client = await connected(cluster, cluster.edge(), "member")

    async def slow(*_: Any, **__: Any) -> None:
        raise ThalamusError(code=ErrorCode.TOO_MANY_REQUESTS, retry_after_s=2.5)

    monkeypatch.setattr(cluster.chat, "append", slow)
    reply = await client.reply(publish={"channel": GROUP, "data": MESSAGE})
    assert (reply["error"]["code"], reply["error"].get("retry_after_ms")) == (111, 2_500)


async def test_the_author_is_the_user_and_the_key_is_the_clients() -> None:
    cluster = conversations()
    client = await connected(cluster, cluster.edge(), "member")
    first = await client.call(publish={"channel": GROUP, "data": MESSAGE})
    assert cluster.bus.logs[GROUP].entries[-1].offset == cluster.chat.position(GROUP).offset
    assert first == {} or "offset" in first
    await client.call(publish={"channel": GROUP, "data": MESSAGE, "idempotency_key": "k"})
    assert cluster.chat.appends == [("member", "", "u:member"), ("member", "k", "u:member")]
    info = cluster.bus.logs[GROUP].entries[-1].info
    assert info is not None
    assert info.user == "member"


async def test_a_backend_publishes_as_the_platform_and_keeps_everything() -> None:
    cluster = conversations()
    node = cluster.edge()
    publisher, namespace = node.publisher, cluster.namespaces.named["conv"]
    data = json.dumps(MESSAGE).encode()
    await publisher.publish(GROUP, namespace, data, time_ms=1, key_user="api")
    assert cluster.chat.appends == [("", "", "api")]
    assert cluster.bus.logs[GROUP].entries[-1].info is None
    with pytest.raises(ThalamusError) as refusal:
        await publisher.publish(GROUP, namespace, data, time_ms=1, key_user="api", keep=False)
    assert refusal.value.code is ErrorCode.NOT_AVAILABLE
    with pytest.raises(ChatRefused):
        await publisher.publish(GROUP, namespace, b'{"kind":"song"}', time_ms=1, key_user="api")


async def test_c14_without_persistence_newcomers_get_100_and_members_go_on() -> None:
    cluster = conversations()
    node = cluster.edge(allow_anonymous=True)
    client = await connected(cluster, node, "member")
    await client.call(subscribe={"channel": GROUP})
    cluster.chat.down = True
    for user in ("owner", "stranger", "removed"):
        for operation in ALL - {"presence.enter"}:
            reply = await reply_of(cluster, node, user, OPERATIONS[operation])
            assert reply["error"]["code"] == 100, operation
    assert await client.error(publish={"channel": GROUP, "data": MESSAGE}) == 100
    await client.call(presence={"channel": GROUP})
    cluster.chat.says(GROUP, "owner", "still there")
    await settle()
    assert client.publications(GROUP)[-1]["data"]["text"] == "still there"


async def test_a_subscription_token_makes_nobody_a_member() -> None:
    cluster = conversations()
    node = cluster.edge()
    for user, code in (("stranger", 103), ("removed", 103), ("reader", 0)):
        client = await connected(cluster, node, user)
        token = cluster.token(user, channel=GROUP)
        reply = await client.reply(subscribe={"channel": GROUP, "token": token})
        assert reply.get("error", {}).get("code", 0) == code, user
    client = await connected(cluster, node, "stranger")
    token = cluster.token("stranger", channel=f"${GROUP}")
    assert await client.error(subscribe={"channel": f"${GROUP}", "token": token}) == 103


async def test_a_backend_subscribes_members_alone() -> None:
    cluster = conversations()
    node = cluster.edge()
    client, stranger = await connected(cluster, node, "member"), await connected(cluster, node, "stranger")
    assert await ops.execute(node, ops.Subscribe(user="member", channel=GROUP)) == {"clients": 1, "refused": 0}
    assert GROUP in client.session.subscriptions
    with pytest.raises(ThalamusError) as refusal:
        await ops.execute(node, ops.Subscribe(user="stranger", channel=GROUP))
    assert refusal.value.code is ErrorCode.PERMISSION_DENIED
    assert not stranger.session.subscriptions


async def test_a_connect_goes_on_without_the_conversations_that_are_not_the_users() -> None:
    cluster = conversations()
    cluster.chat.begin("removed", channel=NOWHERE)
    node = cluster.edge()
    client = Client(cluster, node)
    connect = {"token": cluster.token("removed", channels=[GROUP, NOWHERE, "room"])}
    result = await client.call(connect=connect)
    assert set(result["subs"]) == {NOWHERE, "room"}
    cluster.chat.down = True
    refused = Client(cluster, node)
    assert await refused.error(connect=connect) == 100


async def test_c17_an_open_conversation_is_for_every_user() -> None:
    cluster = Cluster(conv=CONV)
    cluster.chat.begin("owner", channel=OPEN_ONE)
    node = cluster.edge(allow_anonymous=True)
    before = cluster.chat.position(OPEN_ONE)
    follower = await connected(cluster, node, "follower")
    await follower.call(subscribe={"channel": OPEN_ONE})
    assert cluster.chat.position(OPEN_ONE) == before  # who follows makes no event
    anonymous = Client(cluster, node)
    await anonymous.call(connect={})
    assert await anonymous.error(subscribe={"channel": OPEN_ONE}) == 103


@pytest.mark.parametrize("channel", [GROUP, NOWHERE])
@pytest.mark.parametrize("operation", sorted(ALL - {"presence.enter"}))
async def test_c10_a_refusal_comes_at_its_time_whatever_it_took(channel: str, operation: str) -> None:
    cluster = conversations()
    node = cluster.edge(refusal_step_s=0.05)
    client = await connected(cluster, node, "stranger")
    began = asyncio.get_running_loop().time()
    command = await client.post(**at(channel, operation))
    while not [line for line in client.lines if line.get("id") == command]:
        await asyncio.sleep(0.001)
    assert asyncio.get_running_loop().time() - began >= 0.045
    member = await connected(cluster, node, "member")
    if operation != "recover":
        await member.call(**OPERATIONS[operation])


def test_c10_a_refusal_that_took_long_waits_for_the_next_step() -> None:
    assert wait_s(0.02, 0.0) == 0.02
    assert [round(took + wait_s(0.02, took), 6) for took in (0.001, 0.0199, 0.0201, 0.05)] == [0.02, 0.02, 0.04, 0.06]
    assert wait_s(0.0, 1.0) == 0.0


async def test_an_anonymous_client_is_no_member_whoever_subscribes_it() -> None:
    cluster = conversations()
    cluster.chat.begin("owner", channel=OPEN_ONE)
    node = cluster.edge(allow_anonymous=True)
    client = Client(cluster, node)
    await client.call(connect={})
    for channel in (GROUP, OPEN_ONE):
        token = cluster.token(channel=channel)
        assert await client.error(subscribe={"channel": channel, "token": token}) == 103
        with pytest.raises(ThalamusError) as refusal:
            await ops.execute(node, ops.Subscribe(user="", client=client.session.client, channel=channel))
        assert refusal.value.code is ErrorCode.PERMISSION_DENIED
    assert not cluster.chat.checks


async def test_a_history_of_a_conversation_is_not_removed_by_hand() -> None:
    cluster = conversations()
    node = cluster.edge()
    context = cast("ApiContext", SimpleNamespace(node=node))
    with pytest.raises(ThalamusError) as refusal:
        await methods.history_remove(context, requests.ChannelOnly(channel=GROUP))
    assert refusal.value.code is ErrorCode.NOT_AVAILABLE
    assert cluster.bus.logs[GROUP].entries
