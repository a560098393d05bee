"""What is read of processes and metrics, and what becomes of several rounds."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prometheus_client.samples import Sample

from bench.measure.metrics import total
from bench.measure.proc import cpu_s, family, pss_kib, rss_kib
from bench.measure.statistics import Spread, spread
from bench.measure.usage import usage


def test_cpu_of_another_process_is_what_it_says_itself() -> None:
    burn = "import time\nwhile time.process_time() < 0.2: pass\nprint(time.process_time(), flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = float(process.stdout.readline())
        assert said <= cpu_s(process.pid) < said + 0.05
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        assert cpu_s(process.pid) == pytest.approx(ticks / os.sysconf("SC_CLK_TCK"), abs=0.05)
        process.communicate(b"\n")


def test_memory_is_read_where_linux_writes_it(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "status").write_text("Name:\tVmRSS: 1 (x)\nVmHWM:\t 9 kB\nVmRSS:\t  4321 kB\n")
    (tmp_path / "7" / "smaps_rollup").write_text(
        "5581-7ffc ---p 0 00:00 0 [rollup]\nRss: 9 kB\nPss:  1234 kB\nPss_Anon: 1 kB\n"
    )
    assert (rss_kib(7, tmp_path), pss_kib(7, tmp_path)) == (4321, 1234)


def test_children_of_all_threads_belong_to_the_family(tmp_path: Path) -> None:
    for pid, thread, children in ((1, 1, "2 3 "), (1, 9, "4"), (2, 2, "5\n"), (3, 3, ""), (4, 4, ""), (5, 5, "")):
        task = tmp_path / str(pid) / "task" / str(thread)
        task.mkdir(parents=True)
        (task / "children").write_text(children)
    assert sorted(family([1], tmp_path)) == [1, 2, 3, 4, 5]


def test_usage_counts_a_childs_cpu_as_its_parents() -> None:
    before = usage({"me": os.getpid()})
    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        after = usage({"me": os.getpid()})
        assert after.cpu_since(before) >= 0.3
        assert after.rss["me"] >= after.pss["me"] > 0
        assert after.at_s <= time.monotonic()
        process.communicate(b"\n")


def test_a_spread_is_the_median_between_the_extremes() -> None:
    assert spread([5.0, 1.0, 2.0]) == Spread(median=2.0, low=1.0, high=5.0, rounds=3)


def test_samples_are_summed_by_name_and_labels() -> None:
    samples = [Sample("reads", {"op": "read", "of": of}, 2.0) for of in ("a", "b")]
    samples += [Sample("reads", {"op": "write", "of": "a"}, 5.0), Sample("others", {"op": "read"}, 7.0)]
    assert (total(samples, "reads", op="read"), total(samples, "reads")) == (4.0, 9.0)


def test_a_process_that_has_ended_and_is_not_waited_for_has_no_memory() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        assert (rss_kib(ended.pid), pss_kib(ended.pid)) == (0, 0)
