"""Stacks of tests that run side by side."""

from __future__ import annotations

import pytest

from cli.stack import ports
from tests.support.stack import share_of_ports


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_workers_take_their_ports_from_ranges_that_do_not_overlap(workers: int) -> None:
    whole = (10_000, 32_000)
    shares = [
        share_of_ports(whole, {"PYTEST_XDIST_WORKER": f"gw{number}", "PYTEST_XDIST_WORKER_COUNT": str(workers)})
        for number in range(workers)
    ]
    edges = [whole[0], *(bound for share in shares for bound in share), whole[1]]
    assert edges == sorted(edges)
    assert all(first < end for first, end in shares)


def test_one_process_has_them_all() -> None:
    assert share_of_ports((10_000, 32_000), {}) == (10_000, 32_000)


def test_a_stack_chooses_from_its_share() -> None:
    (port,) = ports.choose_ports([ports.Port("auth", "AUTH_GRPC_PORT", "127.0.0.1", 0)]).values()
    assert ports.FREE_RANGE[0] <= port < ports.FREE_RANGE[1]
