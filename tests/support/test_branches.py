"""The gate of `make coverage` on reports made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.branches import by_domain, main


def measured(branches: int, *missing: list[int]) -> dict[str, Any]:
    summary = {"num_branches": branches, "covered_branches": branches - len(missing)}
    return {"summary": summary, "missing_branches": list(missing)}


def write(folder: Path, files: dict[str, Any]) -> Path:
    report = folder / "coverage.json"
    report.write_text(json.dumps({"files": files}), encoding="utf-8")
    return report


def test_files_of_one_domain_are_added_up_and_others_do_not_count() -> None:
    files = {
        "services/auth/domain/a.py": measured(6, [3, 4]),
        "services/auth/domain/deep/b.py": measured(1, [7, -1]),
        "services/auth/package/domain/b.py": measured(3, [8, 9]),
        "services/auth/package/domainless.py": measured(50),
        "services/auth/service.py": measured(100, *([1, 2] for _ in range(100))),
        "services/edge/domain/c.py": measured(2),
    }
    found = by_domain({"files": files})
    assert {service: (one.taken, one.branches) for service, one in found.items()} == {"auth": (7, 10), "edge": (2, 2)}
    assert found["auth"].missing[0] == "services/auth/domain/a.py: 3 → 4"


@pytest.mark.parametrize(("missing", "code"), [(10, 0), (11, 1)])
def test_it_fails_below_90_percent_of_one_domain_however_good_the_others_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], missing: int, code: int
) -> None:
    files = {
        "services/auth/domain/a.py": measured(100, *([line, line + 1] for line in range(missing))),
        "services/edge/domain/b.py": measured(900),
    }
    assert main(write(tmp_path, files)) == code
    assert ("services/auth/domain/a.py: 0 → 1" in capsys.readouterr().out) == bool(code)


def test_a_domain_without_branches_misses_none_but_a_report_without_domains_is_an_error() -> None:
    files = {"services/presence/domain/a.py": measured(0), "services/edge/domain/b.py": measured(1)}
    assert by_domain({"files": files})["presence"].percent == 100.0
    with pytest.raises(ValueError, match="no branches"):
        by_domain({"files": {"services/auth/service.py": measured(5)}})
