"""Admission of publications, on a simulated edge and log.

Bursts, overloads, floods, and logs that become slow.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest

from services.edge.domain.channels.backlog import ASSUMED_PER_S
from services.edge.domain.channels.publish_admission import ALWAYS, RULES, PublishAdmission

_STEP_S = 0.005
_SIZE = 100
Rate = Callable[[float], float]
SEEDS = [pytest.param(seed, id=f"seed-{seed}") for seed in range(5)]


@dataclass(eq=False)
class _Client:
    queue: deque[float] = field(default_factory=deque)  # when each arrived that waits behind the one in flight
    in_flight: bool = False
    refused: int = 0
    waits: list[tuple[float, float]] = field(default_factory=list)  # arrived, waited


class _Edge:
    """Clients that publish one after the other, and a log of `rate(time)` a second."""

    def __init__(self, rate: Rate, *, clients: int, max_wait_s: float = 1.0, max_bytes: int = 32 << 20) -> None:
        self.now = 100.0
        self.admission = PublishAdmission(max_wait_s=max_wait_s, max_bytes=max_bytes, now=self.now)
        self.log = self.admission.redis
        self.clients = [_Client() for _ in range(clients)]
        self._rate = rate
        self._at_log: deque[tuple[_Client, float, float]] = deque()  # client, arrived, handed over
        self._credit = 0.0
        self._next_tick = self.now

    def publish(self, client: _Client, *, at: float | None = None) -> bool:
        """It arrives; whether it was admitted."""
        now = self.now if at is None else at
        own = len(client.queue) + client.in_flight
        if not self.admission.admit(self.log, _SIZE, now, own, _SIZE * len(client.queue)):
            client.refused += 1
            return False
        self.admission.bytes += _SIZE
        self.log.waiting += 1
        if client.in_flight:
            client.queue.append(now)
        else:
            self._hand_over(client, now, now)
        return True

    def step(self) -> None:
        """So much time passes; what the log has done by then is answered."""
        self.now += _STEP_S
        self._credit = min(self._credit + self._rate(self.now) * _STEP_S, max(len(self._at_log), 1))
        for _ in range(min(int(self._credit), len(self._at_log))):
            self._credit -= 1
            client, arrived, handed_over = self._at_log.popleft()
            self.log.ended(self.now, self.now - handed_over)
            self.log.waiting -= 1
            self.admission.bytes -= _SIZE
            client.in_flight = False
            client.waits.append((arrived, self.now - arrived))
            if client.queue:
                self._hand_over(client, client.queue.popleft(), self.now)
        if self.now >= self._next_tick:
            self._next_tick = self.now + 0.5
            self.admission.tick(self.now)

    def run(self, seconds: float, arrivals: Callable[[float], Iterable[_Client]] = lambda now: ()) -> None:
        """`arrivals`: who publishes in this step."""
        end = self.now + seconds
        while self.now < end:
            for client in arrivals(self.now):
                self.publish(client)
            self.step()

    def _hand_over(self, client: _Client, arrived: float, now: float) -> None:
        client.in_flight = True
        self._at_log.append((client, arrived, now))
        self.log.began(now)

    @property
    def refused(self) -> int:
        return sum(client.refused for client in self.clients)

    def waits(self, since: float = 0.0) -> list[float]:
        """Sorted, of what arrived since then."""
        return sorted(took for client in self.clients for arrived, took in client.waits if arrived >= since)


def steady(rng: random.Random, clients: list[_Client], per_s: float) -> Callable[[float], list[_Client]]:
    """Publications of clients drawn at random, at this rate."""
    due = 0.0

    def arrivals(_: float) -> list[_Client]:
        nonlocal due
        due += per_s * _STEP_S
        count, due = int(due), due % 1
        return [rng.choice(clients) for _ in range(count)]

    return arrivals


def p99(waits: list[float]) -> float:
    return waits[int(len(waits) * 0.99)] if waits else 0.0


@pytest.mark.parametrize("seed", SEEDS)
def test_a_burst_of_1000_clients_on_two_edges_is_taken_whole(seed: int) -> None:
    """One platform does 7,000/s, so each of two edges half of it.

    Reading takes its time, and no answer is seen.
    """
    rng = random.Random(seed)
    each = rng.choice([1, 4, 5])
    for _ in range(2):
        edge = _Edge(lambda _: 3_500.0, clients=500)
        publications = [client for client in edge.clients for _ in range(each)]
        if rng.random() < 0.5:
            rng.shuffle(publications)
        began = edge.now
        cost_s = rng.uniform(10e-6, 100e-6)  # of reading one
        for number, client in enumerate(publications):
            edge.publish(client, at=began + number * cost_s)
        edge.now = began + len(publications) * cost_s
        edge.run(3.0)
        assert edge.refused == 0
        assert len(edge.waits()) == 500 * each
        assert edge.waits()[-1] <= 2.0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("clients", [5, 33, 500, 4_000])
def test_under_overload_what_is_accepted_waits_no_longer_than_it_may_and_the_log_is_kept_busy(
    seed: int, clients: int
) -> None:
    rng = random.Random(seed)
    rate, factor = rng.choice([200.0, 1_000.0, 3_500.0]), rng.choice([1.5, 3.0, 10.0])
    edge = _Edge(lambda _: rate, clients=clients)
    began = edge.now
    edge.run(12.0, steady(rng, edge.clients, rate * factor))
    edge.run(40.0)
    told = f"rate {rate}, times {factor}"
    learned = edge.waits(began + 4)
    assert edge.refused > 0, told
    assert p99(learned) <= 1.5, told
    assert learned[len(learned) // 2] <= (1.1 if clients > 100 or rate < 1_000 else 0.5), told  # queues are not deep
    assert len(edge.waits()) >= 0.9 * rate * 12, told


@pytest.mark.parametrize("seed", SEEDS)
def test_one_that_floods_costs_the_others_nothing(seed: int) -> None:
    rng = random.Random(seed)
    edge = _Edge(lambda _: 1_000.0, clients=50)
    flooder, others = edge.clients[0], edge.clients[1:]
    quiet = steady(rng, others, 300.0)
    edge.run(10.0, lambda now: [*[flooder] * rng.randrange(100), *quiet(now)])
    edge.run(3.0)
    assert flooder.refused > 0
    assert sum(client.refused for client in others) == 0
    assert max(took for client in others for _, took in client.waits) <= 0.3
    assert max(took for _, took in flooder.waits) <= 2.0


@pytest.mark.parametrize("seed", SEEDS)
def test_clients_that_wait_for_their_answers_are_never_refused(seed: int) -> None:
    """However slow the log is: each has one in flight.

    There is nothing that refusing would make quicker.
    """
    rng = random.Random(seed)
    rate = rng.choice([100.0, 1_000.0])
    edge = _Edge(lambda _: rate, clients=50)
    edge.run(20.0, lambda _: [client for client in edge.clients if not client.in_flight])
    assert edge.refused == 0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("clients", [40, 1_000])
def test_when_the_log_becomes_slow_that_is_noticed(seed: int, clients: int) -> None:
    rng = random.Random(seed)
    edge = _Edge(lambda now: 7_000.0 if now < 105.0 else 200.0, clients=clients)
    edge.run(15.0, steady(rng, edge.clients, 3_000.0))
    edge.run(60.0)
    noticed = edge.waits(107.0)
    assert noticed
    assert p99(noticed) <= 2.0
    assert len(edge.waits()) > 5 * 2_900


@pytest.mark.parametrize("seed", SEEDS)
def test_after_a_slow_time_there_is_room_again(seed: int) -> None:
    rng = random.Random(seed)
    edge = _Edge(lambda now: 100.0 if now < 108.0 else 7_000.0, clients=500)
    edge.run(8.0, steady(rng, edge.clients, 1_000.0))
    assert edge.log.per_s < 300
    edge.run(2.0, steady(rng, edge.clients, 2_000.0))
    before = edge.refused
    edge.run(5.0, steady(rng, edge.clients, 2_000.0))
    assert edge.refused == before
    edge.run(1.0)
    for client in edge.clients * 5:
        edge.publish(client)
    assert edge.refused == before


@pytest.mark.parametrize("seed", SEEDS)
def test_a_log_that_answers_in_large_batches_is_not_taken_for_a_slow_one(seed: int) -> None:
    rng = random.Random(seed)
    edge = _Edge(lambda now: 0.0 if int(now * 1000) % 60 < 54 else 30_000.0, clients=500)
    edge.run(5.0, steady(rng, edge.clients, 1_500.0))
    assert edge.refused == 0
    assert edge.log.per_s >= 0.9 * ASSUMED_PER_S


def test_what_was_measured_is_forgotten_while_nothing_happens() -> None:
    rng = random.Random(1)
    edge = _Edge(lambda _: 100.0, clients=500)
    edge.run(5.0, steady(rng, edge.clients, 1_000.0))
    edge.run(2.0)
    while edge.log.in_flight:
        edge.step()
    assert edge.log.per_s < 1_000
    edge.run(3.0)
    edge.log.update(edge.now)
    assert edge.log.per_s > 0.9 * ASSUMED_PER_S
    assert edge.log.latency_s < 0.1


def test_sixteen_may_always_wait_and_a_client_with_none_finds_room_beside_a_deep_queue() -> None:
    edge = _Edge(lambda _: 0.0, clients=ALWAYS + 1)
    while edge.publish(edge.clients[0]):
        edge.run(0.2)
    assert edge.log.waiting == ALWAYS
    for client in edge.clients[1:ALWAYS]:
        assert edge.publish(client)
    assert not edge.publish(edge.clients[-1])
    assert edge.admission.refused["silent"] == 2


def test_while_commands_are_read_and_the_loop_has_no_turn_for_answers_nothing_is_measured() -> None:
    edge = _Edge(lambda _: 0.0, clients=1_000)
    for number, client in enumerate(edge.clients):
        assert edge.publish(client, at=edge.now + number * 0.0009)
    assert edge.log.per_s == ASSUMED_PER_S


def test_the_first_answers_of_a_batch_are_no_measurement() -> None:
    edge = _Edge(lambda _: 0.0, clients=500)
    for client in edge.clients:
        edge.publish(client)
    for number in range(500):
        edge.log.ended(edge.now + 0.2 + number * 1e-6, 0.2)
    edge.log.update(edge.now + 0.2005)
    assert edge.log.per_s > 2_700  # 500 in 0.2 s, and 3,000 before


def test_a_log_that_is_silent_is_measured_before_it_is_given_up() -> None:
    edge = _Edge(lambda _: 0.0, clients=1_500)
    for client in edge.clients[:1_499]:
        assert edge.publish(client)
    edge.run(0.95)
    assert not edge.publish(edge.clients[-1])
    assert edge.admission.refused["wait"] == 1


def test_in_a_burst_nobody_waits_for_longer_than_all_that_is_there_takes() -> None:
    edge = _Edge(lambda _: 3_500.0, clients=900)
    for client in edge.clients:
        assert edge.publish(client)
    for _ in range(4):
        assert edge.publish(edge.clients[0])  # 5 turns of 900 would be too long, but all is over after one


@pytest.mark.parametrize("seed", SEEDS)
def test_once_an_overload_is_over_queues_may_be_deep_again(seed: int) -> None:
    rng = random.Random(seed)
    edge = _Edge(lambda _: 1_000.0, clients=33)
    edge.run(5.0, steady(rng, edge.clients, 3_000.0))
    assert edge.admission.refused["own_queue"] > 0
    edge.run(3.0, steady(rng, edge.clients, 100.0))
    before = edge.refused
    for _ in range(100):
        edge.publish(edge.clients[0])
    assert edge.refused == before


@pytest.mark.parametrize("seed", SEEDS)
def test_bytes_are_bounded_and_shared(seed: int) -> None:
    rng = random.Random(seed)
    admission = PublishAdmission(max_wait_s=1.0, max_bytes=1_000_000, now=0.0)
    held = [0] * rng.randrange(2, 60)
    greedy = range(rng.randrange(1, len(held)))
    for _ in range(20_000):
        client = rng.choice(greedy)
        size = rng.randrange(1, 2_000)
        if admission.admit(admission.redis, size, 0.0, own=1, own_bytes=held[client]):
            held[client] += size
            admission.bytes += size
    assert admission.bytes <= 1_000_000
    for _ in range(len(greedy), len(held)):
        assert admission.admit(admission.redis, 1_000, 0.0), f"{len(greedy)} have {admission.bytes}"
    assert set(admission.refused) == set(RULES)
    assert admission.refused["bytes"] > 0
    assert PublishAdmission(max_wait_s=1.0, max_bytes=10, now=0.0).admit(admission.redis, 1_000, 0.0)
