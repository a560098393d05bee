"""One channel of an edge: who gets what, when joining, catching up, and live."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from prometheus_client import REGISTRY

from services.edge.domain.channels.channel import Channel, Subscription
from services.edge.domain.channels.channel_log import ChannelLog
from services.edge.domain.model import ClientInfo, Publication, StreamPosition
from services.edge.domain.replies import JoinPush, LeavePush, PublicationPush
from services.edge.protocols.centrifugal.json_codec import CentrifugalJson
from tests.support.edge import OPEN, TestConnection

JSON = CentrifugalJson(frame=bytes)


@dataclass(eq=False)
class Member:
    """A client with one subscription to the channel."""

    name: str
    joins: bool = True
    encoder: CentrifugalJson = JSON
    connection: TestConnection = field(default_factory=TestConnection)
    told: list[Subscription] = field(default_factory=list)  # gap notifications

    def __post_init__(self) -> None:
        info = ClientInfo(self.name, self.name)
        self.subscription = Subscription(cast(Any, self), "room", info, wants_joins=self.joins)

    def insufficient_state(self, subscription: Subscription) -> None:
        self.told.append(subscription)

    @property
    def frames(self) -> list[bytes]:
        return self.connection.frames


def made(buffer: int = 8) -> Channel:
    log = ChannelLog(StreamPosition(0, "epoch"), ring_size=8, ring_max_bytes=1 << 20, buffer_size=8)
    return Channel("room", OPEN, log, join_buffer_size=buffer)


def joining(channel: Channel, name: str, **options: Any) -> Member:
    member = Member(name, **options)
    channel.join(member.subscription)
    return member


def live(channel: Channel, name: str, **options: Any) -> Member:
    member = joining(channel, name, **options)
    channel.go_live(member.subscription)
    return member


def catching_up(channel: Channel, name: str, *, answered: bool, **options: Any) -> Member:
    """`answered`: its reply is queued already."""
    member = joining(channel, name, **options)
    channel.stop_holding(member.subscription)
    if answered:
        channel.go_live(member.subscription)
    return member


def joined(name: str) -> JoinPush:
    return JoinPush("room", ClientInfo(name, name))


def left(name: str) -> LeavePush:
    return LeavePush("room", ClientInfo(name, name))


def published(number: int, offset: int = 0, *, but: str = "") -> Publication:
    return Publication(str(number).encode(), offset=offset, exclude_client=but)


def frame_of(publication: Publication) -> bytes:
    return JSON.encode(PublicationPush("room", publication, "epoch" if publication.offset == 1 else ""))


def test_what_comes_while_one_joins_is_sent_behind_its_reply_in_order() -> None:
    channel = made()
    member = joining(channel, "ann")
    first, second, third = (published(number, number) for number in (1, 2, 3))
    channel.fan_out([first, second])
    assert member.frames == []
    member.connection.send(b"reply")
    channel.go_live(member.subscription)
    channel.fan_out([third])
    assert member.frames == [b"reply", *map(frame_of, (first, second, third))]


def test_who_missed_more_than_is_held_is_broken_and_holds_nothing_any_more() -> None:
    channel = made(buffer=2)
    full, other = joining(channel, "ann"), joining(channel, "bob")
    channel.fan_out([published(1, 1), published(2, 2)])
    assert not full.subscription.broken
    other.subscription.held.clear()  # its held frames were taken into a reply
    channel.fan_out([published(3, 3)])
    channel.fan_out([published(4, 4)])
    assert full.subscription.broken
    assert full.subscription.held == []
    assert not other.subscription.broken
    assert len(other.subscription.held) == 2


def test_who_catches_up_reads_the_log_itself_and_gets_only_what_is_in_no_log() -> None:
    channel = made()
    early, late = catching_up(channel, "ann", answered=False), catching_up(channel, "bob", answered=True)
    logged, unlogged = published(1, 1), published(2)
    channel.fan_out([logged, unlogged])
    assert early.frames == []
    assert late.frames == [frame_of(unlogged)]
    channel.go_live(early.subscription)  # its reply is queued; it still catches up
    assert early.frames == [frame_of(unlogged)]
    assert channel.is_catching_up(early.subscription)
    assert channel.became_live == 0
    channel.receive_live(early.subscription)
    assert channel.became_live == 1
    channel.fan_out([published(3, 2)])
    assert early.frames[1:] == [frame_of(published(3, 2))]


def test_a_sender_that_is_excluded_gets_its_publication_in_no_state() -> None:
    for offset in (0, 1):
        channel = made()
        own = [joining(channel, "own"), live(channel, "own"), catching_up(channel, "own", answered=True)]
        others = [joining(channel, "ann"), live(channel, "bob")]
        one = published(1, offset, but="own")
        channel.fan_out([one])
        for member in (own[0], others[0]):
            channel.go_live(member.subscription)
        assert [member.frames for member in own] == [[], [], []]
        assert [member.frames for member in others] == [[frame_of(one)]] * 2


def test_joins_reach_who_wants_them_and_come_behind_the_reply_of_who_is_new() -> None:
    channel = made()
    wanting = live(channel, "ann"), catching_up(channel, "bob", answered=True)
    waiting = joining(channel, "cid"), catching_up(channel, "dan", answered=False)
    without_joins = [
        live(channel, "eve", joins=False),
        joining(channel, "fay", joins=False),
        catching_up(channel, "gil", answered=True, joins=False),
    ]
    pushes = [joined("new"), joined("newer")]
    channel.announce_joins(pushes)
    assert [member.frames for member in wanting] == [[JSON.encode_joins(pushes)]] * 2
    assert [member.frames for member in waiting] == [[]] * 2
    for member in (*waiting, without_joins[1]):
        channel.go_live(member.subscription)
    assert [member.frames for member in waiting] == [[JSON.encode(push) for push in pushes]] * 2
    assert [member.frames for member in without_joins] == [[]] * 3
    assert channel.deliveries == 2


def test_a_leave_reaches_everybody_who_wants_it_but_the_one_who_left() -> None:
    channel = made()
    gone = live(channel, "gone")
    members = [live(channel, "ann"), catching_up(channel, "bob", answered=True), joining(channel, "cid")]
    without_joins = live(channel, "dan", joins=False)
    channel.announce_leave(left("gone"))
    channel.go_live(members[2].subscription)
    assert [member.frames for member in members] == [[JSON.encode(left("gone"))]] * 3
    assert gone.frames == without_joins.frames == []


def test_a_push_is_encoded_once_for_each_encoder() -> None:
    calls: list[object] = []

    class Counting(CentrifugalJson):
        def encode(self, message: Any) -> bytes:
            calls.append(self)
            return super().encode(message)

    one, other = Counting(frame=bytes), Counting(frame=bytes)
    channel = made()
    for number in range(4):
        live(channel, f"a{number}", encoder=one)
        joining(channel, f"b{number}", encoder=one)
        live(channel, f"c{number}", encoder=other)
    channel.fan_out([published(1, 1)])
    assert sorted(map(id, calls)) == sorted([id(one), id(one), id(other)]), "live and held, and the other encoder"
    assert channel.deliveries == 8


def test_what_an_encoder_has_no_words_for_is_not_sent() -> None:
    class Mute(CentrifugalJson):
        def encode(self, message: Any) -> bytes | None:  # type: ignore[override]
            return None if mute else super().encode(message)

        def encode_joins(self, pushes: Any) -> bytes | None:  # type: ignore[override]
            return None if mute else super().encode_joins(pushes)

    mute = True
    encoder = Mute(frame=bytes)
    channel = made()
    members = [live(channel, "ann", encoder=encoder), catching_up(channel, "bob", answered=True, encoder=encoder)]
    members += [joining(channel, "cid", encoder=encoder)]
    other = live(channel, "dan")

    def everything() -> None:
        channel.fan_out([published(1, 1)])
        channel.fan_out([published(2)])
        channel.announce_joins([JoinPush("room", ClientInfo("eve", "eve"))])
        channel.announce_leave(left("eve"))

    everything()
    assert len(other.frames) == 4
    assert channel.deliveries == 4
    assert not any(member.subscription.held for member in members)
    mute = False
    everything()
    channel.go_live(members[2].subscription)
    assert [len(member.frames) for member in members] == [4, 3, 4]  # who catches up reads 1 in the log


def test_who_left_gets_nothing_whatever_it_was_doing() -> None:
    channel = made()
    members = [joining(channel, "ann"), live(channel, "bob"), catching_up(channel, "cid", answered=True)]
    assert len(channel) == 3
    assert {one.info.client for one in channel.subscriptions} == {"ann", "bob", "cid"}
    channel.fan_out([published(1, 1)])
    for member in members:
        member.frames.clear()
        channel.leave(member.subscription)
        channel.leave(member.subscription)  # also twice
    channel.fan_out([published(2, 2), published(3)])
    channel.announce_joins([joined("dan")])
    channel.announce_leave(left("dan"))
    channel.go_live(members[0].subscription)
    assert [member.frames for member in members] == [[]] * 3
    assert len(channel) == 0
    assert channel.subscriptions == []


def test_who_catches_up_and_joins_again_has_frames_held_for_it() -> None:
    channel = made()
    member = catching_up(channel, "ann", answered=True)
    channel.hold_again(member.subscription)
    assert not channel.is_catching_up(member.subscription)
    one = published(1, 1)
    channel.fan_out([one])
    assert member.frames == []
    channel.go_live(member.subscription)
    assert member.frames == [frame_of(one)]


class Failing(CentrifugalJson):
    """An encoder with a fault."""

    def encode(self, message: Any) -> bytes:
        raise ValueError("no words")

    def encode_joins(self, pushes: Any) -> bytes:
        raise ValueError("no words")


@pytest.mark.parametrize("first", ["failing", "sound"])
def test_an_encoder_that_fails_costs_only_its_own_subscribers(first: str) -> None:
    channel, failing = made(), Failing(frame=bytes)
    encoders = [failing, JSON] if first == "failing" else [JSON, failing]
    members = [live(channel, f"live{number}", encoder=one) for number, one in enumerate(encoders)]
    waiting = [joining(channel, f"joining{number}", encoder=one) for number, one in enumerate(encoders)]
    late = [catching_up(channel, f"late{number}", answered=True, encoder=one) for number, one in enumerate(encoders)]
    before = failures()
    pushed = [published(1, 1), published(2, 2, but="nobody"), published(3)]
    channel.fan_out(pushed)
    channel.announce_joins([joined("eve")])
    channel.announce_leave(left("eve"))
    for member in members:
        if member.encoder is JSON:
            assert member.frames[:3] == list(map(frame_of, pushed))
            assert len(member.frames) == 5
        else:
            assert member.frames == []
    for member in waiting:
        assert member.subscription.broken == (member.encoder is failing), "it must not begin behind a hole"
        assert len(member.subscription.held) == (0 if member.encoder is failing else 5)
    assert [len(member.frames) for member in late] == [0 if one is failing else 3 for one in encoders]
    assert failures() > before


def test_who_follows_the_log_is_told_of_the_gap_that_a_failing_encoder_leaves() -> None:
    channel, failing = made(), Failing(frame=bytes)
    positioned, other = live(channel, "ann", encoder=failing), live(channel, "bob", encoder=failing)
    sound = live(channel, "cid")
    positioned.subscription.positioned = True
    channel.fan_out([published(1)])
    assert not positioned.told
    channel.fan_out([published(1, 1), published(2, 2)])
    assert positioned.told == [positioned.subscription]
    assert other.told == sound.told == []
    assert channel.subscriptions == [other.subscription, sound.subscription]
    assert len(sound.frames) == 3


def failures() -> float:
    return REGISTRY.get_sample_value("thalamus_edge_encoder_failures_total") or 0.0


def test_an_ephemeral_event_is_for_live_subscribers_alone_and_is_held_for_nobody() -> None:
    channel = made(buffer=1)
    alive, new = live(channel, "live"), joining(channel, "new")
    behind = [catching_up(channel, name, answered=name == "answered") for name in ("answered", "waiting")]
    before = [len(one.frames) for one in behind]
    for _ in range(3):
        channel.fan_out_ephemeral(Publication(b'{"kind":"typing"}', ClientInfo("ann", "c1")))
    event = b'{"push":{"channel":"room","pub":{"data":{"kind":"typing"},"info":{"user":"ann","client":"c1"}}}}'
    assert alive.frames == [event] * 3
    assert (new.subscription.held, new.subscription.broken) == ([], False)
    assert [len(one.frames) for one in behind] == before
    assert all(not one.subscription.held for one in behind)
    assert channel.log is not None
    assert (channel.log.delivered, channel.log.since(0)) == (0, [])


def test_who_has_no_room_misses_an_ephemeral_event_alone() -> None:
    channel = made()
    slow, quick = live(channel, "slow"), live(channel, "quick")
    slow.connection.has_room = False
    channel.fan_out_ephemeral(Publication(b"1"))
    assert (len(slow.frames), len(quick.frames)) == (0, 1)
    channel.fan_out([Publication(b"2", offset=1)])
    assert (len(slow.frames), len(quick.frames)) == (1, 2)


def test_an_encoder_that_fails_loses_an_ephemeral_event_and_nothing_else() -> None:
    class Broken(CentrifugalJson):
        def encode(self, push: Any) -> bytes:
            raise ValueError("no")

    channel = made()
    broken, whole = live(channel, "broken", encoder=Broken(frame=bytes)), live(channel, "whole")
    broken.subscription.recoverable = True
    channel.fan_out_ephemeral(Publication(b"1"))
    assert (broken.frames, broken.told, len(whole.frames), len(channel)) == ([], [], 1, 2)
