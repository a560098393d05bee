"""Token buckets: rates, bursts, and how long a flood has lasted."""

from __future__ import annotations

import random

from services.edge.domain.token_bucket import TokenBucket


def test_a_burst_is_taken_at_once_and_the_next_is_refused() -> None:
    bucket = TokenBucket(rate=10, burst=3, now=0.0)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]


def test_tokens_come_back_at_the_rate() -> None:
    bucket = TokenBucket(rate=10, burst=1, now=0.0)
    assert bucket.take(0.0)
    assert not bucket.take(0.05)
    assert bucket.take(0.1)


def test_a_rate_of_zero_never_refuses() -> None:
    bucket = TokenBucket(rate=0, burst=1, now=0.0)
    assert all(bucket.take(0.0) for _ in range(1_000))


def test_a_flood_is_as_long_as_its_refusals_and_half_a_bucket_of_rest_ends_it() -> None:
    bucket = TokenBucket(rate=10, burst=10, now=0.0)
    for step in range(401):  # 100/s against 10/s, for 4 s
        bucket.take(step / 100)
    assert 3.5 < bucket.refused_for(4.0) <= 4.0
    assert bucket.take(5.0)  # rested for a second
    assert bucket.refused_for(5.0) == 0.0


def test_never_more_than_burst_plus_rate_times_time_are_let_through() -> None:
    for seed in range(50):
        rng = random.Random(seed)
        rate, burst = rng.uniform(1, 100), rng.randint(1, 50)
        bucket, now, taken = TokenBucket(rate, burst, 0.0), 0.0, 0
        for _ in range(500):
            now += rng.expovariate(rate * 2)
            taken += bucket.take(now)
        assert taken <= burst + rate * now + 1, f"seed {seed}"


def test_the_wait_for_the_next_token_is_told() -> None:
    bucket = TokenBucket(rate=4, burst=1, now=0.0)
    bucket.take(0.0)
    assert not bucket.take(0.0)
    assert bucket.retry_after_s() == 0.25
