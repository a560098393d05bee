"""Pages of long runs say what was measured, and tell a failure as one."""

from __future__ import annotations

from bench.measure.vitals import Vitals
from bench.report import churn, soak
from bench.report.churn import ChurnResults
from bench.report.results import Origin
from bench.report.soak import SoakResults
from bench.scenarios.churn import Chunk, Run
from bench.scenarios.soak import Latencies, Soaked, Window

ORIGIN = Origin(command="python -m bench.x", date="2026-01-01", machine={"cores": "2"}, versions={"Python": "3"})
NOTHING = {"sessions": 0, "connections": 0}


def vitals(rss_kib: int = 100_000, fds: int = 20, tasks: int | None = None) -> dict[str, Vitals]:
    return {"edge-1": Vitals(cpu_s=1.0, rss_kib=rss_kib, pss_kib=0, fds=fds, threads=9, tasks=tasks)}


def run(*rss_kib: int, held: int = 0) -> Run:
    chunks = [
        Chunk(
            visitors=50_000,
            failed=0,
            failure="",
            took_s=25.0,
            cpu_us=500.0,
            connect_p50_ms=10.0,
            connect_p99_ms=20.0,
            held={"sessions": held},
            vitals=vitals(each),
        )
        for each in rss_kib
    ]
    return Run(before=vitals(100_000), chunks=chunks)


def soaked(*, acked: int = 1_000, delivered: int = 4_000, rss_kib: int = 100_000) -> Soaked:
    latencies = Latencies(ack_p50=1.0, ack_p99=5.0, delivery_p50=2.0, delivery_p99=6.0)
    windows = [
        Window(
            at_s=10.0 * number,
            sent=1_000,
            acked=acked,
            refused=0,
            delivered=delivered,
            ms=latencies,
            vitals=vitals(rss_kib if number == 4 else 100_000, fds=220),
        )
        for number in (1, 2, 3, 4)
    ]
    return Soaked(
        per_s=100,
        churn_per_s=10,
        before=vitals(tasks=30),
        windows=windows,
        minutes=[latencies],
        after=vitals(tasks=34),
        held=NOTHING,
        lost=0,
        visitors=400,
        failed=0,
        failure="",
        connect_p50_ms=3.0,
        connect_p99_ms=9.0,
    )


def failing(results: Soaked) -> list[str]:
    return [finding.what for finding in results.findings() if not finding.good]


def test_a_soak_in_which_all_holds_says_so_with_its_figures() -> None:
    page = soak.markdown(SoakResults(origin=ORIGIN, soaked=soaked()), "plots")
    assert "All 10 hold." in page
    assert "4,000 publications at 100/s, 16,000 deliveries" in page
    assert "| tasks of edge-1 | 30 to 34 | ≤ +4 | holds |" in page
    assert "| 1 | 1.0 | 5.0 | 2.0 | 6.0 |" in page
    assert "| edge-1 | 97.7 MiB, 20 fds, 9 threads, 30 tasks | 97.7 MiB, 220 fds, 9 threads |" in page


def test_a_soak_fails_on_what_is_missing_comes_twice_or_grows() -> None:
    assert failing(soaked()) == []
    assert failing(soaked(acked=999)) == ["publications without an answer"]
    assert failing(soaked(delivered=3_999)) == ["deliveries to residents missing, or too many"]
    assert failing(soaked(delivered=4_001)) == ["deliveries to residents missing, or too many"]
    grown = soaked(rss_kib=100_043)  # 43 KiB in 10 s: 258 in a minute
    assert failing(grown) == ["RSS of edge-1, second half"]
    assert "**Failed: 1 of 10.**" in soak.markdown(SoakResults(origin=ORIGIN, soaked=grown), "plots")


def test_a_churn_is_judged_by_what_is_left_behind_its_chunks() -> None:
    good = ChurnResults(origin=ORIGIN, runs=[run(103_000, 103_000, 103_100, 103_200)])
    assert all(finding.good for finding in good.findings())
    page = churn.markdown(good, "plots")
    assert "200,000 clients connected" in page
    assert "in 1.7 minutes (2,000/s)" in page
    refused = churn.markdown(ChurnResults(origin=ORIGIN, kind="refused", runs=good.runs), "plots")
    assert "200,000 connections of the kind `refused` came and went" in refused
    leaks = run(103_000, 103_300, 103_600, 103_900)
    assert [each.what for each in leaks.findings() if not each.good] == ["RSS of edge-1, second half"]
    holds = run(103_000, held=1)
    assert [each.what for each in holds.findings() if not each.good] == ["held by edges for clients that are gone"]


def test_a_run_that_was_cut_short_goes_on_behind_any_chunk_and_each_platform_is_judged_alone() -> None:
    results = ChurnResults(origin=ORIGIN, runs=[run(101_000, 102_000, 103_000), run(90_000, 90_000)])
    results.cut(4)
    assert [len(each.chunks) for each in results.runs] == [3, 1]
    results.cut(2)
    assert [len(each.chunks) for each in results.runs] == [2]
    results.runs.append(run(50_000, 50_000))
    assert "started 2 times" in churn.markdown(results, "plots")
    assert sum(finding.what == "fds of edge-1" for finding in results.findings()) == 2
