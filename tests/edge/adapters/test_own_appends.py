"""Numbers of an edge's own appends: each once, in whatever order the answers come."""

from __future__ import annotations

import random

import pytest

from services.edge.adapters.redis.own_appends import OwnAppends

SEEDS = 200


def test_one_number_twice_is_told() -> None:
    appends = OwnAppends()
    appends.use("run.1", 7)
    for _ in range(2):
        appends.began()
    assert appends.is_new(8)
    assert not appends.is_new(8)


def test_another_incarnation_counts_from_what_it_has() -> None:
    appends = OwnAppends()
    appends.use("run.1", 7)
    appends.began()
    assert appends.is_new(9)
    appends.use("run.1", 3)  # the same one: an older look
    assert appends.highest == 9
    appends.use("run.2", 3)
    assert appends.highest == 3
    assert appends.is_new(4)


@pytest.mark.parametrize("goes_back", [False, True])
def test_any_order_of_answers_is_accepted_and_a_repeated_number_never(goes_back: bool) -> None:
    """A server that counts, and calls whose answers come in any order or not at all."""
    told = 0
    for seed in range(SEEDS):
        rng = random.Random(seed)
        appends, counted = OwnAppends(), 0
        sent: list[int] = []  # what a call brings
        replies: list[int] = []
        given: set[int] = set()
        is_back = False
        for _ in range(60):
            step = rng.choice(["send", "execute", "answer", "answer", "lose", "back"])
            if step == "send" and len(sent) + len(replies) < 6:
                appends.began()
                sent.append(appends.highest)
            elif step == "execute" and sent:
                brings = sent.pop(rng.randrange(len(sent)))
                if counted + 1 > brings:
                    counted += 1
                    replies.append(counted)
                else:
                    assert is_back, f"seed {seed}: refused, and nothing is lost"
                    appends.ended()
            elif step in ("answer", "lose") and replies:
                number = replies.pop(rng.randrange(len(replies)))
                if step == "answer":
                    if appends.is_new(number):
                        assert number not in given, f"seed {seed}: {number} was given twice"
                        given.add(number)
                    else:
                        assert number in given, f"seed {seed}: {number} was never given"
                        told += 1
                appends.ended()
            elif step == "back" and goes_back and counted and rng.random() < 0.2:
                counted, is_back = rng.randrange(counted), True
    assert (told > 0) == goes_back
