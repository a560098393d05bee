"""What is heard of presence: those who came together are told together."""

from __future__ import annotations

from collections.abc import Sequence

from services.edge.adapters.redis.acknowledged import AcknowledgedPositions
from services.edge.adapters.redis.dispatcher import PubSubDispatcher
from services.edge.adapters.redis.self_check import PubSubSelfCheck
from services.edge.domain.model import ClientInfo
from services.shared.hotlog import keys
from tests.edge.adapters.test_self_check import Reconnects
from thalamus.common.v1 import common_pb2 as pb


class Joins(Reconnects):
    """A listener that keeps who came."""

    def __init__(self) -> None:
        self.told: list[list[str]] = []

    def joined(self, channel: str, infos: Sequence[ClientInfo]) -> None:
        self.told.append([channel, *(info.client for info in infos)])

    def updated(self, channel: str, infos: Sequence[ClientInfo]) -> None:
        self.told.append(["updated", channel, *(info.client for info in infos)])


async def _publish(channel: str, payload: bytes) -> None: ...


def test_those_who_came_together_are_told_at_once_and_in_order() -> None:
    listener = Joins()
    dispatcher = PubSubDispatcher(
        listener, lambda payload: None, None, PubSubSelfCheck(_publish, lambda: None), AcknowledgedPositions()
    )
    infos = pb.ClientInfos(infos=[pb.ClientInfo(client=name) for name in ("c2", "c1")])
    dispatcher.message(keys.pub("chat:room").encode(), keys.JOINS + infos.SerializeToString())
    dispatcher.message(keys.pub("chat:room").encode(), keys.UPDATES + infos.SerializeToString())
    assert listener.told == [["chat:room", "c2", "c1"], ["updated", "chat:room", "c2", "c1"]]
