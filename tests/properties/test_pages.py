"""Invariant: the pages behind a reply are the log, before anything live.

Once and in order; or the client is told.

The same schedules as in `test_join_and_recovery`, with long absences, replies of a few publications and clients that
stop reading. Mutants of the code are found.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from services.edge.domain.channels.channel import Channel, Subscription
from services.edge.domain.channels.channel_log import ChannelLog
from services.edge.domain.channels.log_reader import LogReader
from services.edge.domain.model import Publication
from services.edge.domain.session.session import Session
from tests.properties.test_join_and_recovery import ends, lags, play_schedule

CLIENTS = ("client", "client", "server")
_PRINTED: dict[str, Any] = {
    "deadline": None,
    "print_blob": True,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}
_client, _edge = st.integers(0, 2), st.integers(0, 1)
_step = st.one_of(
    *[st.tuples(st.just("publish"), st.integers(1, 12))] * 2,
    *[st.tuples(st.just("come"), _client, _edge, st.just(True))] * 3,
    st.tuples(st.just("go"), _client, st.integers(0, 4)),
    *[st.tuples(st.just("stall"), _client)] * 2,
    *[st.tuples(st.just("read_again"), _client)] * 2,
    st.tuples(st.just("unsubscribe"), _client),
    st.tuples(st.just("stop"), _edge),
    st.tuples(st.just("let_go"), _edge, st.just(()), st.booleans()),
    st.tuples(st.just("stall_pubsub"), _edge),
    st.tuples(st.just("resume_pubsub"), _edge, st.booleans()),
    st.tuples(st.just("trim"), st.integers(0, 8), st.booleans()),
    st.sampled_from([("down",), ("up",), ("up",), ("reset",)]),
)
_steps = st.lists(st.tuples(_step, st.integers(0, 12)), min_size=8, max_size=30)
_options = st.fixed_dictionaries(
    {
        "history_size": st.sampled_from([15, 40, 40]),
        "ring_size": st.integers(1, 3),
        "gap_buffer_size": st.just(2),
        "join_buffer_size": st.integers(1, 4),
        "recovery_limit": st.integers(2, 4),
        "recovery_total": st.sampled_from([8, 40, 40]),
        "channel_linger_s": st.just(1.0),
    }
)
_a_schedule = given(_options, lags, _steps, ends)


@settings(max_examples=300, derandomize=False, **_PRINTED)
@_a_schedule
def test_pages_are_the_log_once_in_order_before_what_is_live(options: Any, turns: Any, steps: Any, end: Any) -> None:
    play_schedule(CLIENTS, options, turns, steps, end)


def test_the_schedules_reach_what_they_are_for() -> None:
    reached: Counter[str] = Counter()

    @settings(max_examples=80, phases=[Phase.generate], **_PRINTED)
    @_a_schedule
    def play(options: Any, turns: Any, steps: Any, end: Any) -> None:
        reached.update(play_schedule(CLIENTS, options, turns, steps, end))

    wanted = {"a page behind the reply", "2500 amid pages", "recovered", "not recovered"}
    for _ in range(12):  # the rare ones come once in some 100 schedules
        play()
        if wanted <= set(+reached):
            break
    assert wanted <= set(+reached), reached


# Mutants.

_joining = sys.modules["services.edge.domain.session.handlers.subscribe"]
Found = list[Publication] | None


def pages_go_past_what_was_delivered(patch: pytest.MonkeyPatch) -> None:
    """What a page has beyond the view is pushed, and comes again live."""
    original = Session.push_recovered

    def mutant(self: Session, subscription: Subscription, publications: Sequence[Publication]) -> None:
        original(self, subscription, publications)
        view = self.node.hub.channels.get(subscription.channel)
        if view is not None and view.log is not None and publications[-1].offset == view.log.delivered:
            log = self.node.broker.bus.log(view.name)  # type: ignore[attr-defined]
            original(self, subscription, [one for one in log.entries if one.offset > publications[-1].offset])

    patch.setattr(Session, "push_recovered", mutant)


def live_is_heard_behind_the_first_page(patch: pytest.MonkeyPatch) -> None:
    original = Channel.go_live

    def mutant(self: Channel, subscription: Subscription) -> None:
        original(self, subscription)
        if self.is_catching_up(subscription):
            self.receive_live(subscription)

    patch.setattr(Channel, "go_live", mutant)


def pages_come_while_the_client_hears_live(patch: pytest.MonkeyPatch) -> None:
    original = Channel.fan_out

    def mutant(self: Channel, publications: Iterable[Publication]) -> None:
        publications = list(publications)
        original(self, publications)
        for one in list(self._catching_up):
            if one.live:
                one.session.push_recovered(one, publications)  # type: ignore[attr-defined]

    patch.setattr(Channel, "fan_out", mutant)


def a_page_with_a_hole_is_given_out(patch: pytest.MonkeyPatch) -> None:
    async def mutant(self: LogReader, channel: str, namespace: Any, log: ChannelLog, offset: int) -> Found:
        found = await self._page(channel, namespace, offset)
        return found.publications or None if found is not None and found.top.epoch == log.epoch else None

    patch.setattr(LogReader, "page", mutant)


def what_the_log_no_longer_has_is_passed_over(patch: pytest.MonkeyPatch) -> None:
    original = LogReader.page

    async def mutant(self: LogReader, channel: str, namespace: Any, log: ChannelLog, offset: int) -> Found:
        found = await original(self, channel, namespace, log, offset)
        return [Publication(data=b"0", offset=log.delivered)] if found is None else found

    patch.setattr(LogReader, "page", mutant)


_COMES = (("come", 0, 0, True), 0)


def _one_by_one(publications: int) -> list[Any]:
    return [(("publish", 1), 0)] * publications


# Each with a schedule that once found it; where the code has moved on, others are tried.
MUTANTS: dict[Callable[[pytest.MonkeyPatch], None], list[Any]] = {
    pages_go_past_what_was_delivered: [*_one_by_one(5), _COMES, (("stop", 0), 12), (("publish", 1), 12)],
    live_is_heard_behind_the_first_page: [*_one_by_one(7), _COMES],
    pages_come_while_the_client_hears_live: [*_one_by_one(6), (("come", 0, 0, True), 6), (("publish", 1), 0)],
    a_page_with_a_hole_is_given_out: [*_one_by_one(8), (("publish", 8), 0), _COMES],
    what_the_log_no_longer_has_is_passed_over: [*_one_by_one(6), (("publish", 10), 0), _COMES],
}
_SMALL: dict[str, Any] = {
    "history_size": 15,
    "ring_size": 1,
    "gap_buffer_size": 2,
    "join_buffer_size": 1,
    "recovery_limit": 2,
    "recovery_total": 40,
    "channel_linger_s": 1.0,
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.__name__ for mutant in MUTANTS])
def test_a_mutant_of_pages_is_found(mutant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    @settings(
        max_examples=1_500,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        **{**_PRINTED, "print_blob": False},
    )
    @_a_schedule
    def check(options: Any, turns: Any, steps: Any, end: Any) -> None:
        play_schedule(CLIENTS, options, turns, steps, end)

    def known() -> None:
        for total in (8, 40):
            play_schedule(CLIENTS, {**_SMALL, "recovery_total": total}, [0], MUTANTS[mutant], (False, 0))

    def search() -> None:
        known()
        check()

    known()
    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        search()
