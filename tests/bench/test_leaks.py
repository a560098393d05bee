"""What grows is found, and what only fills, or has a bad moment, is not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest
from prometheus_client.samples import Sample

from bench.measure.leaks import few, handles, memory, nothing_held, steady
from bench.measure.proc import fds, threads
from bench.measure.statistics import Line, fitted
from bench.measure.vitals import Vitals, held


def one(rss_kib: int = 1_000, fds: int = 10, tasks: int | None = None) -> Vitals:
    return Vitals(cpu_s=0.0, rss_kib=rss_kib, pss_kib=0, fds=fds, threads=3, tasks=tasks)


def rss(*values: int) -> Sequence[tuple[float, dict[str, Vitals]]]:
    """One look every ten seconds."""
    return [(10.0 * number, {"edge": one(value)}) for number, value in enumerate(values)]


def test_a_line_goes_through_its_points_and_between_those_of_others() -> None:
    assert fitted([(1, 3), (2, 5), (4, 9)]) == Line(base=1, slope=2)
    assert fitted([(0, 0), (0, 2), (2, 2), (2, 4)]) == Line(base=1, slope=1)
    assert fitted([(7, 1), (7, 3)]) == Line(base=2, slope=0)


def test_the_slope_is_that_of_the_second_half_by_its_unit() -> None:
    (found,) = memory(rss(0, 900, 1_000, 1_010, 1_020, 1_030), at_most={}, otherwise=60, per="min", scale=60)
    assert (found.found, found.good) == ("+60 KiB/min (1,010 to 1,030 KiB)", True)
    (found,) = memory(rss(0, 900, 1_000, 1_010, 1_021, 1_032), at_most={}, otherwise=60, per="min", scale=60)
    assert (found.what, found.bound, found.good) == ("RSS of edge, second half", "≤ 60 KiB/min", False)


def test_a_process_may_have_a_bound_of_its_own() -> None:
    grows = rss(0, 0, 0, 100)
    assert [found.good for found in memory(grows, at_most={"edge": 1e6}, otherwise=0, per="min", scale=60)] == [True]
    assert [found.good for found in memory(grows, at_most={"redis": 1e6}, otherwise=0, per="min", scale=60)] == [False]


@pytest.mark.parametrize(("more", "good"), [(0, True), (4, True), (5, False)])
def test_files_and_tasks_that_stay_are_found(more: int, good: bool) -> None:
    files, kept_threads = handles({"edge": one(fds=10)}, {"edge": one(fds=10 + more)})
    assert (files.what, files.found, files.good) == ("fds of edge", f"10 to {10 + more}", good)
    assert kept_threads.good
    *_, tasks = handles({"edge": one(tasks=20)}, {"edge": one(tasks=20 + more)})
    assert (tasks.what, tasks.good) == ("tasks of edge", good)


def test_what_edges_hold_for_nobody_is_named() -> None:
    samples = {
        "edge-1": [Sample("thalamus_edge_connections", {"kind": kind}, 2.0) for kind in ("websocket", "http")],
        "edge-2": [Sample("thalamus_edge_connections", {"kind": "http"}, 3.0), Sample("thalamus_edge_users", {}, 9.0)],
    }
    (found,) = nothing_held(held(samples))
    assert (found.found, found.good) == ("connections 7", False)
    (found,) = nothing_held(held({"edge-1": []}))
    assert (found.found, found.good) == ("nothing", True)


def test_a_latency_is_steady_though_one_minute_was_bad_and_not_if_half_of_them_were() -> None:
    (found,) = steady("deliveries", [10, 10, 10, 10, 900, 10])
    assert (found.found, found.good) == ("10.0 and 10.0 ms", True)
    (found,) = steady("deliveries", [10, 10, 10, 21, 900, 21])
    assert not found.good
    assert steady("deliveries", [10]) == []


def test_what_must_not_happen_may_happen_to_a_stated_share() -> None:
    assert few("refused", 0, 1_000).good
    assert not few("refused", 1, 1_000).good
    assert few("refused", 1, 1_000, 0.001).good
    assert not few("refused", 2, 1_000, 0.001).good


def test_files_and_threads_of_another_process_are_counted() -> None:
    more = "import os, threading\nos.dup(0)\nthreading.Thread(target=input).start()\nprint(flush=True)"
    counts = []
    for code in ("print(flush=True)\ninput()", more):
        with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            counts.append((fds(process.pid), threads(process.pid)))
            process.communicate(b"\n")
    (files, one_thread), (one_more, two_threads) = counts
    assert (one_more, one_thread, two_threads) == (files + 1, 1, 2)
    assert fds(os.getpid()) > 3
