"""Wire protocol, 5.2 (subscribe) and 5.3 (unsubscribe).

Results, the order of checks, tokens.
"""

from __future__ import annotations

import asyncio

import pytest

from services.edge.domain.ends import ClientEnd
from services.shared.namespaces import Durability, Mode, Permission
from tests.support.edge import OPEN, Client, Cluster, connected, replace_namespace, settle

CLOSED = replace_namespace(OPEN, subscribe=frozenset({Permission.GRANT}))


async def test_5_2_a_channel_without_log_answers_just_an_object() -> None:
    cluster = Cluster(tick=replace_namespace(OPEN, durability=Durability.NONE, recovery=Mode.OFF, positioning=Mode.OFF))
    client = await connected(cluster, cluster.edge())
    assert await client.call(subscribe={"channel": "tick:1"}) == {}
    assert await client.call(subscribe={"channel": "tick:2", "recover": True}) == {"was_recovering": True}


async def test_5_2_positioned_and_recoverable_are_given_when_asked_and_allowed() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    assert await client.call(subscribe={"channel": "a"}) == {}
    positioned = await client.call(subscribe={"channel": "b", "positioned": True})
    assert positioned == {"epoch": positioned["epoch"], "positioned": True}
    recoverable = await client.call(subscribe={"channel": "c", "recoverable": True})
    assert recoverable == {"recoverable": True, "epoch": recoverable["epoch"], "positioned": True}


async def test_5_2_what_is_not_allowed_is_silently_not_given() -> None:
    nothing = replace_namespace(OPEN, recovery=Mode.OFF, positioning=Mode.OFF, history=frozenset({Permission.NOBODY}))
    cluster = Cluster(default=nothing)
    client = await connected(cluster, cluster.edge())
    asked = {"channel": "a", "positioned": True, "recoverable": True, "join_leave": True, "delta": "fossil", "flag": 1}
    assert await client.call(subscribe=asked) == {}


async def test_10_who_may_read_history_may_also_recover() -> None:
    cluster = Cluster(default=replace_namespace(OPEN, recovery=Mode.OFF, positioning=Mode.OFF))
    client = await connected(cluster, cluster.edge())
    assert (await client.call(subscribe={"channel": "a", "recoverable": True}))["recoverable"] is True


async def test_11_1_an_empty_stream_already_has_an_epoch_and_keeps_it() -> None:
    cluster = Cluster()
    node = cluster.edge()
    first = await (await connected(cluster, node)).call(subscribe={"channel": "a", "recoverable": True})
    second = await (await connected(cluster, node, "bob")).call(subscribe={"channel": "a", "recoverable": True})
    assert first["epoch"] == second["epoch"] != ""


@pytest.mark.parametrize("request_", [{}, {"channel": ""}, {"channel": "a", "delta": "xdelta"}])
async def test_5_2_row_1_no_channel_or_an_unknown_delta_closes_3501(request_: dict[str, str]) -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    await client.post(subscribe=request_)
    assert client.closed == (3501, "bad request")


async def test_5_2_row_2_a_name_over_255_bytes_is_107_even_in_an_unknown_namespace() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    assert await client.error(subscribe={"channel": "nope:" + "x" * 251}) == 107
    assert await client.call(subscribe={"channel": "x" * 255}) == {}


async def test_5_2_row_3_subscribing_twice_is_105() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    await client.call(subscribe={"channel": "a"})
    assert await client.error(subscribe={"channel": "a", "token": "nonsense"}) == 105


async def test_5_2_row_4_more_than_128_channels_is_106() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    for number in range(128):
        await client.call(subscribe={"channel": f"c{number}"})
    assert await client.error(subscribe={"channel": "nope:x"}) == 106
    await client.call(unsubscribe={"channel": "c0"})
    await client.call(subscribe={"channel": "c128"})


async def test_5_2_row_5_an_unknown_namespace_is_102_and_before_the_characters() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    assert await client.error(subscribe={"channel": "nope:é"}) == 102
    assert (
        await (await connected(Cluster(default=None), Cluster(default=None).edge())).error(subscribe={"channel": "a"})
        == 102
    )


@pytest.mark.parametrize("name", ["é", "a b", "a\tb", "a\x00b", "a\x7f", "{a}", "a*", "a&b", "a/b", "日本"])
async def test_B25_row_6_characters_that_are_not_allowed_are_107(name: str) -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    assert await client.error(subscribe={"channel": name}) == 107
    assert await client.error(publish={"channel": name, "data": 1}) == 107
    assert await client.error(history={"channel": name}) == 107
    assert await client.error(presence={"channel": name}) == 107


async def test_5_2_row_6_the_pattern_of_the_namespace_is_for_the_part_behind_it() -> None:
    cluster = Cluster(room=replace_namespace(OPEN, channel_regex=r"[0-9]+"))
    client = await connected(cluster, cluster.edge())
    await client.call(subscribe={"channel": "room:42"})
    assert await client.error(subscribe={"channel": "room:x"}) == 107
    assert await client.error(subscribe={"channel": "room:42x"}) == 107


