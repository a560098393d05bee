"""Invariants 5, 6, 7 and 9 of the log: what clients see, whatever pub/sub does; and mutants of the edge."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from services.edge.domain.channel import Channel
from services.edge.domain.channel_log import ChannelLog, Need
from services.edge.domain.hub import Hub
from services.edge.domain.log_reader import LogReader
from services.edge.domain.model import HistoryPage
from tests.properties.edges import live, schedules

subscribing: Any = importlib.import_module("services.edge.domain.handlers.subscribe")

_EXAMPLES = 1_500
_FOR_A_MUTANT = 4_000
_SETTINGS: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "print_blob": True,
    "suppress_health_check": list(HealthCheck),
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Told gaps are logged, thousands of times."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_every_client_gets_each_offset_once_in_order_or_is_told() -> None:
    with asyncio.Runner() as runner:

        @settings(max_examples=_EXAMPLES, **_SETTINGS)
        @given(schedules)
        def check(schedule: Any) -> None:
            runner.run(live(schedule))

        check()


# Mutants.


def a_gap_is_not_repaired(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Hub, "_repair", lambda self, view: None)
    patch.setattr(Hub, "catch_up", _nothing)


async def _nothing(self: Any, view: Any, timeout_s: float) -> None:
    return None


def a_jump_is_handed_out(patch: pytest.MonkeyPatch) -> None:
    original = ChannelLog.message

    def mutant(self: Any, epoch: str, publication: Any) -> Any:
        if epoch == self.epoch and publication.offset > self.delivered:
            self.delivered = publication.offset - 1
        return original(self, epoch, publication)

    patch.setattr(ChannelLog, "message", mutant)


def older_ones_are_handed_out_again(patch: pytest.MonkeyPatch) -> None:
    original = ChannelLog.message

    def mutant(self: Any, epoch: str, publication: Any) -> Any:
        if epoch == self.epoch and publication.offset <= self.delivered:
            return [publication], Need.NOTHING
        return original(self, epoch, publication)

    patch.setattr(ChannelLog, "message", mutant)


def another_epoch_is_taken_for_this_one(patch: pytest.MonkeyPatch) -> None:
    original = ChannelLog.message
    patch.setattr(ChannelLog, "message", lambda self, epoch, publication: original(self, self.epoch, publication))


def the_ring_gives_what_it_has(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ChannelLog, "since", lambda self, offset: [one for one in self._ring if one.offset > offset])


def what_comes_during_a_join_is_dropped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Channel, "_hold", lambda self, push, subscriptions: None)


def a_client_joins_after_its_recovery_was_read(patch: pytest.MonkeyPatch) -> None:
    original = subscribing._missed

    async def mutant(session: Any, wanted: Any, channel: Any, top: Any) -> Any:
        found = await original(session, wanted, channel, top)
        for subscription in list(channel._joining):
            subscription.held.clear()
        return found

    patch.setattr(subscribing, "_missed", mutant)


def epochs_are_not_compared(patch: pytest.MonkeyPatch) -> None:
    original = subscribing._missed

    async def mutant(session: Any, wanted: Any, channel: Any, top: Any) -> Any:
        wanted.request.epoch = top.epoch
        return await original(session, wanted, channel, top)

    patch.setattr(subscribing, "_missed", mutant)


def a_part_is_recovered(patch: pytest.MonkeyPatch) -> None:
    async def mutant(self: Any, channel: str, namespace: Any, position: Any) -> Any:
        page = await self._broker.read(
            channel, since_offset=position.offset, limit=1_000, reverse=False, stored=False, max_bytes=1 << 20
        )
        return HistoryPage(page.publications, page.top) if page else None

    patch.setattr(LogReader, "_after", mutant)
    patch.setattr(subscribing, "len", lambda found: _Any(), raising=False)


class _Any(int):
    """Equal to every number."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


def a_joined_read_is_believed(patch: pytest.MonkeyPatch) -> None:
    """The bug that tests/edge/domain/test_overload_and_loss.py is about."""

    async def mutant(session: Any, wanted: Any, channel: Any, top: Any) -> Any:
        request = wanted.request
        if request.epoch not in ("", top.epoch) or request.offset > top.offset:
            return None
        page = await session.node.reader.after(wanted.channel, wanted.namespace, type(top)(request.offset, top.epoch))
        return None if page is None else [one for one in page.publications if one.offset <= top.offset]

    patch.setattr(subscribing, "_missed", mutant)


def a_new_epoch_is_told_to_nobody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Hub, "_resync", lambda self, view: None)


MUTANTS = [
    a_gap_is_not_repaired,
    a_jump_is_handed_out,
    older_ones_are_handed_out_again,
    another_epoch_is_taken_for_this_one,
    the_ring_gives_what_it_has,
    what_comes_during_a_join_is_dropped,
    a_client_joins_after_its_recovery_was_read,
    epochs_are_not_compared,
    a_part_is_recovered,
    a_joined_read_is_believed,
    a_new_epoch_is_told_to_nobody,
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.__name__ for mutant in MUTANTS])
def test_a_mutant_is_found(mutant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    with asyncio.Runner() as runner:

        @settings(
            max_examples=_FOR_A_MUTANT,
            derandomize=True,
            phases=[Phase.generate],
            report_multiple_bugs=False,
            **_SETTINGS,
        )
        @given(schedules)
        def check(schedule: Any) -> None:
            runner.run(live(schedule))

        with pytest.raises(AssertionError):
            check()
