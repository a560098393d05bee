"""What `make verify-faults` writes leaves alone what others wrote below its mark."""

from __future__ import annotations

from tests.faults.table import REST, with_rest


def test_what_stands_below_the_mark_stays_and_what_is_above_goes() -> None:
    before = f"# Old\n\n{REST}\n\n## By others\n"
    assert with_rest("# New\n", before) == f"# New\n\n{REST}\n\n## By others\n"
    assert with_rest("# Newer\n", with_rest("# New\n", before)).count(REST) == 1


def test_without_a_mark_all_is_new() -> None:
    assert with_rest("# New\n", "# Old\n") == "# New\n"