@pytest.mark.parametrize(("kind", "code"), [(1, 103), (2, 103), (3, 103), (4, 108)])
async def test_5_2_row_7_other_subscription_types_are_not_served(kind: int, code: int) -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    assert await client.error(subscribe={"channel": "a", "type": kind}) == code


async def test_5_2_row_8_a_private_channel_needs_a_token() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    assert await client.error(subscribe={"channel": "$a"}) == 103
    await client.call(subscribe={"channel": "$a", "token": cluster.token("alice", channel="$a")})


async def test_10_a_user_limited_channel_is_for_the_listed() -> None:
    cluster = Cluster()
    node = cluster.edge()
    alice, eve = await connected(cluster, node), await connected(cluster, node, "eve")
    await alice.call(subscribe={"channel": "dm#alice,bob"})
    assert await eve.error(subscribe={"channel": "dm#alice,bob"}) == 103


async def test_5_2_row_9_an_expired_token_is_109() -> None:
    cluster = Cluster(default=CLOSED)
    client = await connected(cluster, cluster.edge())
    assert await client.error(subscribe={"channel": "a", "token": cluster.token("alice", ttl_s=-1, channel="a")}) == 109


async def test_5_2_row_10_a_token_that_is_wrong_is_103() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    assert await client.error(subscribe={"channel": "a", "token": "x"}) == 103
    assert await client.error(subscribe={"channel": "a", "token": cluster.token("alice")}) == 103


@pytest.mark.parametrize(
    "claims", [{"user": "alice", "channel": "b"}, {"user": "bob", "channel": "a"}, {"user": "", "channel": "a"}]
)
async def test_5_2_row_11_a_token_for_another_channel_or_user_closes_3500(claims: dict[str, str]) -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    await client.post(subscribe={"channel": "a", "token": cluster.token(claims["user"], channel=claims["channel"])})
    assert client.closed == (3500, "invalid token")


async def test_5_2_row_11_a_token_for_another_connection_closes_3500() -> None:
    cluster = Cluster()
    node = cluster.edge()
    client = await connected(cluster, node)
    mine = cluster.token("alice", channel="a", client=client.session.client)
    await client.call(subscribe={"channel": "a", "token": mine})
    other = await connected(cluster, node)
    await other.post(subscribe={"channel": "a", "token": mine})
    assert other.closed == (3500, "invalid token")


async def test_5_2_row_12_without_token_and_permission_is_103() -> None:
    cluster = Cluster(default=CLOSED)
    client = await connected(cluster, cluster.edge())
    assert await client.error(subscribe={"channel": "a"}) == 103


async def test_10_authenticated_does_not_cover_the_anonymous_and_anyone_does() -> None:
    cluster = Cluster(public=replace_namespace(OPEN, subscribe=frozenset({Permission.ANYONE})))
    client = Client(cluster, cluster.edge(allow_anonymous=True))
    await client.call(connect={})
    assert await client.error(subscribe={"channel": "a"}) == 103
    await client.call(subscribe={"channel": "public:a"})
    assert await client.error(publish={"channel": "public:a", "data": 1}) == 103  # a subscriber without user


async def test_10_anonymous_subscribers_count_where_the_namespace_says_so() -> None:
    anyone = frozenset({Permission.ANYONE})
    cluster = Cluster(public=replace_namespace(OPEN, subscribe=anyone, anonymous_subscriber=True))
    client = Client(cluster, cluster.edge(allow_anonymous=True))
    await client.call(connect={})
    await client.call(subscribe={"channel": "public:a"})
    await client.call(publish={"channel": "public:a", "data": 1})


async def test_5_2_row_13_expire_at_in_the_past_is_110() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    assert (
        await client.error(subscribe={"channel": "a", "token": cluster.token("alice", channel="a", expire_at=1)}) == 110
    )


async def test_5_2_row_14_unrecoverable_with_flag_2_is_112_and_leaves_no_subscription() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    asked = {"channel": "a", "recoverable": True, "recover": True, "offset": 5, "epoch": "old", "flag": 3}
    assert await client.error(subscribe=asked) == 112
    assert cluster.presence.members_of.get("a", {}) == {}
    assert client.session.subscriptions == {}
    await client.call(subscribe={"channel": "a"})


async def test_5_2_row_15_a_storage_failure_is_temporary_error_100_and_leaves_no_subscription() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    cluster.bus.down = True
    reply = await client.reply(subscribe={"channel": "a"})
    assert reply["error"] == {"code": 100, "message": "internal server error", "temporary": True}
    cluster.bus.down = False
    await client.call(subscribe={"channel": "a"})


