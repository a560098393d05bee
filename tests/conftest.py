"""Fixtures for every test; each lives in a module of `tests/support`."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

pytest_plugins = (
    "tests.support.dynamodb",
    "tests.support.encodings",
    "tests.support.full",
    "tests.support.order",
    "tests.support.redis",
    "tests.support.sdk",
    "tests.support.stack",
)

# Hypothesis has a profile of its own for CI, in which every run plays the same examples. Ours are new each time, there
# too; a failure prints the line that repeats it. How long an example takes says more of the machine than of the code.
settings.register_profile(
    "thalamus", derandomize=False, print_blob=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("thalamus")
