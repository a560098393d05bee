"""A channel with deltas: who is in which group, and that a patch is made once."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from services.edge.domain.channels.channel import Channel, Subscription
from services.edge.domain.channels.delta_channel import DeltaChannel
from services.edge.domain.model import ClientInfo, Publication
from services.edge.protocols.centrifugal import fossil
from services.edge.protocols.centrifugal.json_codec import CentrifugalJson
from services.edge.protocols.centrifugal.protobuf_codec import CentrifugalProtobuf
from services.shared.namespaces import Delta
from tests.support.edge import OPEN, Cluster, TestConnection, connected, replace_namespace

JSON, PROTOBUF = CentrifugalJson(frame=bytes), CentrifugalProtobuf(frame=bytes)
ALLOWED = replace_namespace(OPEN, delta=Delta.FOSSIL)


@dataclass(eq=False)
class Member:
    """A client with one live subscription."""

    name: str
    encoder: Any = JSON
    connection: TestConnection = field(default_factory=TestConnection)
    told: int = 0

    def insufficient_state(self, _: Subscription) -> None:
        self.told += 1

    def comes(self, channel: Channel, *, delta: bool = True, **options: Any) -> Subscription:
        subscription = Subscription(
            cast(Any, self),
            "room",
            ClientInfo(self.name, self.name),
            delta=self.encoder.delta if delta else None,
            **options,
        )
        channel.join(subscription)
        channel.go_live(subscription)
        return subscription

    def patches(self) -> list[bool]:
        return [b'"delta":true' in frame for frame in self.connection.frames]


def made() -> DeltaChannel:
    return DeltaChannel("room", ALLOWED, None, join_buffer_size=8)


def data(number: int) -> Publication:
    return Publication(b'{"number":%d,"text":"%b"}' % (number, b"x" * 60))


async def test_only_namespaces_with_delta_have_such_channels() -> None:
    cluster = Cluster(with_delta=ALLOWED)
    node = cluster.edge()
    client = await connected(cluster, node)
    for name in ("a", "with_delta:a"):
        await client.call(subscribe={"channel": name})
    assert {name: type(one) for name, one in node.hub.channels.items()} == {"a": Channel, "with_delta:a": DeltaChannel}


def test_a_patch_is_made_once_for_all_subscribers_of_both_encodings(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bytes] = []

    def create(base: bytes, result: bytes, original: Any = fossil.create) -> bytes:
        calls.append(result)
        return cast(bytes, original(base, result))

    monkeypatch.setattr(fossil, "create", create)
    channel = made()
    for number in range(3):
        for encoder in (JSON, PROTOBUF):
            Member(f"{number}", encoder).comes(channel)
            Member(f"plain {number}", encoder).comes(channel, delta=False)
    channel.fan_out([data(1)])
    assert calls == []
    channel.fan_out([data(2), data(3)])
    assert calls == [data(2).data, data(3).data]
    assert channel.deliveries == 3 * 12


def test_no_patch_is_made_where_nobody_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fossil, "create", None)
    channel = made()
    Member("plain").comes(channel, delta=False)
    channel.fan_out([data(1), data(2)])
    Member("new").comes(channel)
    channel.fan_out([data(3)])


def test_who_left_and_who_joins_again_are_in_no_old_group() -> None:
    channel = made()
    member = Member("ann")
    subscription = member.comes(channel)
    channel.fan_out([data(1), data(2)])
    channel.leave(subscription)
    channel.fan_out([data(3)])
    assert len(channel) == 0
    channel.join(subscription)
    channel.go_live(subscription)
    channel.fan_out([data(4), data(5)])
    assert member.patches() == [False, True, False, True]


def test_data_is_kept_only_for_those_who_get_patches() -> None:
    channel = made()
    Member("plain").comes(channel, delta=False)
    first = data(1)
    before = references(first)
    channel.fan_out([first])
    assert references(first) == before
    subscription = Member("ann").comes(channel)
    channel.fan_out([data(2), first])
    assert references(first) == before + 1
    channel.leave(subscription)
    channel.fan_out([second := data(3)])
    assert references(first) == references(second) == before


def references(publication: Publication) -> int:
    return sys.getrefcount(publication.data)


def test_a_publication_of_the_log_keeps_no_base_that_is_not_in_the_log() -> None:
    """Otherwise each of a ring of short publications would hold a long one.

    That one was published past the log.
    """
    channel = made()
    member = Member("ann")
    member.comes(channel)
    logged = [Publication(data(number).data, offset=number) for number in range(1, 5)]
    channel.fan_out(logged[:2])
    channel.fan_out([past := data(9), *logged[2:]])
    assert member.patches() == [False, True, True, True, True]
    bases = [one.patch and one.patch[0] for one in (*logged, past)]
    assert bases == [None, logged[0].data, None, logged[2].data, None]


def test_what_is_held_is_full_and_so_is_the_first_one_behind_it() -> None:
    channel = made()
    Member("other").comes(channel)
    member = Member("ann")
    subscription = Subscription(cast(Any, member), "room", ClientInfo("ann", "ann"), delta=JSON.delta)
    channel.join(subscription)
    channel.fan_out([data(1), data(2)])
    channel.go_live(subscription)
    channel.fan_out([data(3), data(4)])
    assert member.patches() == [False, False, False, True]


@pytest.mark.parametrize("in_log", [False, True])
def test_whose_encoder_failed_gets_the_next_one_in_full(monkeypatch: pytest.MonkeyPatch, in_log: bool) -> None:
    """Without a position they go on.

    With one, they get a gap notification for what is in the log.
    """
    channel = made()
    plain, positioned, other = Member("ann"), Member("bob"), Member("cid", PROTOBUF)
    plain.comes(channel)
    positioned.comes(channel, positioned=True)
    other.comes(channel)
    channel.fan_out([data(1), data(2)])
    failing = Publication(data(3).data, offset=3 if in_log else 0)
    with monkeypatch.context() as patch:
        patch.setattr(JSON.delta.patch, "encode", lambda push: 1 / 0)
        channel.fan_out([failing])
    channel.fan_out([data(4), data(5)])
    assert plain.patches() == [False, True, False, True]
    assert positioned.patches() == ([False, True] if in_log else [False, True, False, True])
    assert positioned.told == in_log
    assert len(other.connection.frames) == 5


def test_new_ones_whose_encoder_failed_stay_without_a_base(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = made()
    old, new = Member("ann"), Member("bob")
    old.comes(channel)
    channel.fan_out([data(1)])
    new.comes(channel)
    with monkeypatch.context() as patch:
        patch.setattr(JSON.delta.full, "encode", lambda push: 1 / 0)
        channel.fan_out([data(2)])
    channel.fan_out([data(3), data(4)])
    assert old.patches() == [False, True, True, True]
    assert new.patches() == [False, True]


@pytest.mark.parametrize("encoder", [JSON, PROTOBUF])
def test_an_ephemeral_event_is_nobodys_base(encoder: Any) -> None:
    """SDKs take it as their base, and whoever had no room for it has another one.

    So the next one is full for all.
    """
    channel = made()
    members = [Member("got it", encoder), Member("had no room", encoder)]
    for member in members:
        member.comes(channel)
    long = [Publication(b'{"number":%d,"text":"%b"}' % (number, b"x" * 600)) for number in range(6)]
    channel.fan_out(long[1:3])
    members[1].connection.has_room = False
    channel.fan_out_ephemeral(long[3])
    channel.fan_out(long[4:])
    for member, numbers in zip(members, ([1, 2, 3, 4, 5], [1, 2, 4, 5]), strict=True):
        assert len(member.connection.frames) == len(numbers)
        patched = [len(frame) < 600 for frame in member.connection.frames]
        assert patched == [number in (2, 5) for number in numbers]
