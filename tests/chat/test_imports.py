"""The rules of conversations use nothing that could do I/O or read a clock.

The import contracts in pyproject.toml say which packages of this project they leave alone; this test says what they may
use of others.
"""

from __future__ import annotations

import ast
from pathlib import Path

DOMAIN = Path(__file__).parents[2] / "services" / "persistence" / "chat" / "domain"
ALLOWED = {"__future__", "base64", "collections", "dataclasses", "enum", "hashlib", "json", "msgspec", "re", "services"}
ALLOWED |= {"typing"}


def imported(path: Path) -> set[str]:
    """Top-level names of all packages that a module imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


def test_the_rules_import_no_more_than_they_may() -> None:
    modules = sorted(DOMAIN.glob("*.py"))
    assert {module.stem for module in modules} >= {"events", "fold", "names", "rules", "state"}
    assert [(module.stem, name) for module in modules for name in imported(module) - ALLOWED] == []


def test_the_rules_call_neither_open_nor_print_nor_input() -> None:
    for module in DOMAIN.glob("*.py"):
        calls = {
            node.func.id
            for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not calls & {"open", "print", "input", "exec", "eval", "__import__"}, module
