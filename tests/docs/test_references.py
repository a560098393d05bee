"""References in pages and tests lead somewhere.

Links with their anchors, and rows of docs/reliability.md.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "services").glob("*/README.md")),
    *sorted((ROOT / "bench").glob("*.md")),
]
RELIABILITY = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
TESTING = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
SECURITY = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
ROWS = set(re.findall(r"^\| ([BF]\d\d) \|", RELIABILITY, re.MULTILINE))


def prose(page: Path) -> str:
    """The text of a page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_between_pages_leads_to_a_file_and_a_heading() -> None:
    broken = []
    for page in PAGES:
        for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            if re.match(r"[a-z]+:", link):
                continue
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
                broken.append(f"{page.relative_to(ROOT)}: {link}")
    assert broken == []


def test_every_path_and_make_target_that_the_page_for_contributors_names_exists() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    folders = "|".join(path.name for path in ROOT.iterdir() if path.is_dir())
    paths = set(re.findall(rf"(?<![\w/.])(?:{folders})/[\w./-]*\w", page)) - {"docs/decisions/NNNN-short-title.md"}
    assert len(paths) > 40
    assert {path for path in paths if not (ROOT / path).exists()} == set()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:`|\$ (?:\w+=\d+ )?)make ([a-z-]+)", page)) <= targets


def test_every_fault_and_bad_input_that_tests_and_pages_name_has_a_row() -> None:
    named = {}
    for path in [*sorted((ROOT / "tests").rglob("*.py")), *PAGES]:
        for row in re.findall(r"(?<![A-Za-z0-9])[BbFf][0-3]\d(?![A-Za-z0-9])", path.read_text(encoding="utf-8")):
            named[row.upper()] = str(path.relative_to(ROOT))
    assert len(named) > 40
    assert {row: path for row, path in named.items() if row not in ROWS} == {}


def section(page: str, heading: str) -> str:
    """The text under a heading, up to the next one of the same level."""
    return re.split(r"^## ", page.split(f"## {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def test_every_test_that_the_pages_on_testing_and_security_name_exists() -> None:
    named = set(re.findall(r"(tests/[\w./-]*\w)(?:::(\w+))?", TESTING + SECURITY))
    assert len(named) > 60
    missing = []
    for name, test in sorted(named):
        path = ROOT / name
        if not path.exists() or (
            test and not re.search(rf"^ *(?:async )?def {test}\(", path.read_text(encoding="utf-8"), re.MULTILINE)
        ):
            missing.append(f"{name}::{test}")
    assert missing == []


def test_every_promise_names_tests() -> None:
    promises = re.findall(r"^(\d+\. )\*\*(.*?)\.?\*\*", section(RELIABILITY, "Promises"), re.MULTILINE)
    assert len(promises) == 11
    table = dict(re.findall(r"^\| (\d+\. .*?) \| (.*) \|$", section(TESTING, "Promises and their tests"), re.MULTILINE))
    assert list(table) == [number + name for number, name in promises]
    assert {name for name, tests in table.items() if "::test_" not in tests} == set()


def test_every_row_of_faults_and_bad_inputs_names_tests() -> None:
    table = re.findall(r"^\| ([BF–].*?) \| (.*) \|$", section(TESTING, "Rows and their tests"), re.MULTILINE)
    assert [rows for rows, tests in table if "tests/" not in tests] == []
    named = set()
    for rows, _ in table:
        for kind, first, last in re.findall(r"([BF])(\d\d)(?: to [BF](\d\d))?", rows):
            named |= {f"{kind}{number:02}" for number in range(int(first), int(last or first) + 1)}
    assert ROWS - named == set()
    unnumbered = re.findall(r"^\| – \|", section(RELIABILITY, "Faults"), re.MULTILINE)
    assert len(unnumbered) == sum(rows.startswith("–") for rows, _ in table)


def test_no_change_is_told_twice() -> None:
    told = re.findall(r"^- .{60}", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(told) == sorted(set(told))
