"""Questions to every edge, of which one fails."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from services.edge.domain.control.cluster import Cluster
from services.edge.domain.control.operations import Info
from services.shared.errors import ErrorCode, ThalamusError
from tests.support.edge import Cluster as Edges


class Bus:
    """The control channel; another edge answers each question with an error."""

    def __init__(self, error: ErrorCode) -> None:
        self.error = error
        self.cluster: Cluster

    async def publish_control(self, payload: bytes) -> int:
        question = msgspec.json.decode(payload)
        reply = {"id": question["id"], "sender": "other", "to": question["sender"], "error": int(self.error)}
        self.cluster.on_control(payload)
        self.cluster.on_control(msgspec.json.encode(reply))
        return 2


@pytest.mark.parametrize("error", [ErrorCode.INTERNAL, ErrorCode.TOO_MANY_REQUESTS])
async def test_a_partial_answer_is_that_of_the_edges_that_do_not_fail(error: ErrorCode) -> None:
    node = Edges().edge()
    bus = Bus(error)
    bus.cluster = Cluster(node, cast(Any, bus), cast(Any, None))
    answers, unanswered = await bus.cluster.ask(Info(), partial=True)
    assert ([answer["uid"] for answer in answers], unanswered) == ([node.edge_id], 1)
    with pytest.raises(ThalamusError):
        await bus.cluster.ask(Info(), partial=False)
