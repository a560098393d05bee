"""Which files run first, and which tests run in `make test-full` alone."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.order import LONGEST, rank_of

ROOT = Path(__file__).parents[2]


def test_the_longest_are_first_then_those_of_processes_then_the_others() -> None:
    wanted = [*LONGEST, "tests/bench/test_a.py", "tests/edge/test_b.py"]
    files = random.Random(1).sample(wanted, len(wanted))
    assert sorted(files, key=rank_of) == wanted
    assert rank_of("tests/edge/test_b.py") == rank_of("tests/auth/test_c.py"), "these keep their order"


@pytest.mark.parametrize("path", LONGEST)
def test_what_is_named_exists(path: str) -> None:
    assert (ROOT / path).is_file(), f"tests/support/order.py: {path} has another name now"


@pytest.mark.parametrize(("full", "count"), [("", 1), ("1", 3)])
def test_the_long_version_has_more_and_what_is_marked_full_runs_in_it_alone(
    full: str, count: int, tmp_path: Path
) -> None:
    (tmp_path / "conftest.py").write_text("pytest_plugins = ['tests.support.full']\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    full: in test-full alone\n")
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "from tests.support.full import sized\n"
        "@pytest.mark.parametrize('seed', range(sized(1, 2)))\n"
        "def test_seeds(seed): ...\n"
        "@pytest.mark.full\n"
        "def test_long(): ...\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "FULL": full},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert f"{count} passed" in done.stdout, done.stdout + done.stderr
