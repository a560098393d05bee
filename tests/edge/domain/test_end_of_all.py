"""The end of an open conversation with very many subscriptions stops nobody else."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from services.edge.domain.channels.channel import Subscription
from services.edge.domain.channels.conversation_channel import PER_TURN, kind_of
from services.edge.domain.model import ClientInfo, Publication
from services.edge.protocols.centrifugal.json_codec import CentrifugalJson
from services.shared.namespaces import Delta
from tests.support.edge import replace_namespace
from tests.support.edge_chat import CONV, OPEN_ONE

DELETE = {"kind": "conversation", "op": "delete"}
UNKNOWN = {"kind": "member", "op": "of a later version"}


class Session:
    """A subscriber that notes what it gets, and in which turn of the loop it ends."""

    def __init__(self, scene: Scene, encoder: Any) -> None:
        self.scene, self.encoder = scene, encoder
        self.connection = cast(Any, SimpleNamespace(send=self._send))
        self.events: list[str] = []

    def _send(self, _: bytes) -> None:
        self.events.append("event")

    def _end(self, subscription: Subscription) -> None:
        self.scene.channel.leave(subscription)
        self.events.append("end")
        self.scene.ended[self.scene.turn] = self.scene.ended.get(self.scene.turn, 0) + 1

    no_longer_member = insufficient_state = _end

    def presence_over(self, subscription: Subscription) -> None:
        """It is over."""


class Scene:
    """A channel with many live subscriptions; `turn` counts turns of the event loop."""

    def __init__(self, count: int, delta: Delta) -> None:
        namespace = replace_namespace(CONV, delta=delta)
        self.channel = kind_of(namespace)(OPEN_ONE, namespace, None, join_buffer_size=10)
        self.turn, self.ended = 0, dict[int, int]()
        encoder = CentrifugalJson(frame=bytes)
        self.sessions = [Session(self, encoder) for _ in range(count)]
        self.made = []
        for number, session in enumerate(self.sessions):
            made = Subscription(session, OPEN_ONE, ClientInfo(f"u{number}", f"c{number}"))
            self.channel.join(made)
            self.channel.go_live(made)
            self.made.append(made)

    def fan_out(self, *events: dict[str, Any]) -> None:
        first = 5
        self.channel.fan_out(
            [
                Publication(
                    json.dumps(event).encode(), None, offset=first + at, flags=2 if event["kind"] != "message" else 1
                )
                for at, event in enumerate(events)
            ]
        )

    async def turns(self) -> None:
        """Let turns pass until nobody is left."""
        while len(self.channel):
            self.turn += 1
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("count", "event", "delta"),
    [(20_000, DELETE, Delta.OFF), (1_200, DELETE, Delta.FOSSIL), (1_200, UNKNOWN, Delta.OFF)],
)
async def test_they_end_some_at_a_time_behind_the_event(count: int, event: dict[str, Any], delta: Delta) -> None:
    scene = Scene(count, delta)
    gone = scene.made[-1]
    scene.fan_out({"kind": "message", "text": "before"}, event, {"kind": "message", "text": "behind"})
    assert all(one.ends_at for one in scene.made[PER_TURN:]), "nothing is permitted any more"
    scene.fan_out({"kind": "message", "text": "behind"})
    scene.channel.leave(gone)  # it unsubscribes meanwhile
    assert len(scene.channel) == count - PER_TURN - 1
    assert len(scene.channel.subscriptions) == len(scene.channel)
    await scene.turns()
    assert max(scene.ended.values()) <= PER_TURN
    assert sum(scene.ended.values()) == count - 1
    assert {tuple(session.events) for session in scene.sessions[:-1]} == {("event", "event", "end")}
    assert scene.sessions[-1].events == ["event", "event"]
