"""C44: ephemeral events cost no message, no position and no patch.

They are kept nowhere.

Clients of both encodings, with deltas and without, that come, go, lose what pub/sub brings, and have no room at times.
They keep their position as SDKs do, over Protobuf as those of before, which take no offset for 0.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from services.edge.domain.channels import ephemeral
from services.edge.domain.channels.channel import Channel
from services.edge.domain.channels.delta_channel import DeltaChannel
from services.edge.domain.channels.hub import Hub
from services.edge.domain.model import Publication
from services.edge.protocols.centrifugal.protobuf_codec import CentrifugalProtobuf
from services.shared.namespaces import Delta, Mode
from tests.properties.schedule import NAMESPACE
from tests.support.deltas import DeltaReader
from tests.support.edge import Client, Cluster, TestConnection, replace_namespace, settle
from tests.support.full import sized

PLAYS = sized(30, 1_000)
_CHANNEL = "a"
_ALLOWED = replace_namespace(NAMESPACE, delta=Delta.FOSSIL, recovery=Mode.FORCE)
_KINDS = [(encoding, delta) for encoding in ("json", "protobuf") for delta in ("fossil", "")]


class _Sdk:
    """A client that keeps its position, and all that it got."""

    def __init__(self, encoding: str, delta: str) -> None:
        self.encoding, self.delta = encoding, delta
        self.reader: DeltaReader | None = None
        self.position = 0
        self.messages: list[int] = []
        self.events: list[int] = []
        self.offered: set[int] = set()  # events that were published while it was subscribed and had room

    def read(self) -> None:
        """Take what has come."""
        assert self.reader is not None
        self.reader.read()
        for offset, payload in self.reader.got:
            value = json.loads(payload)
            if "event" in value:
                self.events.append(value["event"])
                assert offset == (0 if self.encoding == "json" else self.position), "it moves the position"
            else:
                self.messages.append(value["number"])
            if offset or self.encoding == "protobuf":
                self.position = offset
        self.reader.got.clear()


class _Play:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.cluster = Cluster(default=_ALLOWED)
        self.edge = self.cluster.edge(commands_per_s=0, ping_interval_s=0)
        self.sdks = [_Sdk(*kind) for kind in _KINDS * 2]
        self.published = self.events = 0
        self.ids = itertools.count(1)
        self.seen: Counter[str] = Counter()

    async def publish(self) -> None:
        """Into the log; at times pub/sub loses it."""
        self.published += 1
        data = json.dumps({"number": self.published, "text": "x" * self.rng.randint(30, 90)}).encode()
        self.edge.broker.stalled = self.rng.random() < 0.15  # type: ignore[attr-defined]
        self.cluster.bus.append(_CHANNEL, Publication(data), "", "", 10_000)
        self.edge.broker.stalled = False  # type: ignore[attr-defined]

    async def event(self) -> None:
        self.events += 1
        for sdk in self.sdks:
            if sdk.reader is not None and sdk.reader.client.connection.has_room:
                sdk.offered.add(self.events)
        data = json.dumps({"event": self.events, "text": "y" * self.rng.randint(30, 90)}).encode()
        self.cluster.bus.ephemeral(_CHANNEL, Publication(data))

    async def room(self) -> None:
        """A client gets slow, or is so no more."""
        if (reader := self.rng.choice(self.sdks).reader) is not None:
            reader.client.connection.has_room ^= True

    async def come(self) -> None:
        sdk = self.rng.choice(self.sdks)
        if sdk.reader is not None:
            return
        client = Client(self.cluster, self.edge, client_id=f"c{next(self.ids)}", encoding=sdk.encoding)
        sdk.reader = DeltaReader(client, _CHANNEL)
        client.send(json.dumps({"id": 1, "connect": {"token": self.cluster.token("alice")}}))
        await settle()
        epoch = self.cluster.bus.log(_CHANNEL).epoch
        request = {"channel": _CHANNEL, "recover": True, "offset": sdk.position, "epoch": epoch, "delta": sdk.delta}
        client.send(json.dumps({"id": 2, "subscribe": request}))
        for _ in range(self.rng.randint(0, 3)):  # some come while it joins
            await self.rng.choice((self.publish, self.event))()
        await settle()
        self.seen["came back" if sdk.position else "came"] += 1

    async def go(self) -> None:
        sdk = self.rng.choice(self.sdks)
        if sdk.reader is not None:
            await self.level()
            sdk.read()
            await sdk.reader.client.hang_up()
            sdk.reader = None

    async def level(self) -> None:
        """Let the edge find what pub/sub lost."""
        for _ in range(2):
            await settle()
            self.edge.hub.check_tops()
        await settle()

    async def play(self, steps: int) -> Counter[str]:
        for _ in range(steps):
            chosen = self.rng.choices([self.publish, self.event, self.come, self.go, self.room], [6, 6, 4, 1, 2])[0]
            await chosen()
            if self.rng.random() < 0.5:
                await settle()
        await self.level()
        for sdk in self.sdks:
            if sdk.reader is None:
                continue
            sdk.read()
            assert sdk.messages == list(range(1, self.published + 1)), "each message once, in order"
            assert len(set(sdk.events)) == len(sdk.events)
            assert set(sdk.events) <= sdk.offered, "kept for later, or sent to who has no room"
            self.seen["events"] += len(sdk.events)
            self.seen["dropped"] += self.events - len(sdk.events)
            self.seen.update(sdk.reader.kinds)
        log = self.cluster.bus.log(_CHANNEL)
        assert all(b'"event"' not in entry.data for entry in log.entries)
        assert log.top == self.published
        return self.seen


async def play(count: int, steps: int = 60) -> Counter[str]:
    first = random.randrange(2**32)
    seen: Counter[str] = Counter()
    for seed in range(first, first + count):
        print(f"seed {seed}")
        seen += await _Play(seed).play(steps)
    return seen


async def test_ephemeral_events_cost_no_message_no_position_and_no_patch() -> None:
    seen = await play(PLAYS)
    print(seen)
    assert min(seen["came back"], seen["events"], seen["dropped"], seen["patch"], seen["full"], seen["plain"]) > 10, (
        seen
    )


# Mutants of the code, which the plays above find.

Mutant = Callable[[pytest.MonkeyPatch], None]


def an_event_is_a_base(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DeltaChannel, "fan_out_ephemeral", Channel.fan_out_ephemeral)


def an_event_is_a_publication_past_the_log(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Hub, "ephemeral", lambda self, channel, event: self.publication(channel, "", event))


def no_offset_in_protobuf(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(CentrifugalProtobuf, "keeps_position", True)


def an_event_takes_an_offset(patch: pytest.MonkeyPatch) -> None:
    original = ephemeral.send_to

    def mutant(groups: Any, channel: str, event: Publication, position: int) -> None:
        original(groups, channel, event, position + 1)

    patch.setattr(ephemeral, "send_to", mutant)


def who_has_no_room_gets_it_too(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TestConnection, "send_ephemeral", TestConnection.send)


def an_event_is_in_the_log_of_the_edge(patch: pytest.MonkeyPatch) -> None:
    original = Hub.ephemeral

    def mutant(self: Hub, channel: str, event: Publication) -> None:
        original(self, channel, event)
        view = self.channels.get(channel)
        if view is not None and view.log is not None:
            event.offset = view.log.delivered + 1
            view.log.message(view.log.epoch, event)

    patch.setattr(Hub, "ephemeral", mutant)


MUTANTS = [
    an_event_is_a_base,
    an_event_is_a_publication_past_the_log,
    no_offset_in_protobuf,
    an_event_takes_an_offset,
    who_has_no_room_gets_it_too,
    an_event_is_in_the_log_of_the_edge,
]


@pytest.mark.parametrize("mutant", MUTANTS)
async def test_each_mutant_is_found(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    with pytest.raises((AssertionError, ValueError)):
        await play(1_000)  # it ends at the first that finds it
