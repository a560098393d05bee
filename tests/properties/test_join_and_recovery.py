"""Invariant: over all its connections a client gets the log once and in order, across every stretch without being told.

The real sessions, hubs and readers of two edges; `recovered` is never true across a gap or an epoch; whoever is
subscribed ends at the top, or was told (2500, 3010).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.properties.support import Life, ManualLoop, errors_logged, ticks

# Clients, by what they ask for: 112 instead of a reply without `recovered`, or no position at all.
CLIENT_SIDE = ("client", "client", "client", "rejecting", "plain")
SERVER_SIDE = ("server", "server", "server", "server", "plain")

_client = st.integers(0, 4)
_edge = st.integers(0, 1)
_picks = st.lists(st.integers(0, 9), max_size=4)
_come = st.tuples(st.just("come"), _client, _edge, st.booleans())
_publish = st.tuples(st.just("publish"), st.integers(1, 4))
_go = st.tuples(st.just("go"), _client, st.integers(0, 4))
_miss = st.tuples(st.just("miss"), _edge, st.integers(1, 3), st.integers(0, 2), st.integers(0, 5))
_shuffle = st.tuples(st.just("shuffle"), _edge, st.integers(2, 6), _picks, st.booleans())
_step = st.one_of(
    *[_publish, _publish, _come, _come, _come, _come, _go, _miss, _miss, _shuffle],
    st.tuples(st.just("all_come"), st.booleans()),
    st.tuples(st.just("unsubscribe"), _client),
    st.tuples(st.just("deafen"), _edge),
    st.tuples(st.just("hear"), _edge, st.booleans()),
    st.tuples(st.just("stop"), _edge),
    st.tuples(st.just("let_go"), _edge, _picks, st.booleans()),
    st.tuples(st.just("echo"), _edge, st.integers(0, 1), st.integers(0, 9)),
    st.tuples(st.just("trim"), st.integers(0, 3), st.booleans()),
    st.sampled_from([("down",), ("up",), ("up",), ("reset",)]),
    st.tuples(st.just("tick"), _edge),
    st.tuples(st.just("wait"), st.integers(1, 20)),
)
steps_of_a_life = st.lists(st.tuples(_step, st.integers(0, 5)), min_size=10, max_size=40)
options_of_a_life = st.fixed_dictionaries(
    {
        "history_size": st.integers(1, 12),
        "ring_size": st.integers(1, 6),
        "gap_buffer_size": st.integers(1, 4),
        "join_buffer_size": st.integers(1, 6),
        "recovery_limit": st.integers(2, 16),
        "channel_linger_s": st.sampled_from([0.1, 1.0]),
    }
)
lags = st.lists(st.integers(0, 4), min_size=1, max_size=9)
ends = st.tuples(st.booleans(), _edge)


def play_life(
    kinds: Sequence[str],
    options: dict[str, Any],
    turns: Sequence[int],
    steps: Sequence[tuple[tuple[Any, ...], int]],
    end: tuple[bool, int],
) -> dict[str, int]:
    """One schedule, each step with some loop ticks behind it; returns what happened, how often."""

    async def live() -> dict[str, int]:
        life = Life(kinds, options, turns)
        for (name, *arguments), pause in steps:
            await getattr(life, name)(*arguments)
            await ticks(pause)
        await life.finish(*end)
        life.seen["resyncs"] = sum(edge.node.hub.resyncs for edge in life.edges)
        life.seen["gaps"] = sum(edge.node.hub.gaps for edge in life.edges)
        return life.seen

    with errors_logged() as errors, asyncio.Runner(loop_factory=ManualLoop) as runner:
        seen = runner.run(live())
    assert not errors, errors
    return seen


@settings(max_examples=400, deadline=None, derandomize=False, print_blob=True, database=None)
@given(options_of_a_life, lags, steps_of_a_life, ends)
def test_a_client_gets_the_log_once_in_order_or_is_told(
    options: dict[str, Any], turns: Sequence[int], steps: Sequence[tuple[tuple[Any, ...], int]], end: tuple[bool, int]
) -> None:
    play_life(CLIENT_SIDE, options, turns, steps, end)