async def test_5_2_the_subscription_token_allows_and_its_data_and_info_are_used() -> None:
    cluster = Cluster(default=CLOSED)
    node = cluster.edge()
    client = await connected(cluster, node)
    token = cluster.token("alice", channel="a", info={"r": 1}, data={"d": 1}, ttl_s=100)
    result = await client.call(subscribe={"channel": "a", "token": token})
    assert (result["data"], result["expires"], result["ttl"]) == ({"d": 1}, True, 90)
    await client.call(publish={"channel": "a", "data": "x"})
    assert client.publications("a")[0]["info"]["chan_info"] == {"r": 1}


async def test_9_a_subscription_that_expired_ends_with_2501_after_its_grace() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge(ping_interval_s=0.0))
    await client.call(subscribe={"channel": "a", "token": cluster.token("alice", channel="a", ttl_s=60)})
    await cluster.advance(84)
    assert client.pushes == []
    await cluster.advance(2)
    assert client.pushes == [{"channel": "a", "unsubscribe": {"code": 2501, "reason": "subscription expired"}}]
    assert client.closed is None
    assert cluster.presence.members_of["a"] == {}


@pytest.mark.parametrize(
    ("override", "member"), [({"force_recovery": True}, "recoverable"), ({"force_positioning": True}, "positioned")]
)
async def test_9_an_override_of_the_token_replaces_the_option(override: dict[str, bool], member: str) -> None:
    off = replace_namespace(OPEN, recovery=Mode.OFF, positioning=Mode.OFF)
    cluster = Cluster(default=off)
    client = await connected(cluster, cluster.edge())
    values = {name: {"value": value} for name, value in override.items()}
    result = await client.call(
        subscribe={"channel": "a", "token": cluster.token("alice", channel="a", override=values)}
    )
    assert result[member] is True


async def test_5_3_unsubscribe_answers_an_object_also_when_not_subscribed() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge(), claims={"channels": ["server"]})
    assert await client.call(unsubscribe={"channel": "nothing"}) == {}
    assert await client.call(unsubscribe={"channel": "server"}) == {}
    await client.post(unsubscribe={})
    assert client.closed == (3501, "bad request")


async def test_16_after_the_reply_to_unsubscribe_no_more_pushes_of_that_channel() -> None:
    cluster = Cluster()
    node = cluster.edge()
    alice, bob = await connected(cluster, node), await connected(cluster, node, "bob")
    for client in (alice, bob):
        await client.call(subscribe={"channel": "a", "join_leave": True})
    await alice.call(unsubscribe={"channel": "a"})
    before = len(alice.lines)
    await bob.call(publish={"channel": "a", "data": 1})
    assert len(alice.lines) == before
    assert bob.publications("a")[-1]["data"] == 1


async def test_16_a_subscribe_reply_precedes_every_push_of_that_channel() -> None:
    cluster = Cluster(default=replace_namespace(OPEN, join_leave=Mode.FORCE, recovery=Mode.FORCE))
    node = cluster.edge()
    bob = await connected(cluster, node, "bob")
    await bob.call(subscribe={"channel": "a"})
    alice = await connected(cluster, node)
    entering = asyncio.Event()

    async def slowly_written(*_args: object, **_options: object) -> bool:
        entering.set()
        for _ in range(20):
            await asyncio.sleep(0)
        return True

    cluster.presence.written = slowly_written  # type: ignore[method-assign]
    task = asyncio.create_task(alice.post(subscribe={"channel": "a"}))
    await entering.wait()
    await bob.call(publish={"channel": "a", "data": "while joining"})
    await task
    await settle()
    kinds = [next(iter(set(line) - {"id"})) for line in alice.lines[1:]]
    assert kinds == ["subscribe", "push", "push"]
    assert [pub["data"] for pub in alice.publications("a")] == ["while joining"]


async def test_a_client_that_goes_while_it_subscribes_leaves_nothing_behind() -> None:
    cluster = Cluster()
    node = cluster.edge()
    alice = await connected(cluster, node)
    alice.send('{"id":9,"subscribe":{"channel":"a"}}')
    await asyncio.sleep(0)
    alice.protocol.closed(ClientEnd.LOST)
    await settle()
    assert cluster.presence.members_of.get("a", {}) == {}
    await cluster.advance(2.0)
    assert node.hub.channels == {}
    assert node.sessions == set()


async def test_a_channel_that_is_opened_again_and_not_joined_is_closed_like_any_other() -> None:
    cluster = Cluster()
    node = cluster.edge()
    alice = await connected(cluster, node)
    await alice.call(subscribe={"channel": "a"})
    await alice.call(unsubscribe={"channel": "a"})
    await cluster.advance(0.5)
    alice.send('{"id":9,"subscribe":{"channel":"a"}}')
    alice.protocol.closed(ClientEnd.CLOSED)  # before the subscribe could join
    await node.hub.open("a", OPEN)
    await cluster.advance(2.5)
    assert node.hub.channels == {}
