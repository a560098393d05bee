"""The properties of views, joins and recovery can fail.

Each mutant of the code is found within so many schedules.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

import services.edge.domain.session.handlers  # noqa: F401  # it names its modules' commands like the modules
from services.edge.domain.channels.channel import Channel, Subscription
from services.edge.domain.channels.channel_log import ChannelLog, Need
from services.edge.domain.channels.hub import Hub
from services.edge.domain.channels.log_reader import LogReader
from services.edge.domain.model import HistoryPage, Publication, StreamPosition
from services.edge.domain.replies import Push
from services.edge.domain.session.session import Session
from tests.properties.test_channel_view import play_view, sizes_of_a_view, steps_of_a_view
from tests.properties.test_join_and_recovery import (
    CLIENT_SIDE,
    SERVER_SIDE,
    ends,
    lags,
    options_of_a_schedule,
    play_schedule,
    steps_of_a_schedule,
)

_VIEWS, _LIVES = 2_000, 1_500  # at most; most are found among the first
_SETTINGS: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "phases": [Phase.generate],
    "report_multiple_bugs": False,
    "suppress_health_check": list(HealthCheck),
}
_joining = sys.modules["services.edge.domain.session.handlers.subscribe"]
_connecting = sys.modules["services.edge.domain.session.handlers.connect"]
Mutant = Callable[[pytest.MonkeyPatch], None]
Found = list[Publication] | None


# Of the view.


def a_jump_is_delivered_at_once(patch: pytest.MonkeyPatch) -> None:
    original = ChannelLog.message

    def mutant(self: ChannelLog, epoch: str, publication: Publication) -> tuple[list[Publication], Need]:
        if epoch == self.epoch and publication.offset > self.delivered + 1:
            self._accept(publication)
            return [publication], Need.NOTHING
        return original(self, epoch, publication)

    patch.setattr(ChannelLog, "message", mutant)


def an_older_offset_is_delivered_again(patch: pytest.MonkeyPatch) -> None:
    original = ChannelLog.message

    def mutant(self: ChannelLog, epoch: str, publication: Publication) -> tuple[list[Publication], Need]:
        if epoch == self.epoch and publication.offset <= self.delivered:
            return [publication], Need.NOTHING
        return original(self, epoch, publication)

    patch.setattr(ChannelLog, "message", mutant)


def the_ring_answers_with_a_part(patch: pytest.MonkeyPatch) -> None:
    def mutant(self: ChannelLog, offset: int) -> list[Publication] | None:
        return [one for one in self._ring if one.offset > offset]

    patch.setattr(ChannelLog, "since", mutant)


def a_hole_in_a_read_is_passed_over(patch: pytest.MonkeyPatch) -> None:
    def mutant(self: ChannelLog, epoch: str, publications: list[Publication]) -> tuple[list[Publication], Need]:
        if epoch != self.epoch:
            return [], Need.RESYNC
        ready = [one for one in publications if one.offset > self.delivered]
        for one in ready:
            self._accept(one)
        ready.extend(self._drain())
        return ready, Need.REPAIR if self._buffer else Need.NOTHING

    patch.setattr(ChannelLog, "repaired", mutant)


def another_epoch_is_not_noticed(patch: pytest.MonkeyPatch) -> None:
    original = ChannelLog.message

    def mutant(self: ChannelLog, epoch: str, publication: Publication) -> tuple[list[Publication], Need]:
        return original(self, self.epoch, publication)

    patch.setattr(ChannelLog, "message", mutant)


def a_jump_asks_for_nothing(patch: pytest.MonkeyPatch) -> None:
    original = ChannelLog.message

    def mutant(self: ChannelLog, epoch: str, publication: Publication) -> tuple[list[Publication], Need]:
        ready, need = original(self, epoch, publication)
        return ready, need if need is Need.RESYNC else Need.NOTHING

    patch.setattr(ChannelLog, "message", mutant)


def what_waits_is_not_delivered_behind_the_repair(patch: pytest.MonkeyPatch) -> None:
    def mutant(self: ChannelLog) -> list[Publication]:
        self._buffer.clear()
        return []

    patch.setattr(ChannelLog, "_drain", mutant)


def the_ring_forgets_nothing(patch: pytest.MonkeyPatch) -> None:
    def mutant(self: ChannelLog, publication: Publication) -> None:
        self.delivered = publication.offset
        self._ring.append(publication)

    patch.setattr(ChannelLog, "_accept", mutant)


def the_buffer_has_no_bound(patch: pytest.MonkeyPatch) -> None:
    original = ChannelLog.message

    def mutant(self: ChannelLog, epoch: str, publication: Publication) -> tuple[list[Publication], Need]:
        self._buffer_size = 1_000
        return original(self, epoch, publication)

    patch.setattr(ChannelLog, "message", mutant)


OF_THE_VIEW: list[Mutant] = [
    a_jump_is_delivered_at_once,
    an_older_offset_is_delivered_again,
    the_ring_answers_with_a_part,
    a_hole_in_a_read_is_passed_over,
    another_epoch_is_not_noticed,
    a_jump_asks_for_nothing,
    what_waits_is_not_delivered_behind_the_repair,
    the_ring_forgets_nothing,
    the_buffer_has_no_bound,
]


# Of joins and recovery.


def no_gap_is_repaired(patch: pytest.MonkeyPatch) -> None:
    async def mutant(self: Hub, view: Channel) -> None:
        self._repairs.pop(view.name, None)

    patch.setattr(Hub, "_repair_until_whole", mutant)


def recovered_in_another_epoch(patch: pytest.MonkeyPatch) -> None:
    original = _joining.recover

    async def mutant(session: Session, channel: Channel, one: Subscription, request: Any, top: StreamPosition) -> Found:
        request.epoch = top.epoch
        found: Found = await original(session, channel, one, request, top)
        return found

    patch.setattr(_joining, "recover", mutant)


def a_part_of_what_was_missed_is_recovered(patch: pytest.MonkeyPatch) -> None:
    original = _joining.recover

    async def mutant(session: Session, channel: Channel, one: Subscription, request: Any, top: StreamPosition) -> Found:
        found: Found = await original(session, channel, one, request, top)
        if found is None and request.epoch in ("", top.epoch) and request.offset <= top.offset:
            return list(channel.log._ring) if channel.log else []  # noqa: SLF001
        return found

    patch.setattr(_joining, "recover", mutant)


def a_trimmed_read_is_taken_for_whole(patch: pytest.MonkeyPatch) -> None:
    async def mutant(self: LogReader, channel: str, namespace: Any, position: StreamPosition) -> HistoryPage | None:
        page = await self._broker.read(
            channel, since_offset=position.offset, limit=1_000, reverse=False, stored=False, max_bytes=1 << 20
        )
        return page if page is not None and page.top.epoch == position.epoch else None

    async def missed(session: Session, channel: Channel, one: Subscription, request: Any, top: StreamPosition) -> Found:
        if request.epoch not in ("", top.epoch) or request.offset > top.offset:
            return None
        at = StreamPosition(request.offset, top.epoch)
        page = await session.node.reader.after(channel.name, channel.namespace, at)
        return [one for one in page.publications if one.offset <= top.offset] if page else None

    patch.setattr(LogReader, "_after", mutant)
    patch.setattr(_joining, "recover", missed)


def the_position_is_read_after_an_await(patch: pytest.MonkeyPatch) -> None:
    original = _joining._result  # noqa: SLF001

    async def mutant(session: Session, wanted: Any, channel: Channel, subscription: Subscription) -> Any:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return await original(session, wanted, channel, subscription)

    patch.setattr(_joining, "_result", mutant)


def a_stale_read_is_taken_for_the_top(patch: pytest.MonkeyPatch) -> None:
    """The reply is recovered with the first read, though the view is beyond it."""
    original = _joining.recover

    async def mutant(session: Session, channel: Channel, one: Subscription, request: Any, top: StreamPosition) -> Found:
        found: Found = await original(session, channel, one, request, top)
        return found[:-1] if found else found

    patch.setattr(_joining, "recover", mutant)


def what_was_held_is_dropped(patch: pytest.MonkeyPatch) -> None:
    original = Channel.go_live

    def mutant(self: Channel, subscription: Subscription) -> None:
        subscription.held.clear()
        original(self, subscription)

    patch.setattr(Channel, "go_live", mutant)


def nothing_is_held(patch: pytest.MonkeyPatch) -> None:
    """Whoever joins gets it at once, before the reply."""

    def mutant(self: Channel, push: Push, subscriptions: Iterable[Subscription]) -> None:
        for one in subscriptions:
            one.session.connection.send(one.session.encoder.encode(push) or b"")

    patch.setattr(Channel, "_hold", mutant)


def too_much_held_is_cut(patch: pytest.MonkeyPatch) -> None:
    original = Channel._hold  # noqa: SLF001

    def mutant(self: Channel, push: Push, subscriptions: Sequence[Subscription]) -> None:
        subscriptions = list(subscriptions)
        original(self, push, subscriptions)
        for one in subscriptions:
            one.broken = False

    patch.setattr(Channel, "_hold", mutant)


def nobody_is_told_of_a_new_epoch(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Session, "insufficient_state", lambda self, subscription: None)


def a_reset_is_a_change_of_name(patch: pytest.MonkeyPatch) -> None:
    """The view takes the new epoch from its beginning, and keeps its subscribers."""

    def mutant(self: Hub, view: Channel) -> None:
        log = self._broker.bus.log(view.name)  # type: ignore[attr-defined]
        if view.log is not None:
            view.log.epoch, view.log.delivered = log.epoch, log.top

    patch.setattr(Hub, "_notify_gap", mutant)


def the_tick_compares_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Hub, "check_tops", lambda self: None)
    patch.setattr(Hub, "reconnected", lambda self: None)


def a_join_that_failed_is_answered_as_made(patch: pytest.MonkeyPatch) -> None:
    """Nobody asks what became of a server-side join while connect waited."""

    async def mutant(session: Session, wanted: list[Any]) -> list[Any]:
        return list(await asyncio.gather(*(_joining.establish(session, one) for one in wanted)))

    patch.setattr(_connecting, "_establish_all", mutant)


OF_AN_INCARNATION: list[Mutant] = [
    a_jump_is_delivered_at_once,
    an_older_offset_is_delivered_again,
    the_ring_answers_with_a_part,
    no_gap_is_repaired,
    recovered_in_another_epoch,
    a_part_of_what_was_missed_is_recovered,
    a_trimmed_read_is_taken_for_whole,
    the_position_is_read_after_an_await,
    a_stale_read_is_taken_for_the_top,
    what_was_held_is_dropped,
    nothing_is_held,
    too_much_held_is_cut,
    nobody_is_told_of_a_new_epoch,
    a_reset_is_a_change_of_name,
    the_tick_compares_nothing,
]


@pytest.mark.parametrize("mutant", OF_THE_VIEW, ids=[mutant.__name__ for mutant in OF_THE_VIEW])
def test_a_mutant_of_the_view_is_found(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    @settings(max_examples=_VIEWS, **_SETTINGS)
    @given(sizes_of_a_view, steps_of_a_view)
    def check(sizes: Any, steps: Any) -> None:
        play_view(sizes, steps)

    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        check()


@pytest.mark.parametrize("mutant", OF_AN_INCARNATION, ids=[mutant.__name__ for mutant in OF_AN_INCARNATION])
def test_a_mutant_of_joins_and_recovery_is_found(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    @settings(max_examples=_LIVES, **_SETTINGS)
    @given(options_of_a_schedule, lags, steps_of_a_schedule, ends)
    def check(options: Any, turns: Any, steps: Any, end: Any) -> None:
        play_schedule(CLIENT_SIDE, options, turns, steps, end)

    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        check()


def test_a_mutant_of_server_side_joins_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    @settings(max_examples=_LIVES, **_SETTINGS)
    @given(options_of_a_schedule, lags, steps_of_a_schedule, ends)
    def check(options: Any, turns: Any, steps: Any, end: Any) -> None:
        play_schedule(SERVER_SIDE, options, turns, steps, end)

    a_join_that_failed_is_answered_as_made(monkeypatch)
    with pytest.raises(AssertionError):
        check()
