"""Joins, updates and leaves of a channel with a rate: what is told when."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest
from prometheus_client import REGISTRY

from services.edge.domain.channels import presence_events
from services.edge.domain.channels.channel import Channel
from services.edge.domain.channels.presence_events import PresenceEvents
from services.edge.domain.model import ClientInfo
from services.edge.domain.replies import LeavePush
from services.shared.namespaces import Namespace, PresenceBy

DROPPED = "thalamus_edge_presence_events_dropped_total"
SEEDS = range(200 if os.environ.get("FULL") else 30)


class Told(Channel):
    """A channel that keeps what it was told, instead of subscribers."""

    def __init__(self, rate: float, by: PresenceBy = PresenceBy.CLIENT) -> None:
        namespace = Namespace(name="hall", presence=True, presence_event_rate=rate, presence_by=by)
        super().__init__("hall:a", namespace, None, join_buffer_size=1)
        self.events: list[tuple[str, str, bytes]] = []

    def announce_joins(self, pushes: Any) -> None:
        self.events += [
            ("update" if push.updated else "join", push.info.client, push.info.chan_info) for push in pushes
        ]

    def announce_leave(self, push: LeavePush) -> None:
        self.events.append(("leave", push.info.client, push.info.chan_info))


class Hall:
    """The events of one channel, and a clock."""

    def __init__(self, rate: float, by: PresenceBy = PresenceBy.CLIENT) -> None:
        self.now = 100.0
        self.channel = Told(rate, by)
        self.channels: dict[str, Channel] = {"hall:a": self.channel}
        self.events = PresenceEvents(self.channels, lambda: self.now)

    def join(self, *clients: str, user: str = "", info: bytes = b"") -> None:
        self.events.joined("hall:a", [ClientInfo(user, client, b"", info) for client in clients])

    def update(self, client: str, info: bytes, user: str = "") -> None:
        self.events.updated("hall:a", [ClientInfo(user, client, b"", info)])

    def leave(self, client: str, user: str = "") -> None:
        self.events.left("hall:a", ClientInfo(user, client))

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.5)):
            self.now += 0.5
            self.events.tick(self.now)

    def told(self) -> list[tuple[str, str, bytes]]:
        told, self.channel.events = self.channel.events, []
        return told


def names(events: list[tuple[str, str, bytes]]) -> list[str]:
    return [f"{what} {client}" for what, client, _ in events]


def test_without_a_rate_everything_is_told_at_once() -> None:
    hall = Hall(0)
    hall.join("a", "b")
    hall.update("a", b"1")
    hall.leave("b")
    assert hall.told() == [("join", "a", b""), ("join", "b", b""), ("update", "a", b"1"), ("leave", "b", b"")]


def test_half_a_second_of_events_are_told_at_once_and_then_as_many_as_the_rate_says() -> None:
    hall = Hall(10)
    hall.join(*(str(number) for number in range(20)))
    assert names(hall.told()) == [f"join {number}" for number in range(5)]
    for first in (5, 10, 15):
        hall.pass_time(0.5)
        assert names(hall.told()) == [f"join {number}" for number in range(first, first + 5)]
    hall.pass_time(0.5)
    assert hall.told() == []


def test_a_rate_below_one_tells_one_at_a_time() -> None:
    hall = Hall(0.5)
    hall.join("a", "b", "c")
    assert names(hall.told()) == ["join a"]
    hall.pass_time(1.5)
    assert hall.told() == []
    hall.pass_time(0.5)
    assert names(hall.told()) == ["join b"]


@pytest.mark.parametrize(
    ("later", "told"),
    [
        (["update"], [("join", b"1")]),
        (["update", "update"], [("join", b"2")]),
        (["leave"], [("leave", b"")]),
        (["update", "leave"], [("leave", b"")]),
        (["leave", "join"], [("join", b"2")]),
        (["leave", "join", "update"], [("join", b"3")]),
    ],
)
def test_of_a_client_whose_join_waits_the_newest_is_told(later: list[str], told: list[tuple[str, bytes]]) -> None:
    hall = Hall(2)
    hall.join("first", "a")
    assert names(hall.told()) == ["join first"]
    for number, what in enumerate(later, 1):
        if what == "leave":
            hall.leave("a")
        elif what == "join":
            hall.join("a", info=b"%d" % number)
        else:
            hall.update("a", b"%d" % number)
    hall.pass_time(5)
    assert [(what, info) for what, _, info in hall.told()] == told


def test_an_update_of_a_client_that_was_told_of_stays_an_update() -> None:
    hall = Hall(2)
    hall.join("a")
    hall.update("a", b"1")
    hall.update("a", b"2")
    hall.pass_time(5)
    assert hall.told() == [("join", "a", b""), ("update", "a", b"2")]


def test_by_user_one_event_of_each_user_waits() -> None:
    """The join names the first client of a user, the leave the last one."""
    hall = Hall(2, PresenceBy.USER)
    hall.join("x")
    hall.join("a1", user="ann")
    hall.leave("a2", user="ann")
    hall.join("n1")
    hall.join("n2")
    hall.pass_time(5)
    assert names(hall.told()) == ["join x", "leave a2", "join n1", "join n2"]


def test_the_bucket_is_not_full_again_because_nothing_waits() -> None:
    hall = Hall(10)
    for _ in range(4):
        hall.join(*(f"{hall.now}-{number}" for number in range(5)))
        hall.now += 0.01
        hall.events.tick(hall.now)
    assert len(hall.told()) == 5


def test_what_waits_is_bounded_and_the_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence_events, "MAX_WAITING", 3)
    hall = Hall(2)
    before = REGISTRY.get_sample_value(DROPPED) or 0
    hall.join(*"abcdefg")
    hall.pass_time(10)
    assert names(hall.told()) == ["join a", "join e", "join f", "join g"]
    assert REGISTRY.get_sample_value(DROPPED) == before + 3


def test_a_channel_that_was_closed_tells_nothing_any_more() -> None:
    hall = Hall(2)
    hall.join("a", "b")
    old, hall.channel = hall.channel, Told(2)
    hall.channels["hall:a"] = hall.channel
    hall.pass_time(5)
    assert names(old.events) == ["join a"]
    hall.join("c")
    assert names(hall.told()) == ["join c"]
    del hall.channels["hall:a"]
    hall.join("d")
    assert hall.told() == []


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("by", PresenceBy)
def test_who_sets_members_by_joins_and_removes_them_by_leaves_ends_with_who_is_there(seed: int, by: PresenceBy) -> None:
    """At any rate, and never more than the rate is told."""
    print("seed", seed)
    rng = random.Random(seed)
    rate = rng.choice([0.5, 1, 3, 20])
    hall = Hall(rate, by)
    there: dict[str, bytes] = {}  # by client, or user
    tabs: dict[str, list[str]] = {}
    reader: dict[str, bytes] = {}
    total, began = 0, hall.now

    def read() -> None:
        nonlocal total
        for what, client, info in hall.told():
            total += 1
            key = client if by is PresenceBy.CLIENT else client.split("-")[0]
            if what == "leave":
                reader.pop(key, None)
            else:
                reader[key] = info
        assert total <= rate * (hall.now - began) + max(1.0, rate / 2) + 1e-6

    for step in range(300):
        user = f"u{rng.randrange(8)}"
        client, info = f"{user}-{rng.randrange(3)}", b"%d" % step
        key = client if by is PresenceBy.CLIENT else user
        here = tabs.setdefault(key, [])
        if client not in here:
            here.append(client)
            if len(here) == 1:
                there[key] = info
                hall.join(client, user=user, info=info)
        elif rng.random() < 0.5:
            there[key] = info
            hall.update(client, info, user=user)
        else:
            here.remove(client)
            if not here:
                del there[key]
                hall.leave(client, user=user)
        if rng.random() < 0.3:
            reader = dict(there)  # it reads a page of members
        if rng.random() < 0.3:
            hall.pass_time(0.5 * rng.randrange(1, 4))
            read()
    hall.pass_time(300 / rate)
    read()
    assert reader == there
