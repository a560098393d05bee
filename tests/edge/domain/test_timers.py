"""The wheel: nothing fires early, nor later than a granule.

Whatever is rescheduled.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from services.edge.domain.session.timers import NEVER, Wheel


@dataclass
class Thing:
    deadline: float = NEVER
    wheel_slot: int = -1
    fired: list[float] = field(default_factory=list)
    next_deadline: float = NEVER

    def deadline_passed(self, now: float) -> None:
        self.fired.append(now)
        self.deadline = self.next_deadline
        self.next_deadline = NEVER


def test_it_fires_once_within_a_granule() -> None:
    wheel, thing = Wheel(0.0, 0.1), Thing(deadline=1.0)
    wheel.schedule(thing)
    for step in range(30):
        wheel.advance(step * 0.1)
    assert len(thing.fired) == 1
    assert 1.0 <= thing.fired[0] <= 1.1 + 1e-9


def test_a_later_deadline_moves_it_on() -> None:
    wheel, thing = Wheel(0.0, 0.1), Thing(deadline=1.0)
    wheel.schedule(thing)
    thing.deadline = 2.0
    wheel.schedule(thing)
    wheel.advance(1.5)
    assert thing.fired == []
    wheel.advance(2.1)
    assert thing.fired == [2.1]


def test_an_earlier_deadline_is_met() -> None:
    wheel, thing = Wheel(0.0, 0.1), Thing(deadline=5.0)
    wheel.schedule(thing)
    thing.deadline = 1.0
    wheel.schedule(thing)
    wheel.advance(1.2)
    assert thing.fired == [1.2]
    wheel.advance(6.0)
    assert thing.fired == [1.2]


def test_what_it_sets_when_it_fires_is_the_next() -> None:
    wheel, thing = Wheel(0.0, 0.1), Thing(deadline=1.0, next_deadline=3.0)
    wheel.schedule(thing)
    wheel.advance(1.1)
    wheel.advance(2.9)
    assert len(thing.fired) == 1
    wheel.advance(3.1)
    assert len(thing.fired) == 2


def test_random_schedules_never_fire_early_nor_late() -> None:
    for seed in range(100):
        rng = random.Random(seed)
        wheel = Wheel(0.0, 0.1)
        things = [Thing(deadline=rng.uniform(0, 10)) for _ in range(20)]
        for thing in things:
            wheel.schedule(thing)
        now = 0.0
        while now < 12.0:
            now += rng.uniform(0.0, 0.3)
            before = {id(thing): (thing.deadline, len(thing.fired)) for thing in things}
            wheel.advance(now)
            for thing in things:
                deadline, fired = before[id(thing)]
                if len(thing.fired) > fired:
                    assert deadline <= now, f"seed {seed}"
                else:
                    assert deadline > now - 0.1, f"seed {seed}: {deadline} was due by {now}"
                if rng.random() < 0.1:
                    thing.deadline = now + rng.uniform(0, 3)
                    wheel.schedule(thing)


class Broken(Thing):
    def deadline_passed(self, now: float) -> None:
        super().deadline_passed(now)
        raise RuntimeError("of this one alone")


def test_one_that_fails_does_not_stop_the_others() -> None:
    wheel, broken, sound = Wheel(0.0, 0.1), Broken(deadline=1.0), Thing(deadline=1.0)
    wheel.schedule(broken)
    wheel.schedule(sound)
    wheel.advance(1.2)
    assert (broken.fired, sound.fired) == ([1.2], [1.2])


def test_what_is_due_beyond_all_numbers_is_never_due() -> None:
    wheel, thing = Wheel(0.0, 0.5), Thing(deadline=1.7e308)
    wheel.schedule(thing)
    wheel.advance(1_000.0)
    assert thing.fired == []
    thing.deadline = 1_001.0
    wheel.schedule(thing)
    wheel.advance(1_002.0)
    assert len(thing.fired) == 1
