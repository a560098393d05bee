"""What persistence answers about inboxes."""

from __future__ import annotations

from typing import Any

import pytest

from services.edge.adapters.inbox_source import PersistenceInboxes
from services.edge.domain.conversations.calls import Outcome
from services.edge.domain.inbox.ports import Members, Place
from services.shared.errors import Unavailable


class Answering:
    """Persistence that answers with this."""

    def __init__(self, result: bytes) -> None:
        self.result = result

    async def call(self, *_: Any, **__: Any) -> Outcome:
        return Outcome(self.result)


async def test_answers_are_read() -> None:
    source = PersistenceInboxes(Answering(b'{"conversations":{"conv:g.1":[7,3]}}'))
    assert await source.watch("ann") == {"conv:g.1": Place(7, 3)}
    source = PersistenceInboxes(Answering(b'{"members":["ann"],"offset":7,"n":3}'))
    assert await source.members("conv:g.1", ["ann", "bob"]) == Members(frozenset({"ann"}), Place(7, 3))


@pytest.mark.parametrize("result", [b"", b"{}", b"[]", b'{"conversations":[],"members":7}'])
async def test_an_answer_that_cant_be_read_is_as_none(result: bytes) -> None:
    source = PersistenceInboxes(Answering(result))
    with pytest.raises(Unavailable):
        await source.watch("ann")
    with pytest.raises(Unavailable):
        await source.members("conv:g.1", ["ann"])
