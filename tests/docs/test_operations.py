"""docs/operations.md names every variable of the stack files, and no other.

With its default.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `([A-Z0-9_]+)` \| (.*?) \|", PAGE, re.MULTILINE))
FILES = ("dev-stack.yml", "dev-ports.yml", "dev-queue.yml", "prod-stack.yml", "mtls-stack.yml")
VARIABLES: dict[str, set[str]] = {}
for _file in FILES:
    for _name, _default in re.findall(r"\$\{([A-Z0-9_]+):?-([^}]*)\}", (ROOT / _file).read_text(encoding="utf-8")):
        VARIABLES.setdefault(_name, set()).add(_default or "–")


def test_every_variable_of_the_stack_stands_in_the_page() -> None:
    assert VARIABLES.keys() == ROWS.keys()


def test_the_page_has_the_defaults_of_dev_stack() -> None:
    assert {name: default for name, default in ROWS.items() if default not in VARIABLES[name]} == {}
