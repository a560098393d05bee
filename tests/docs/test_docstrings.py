"""First lines of docstrings are short, as CONTRIBUTING.md asks for."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST = 80  # characters
FOLDERS = ("bench", "cli", "deploy", "services", "tests", "verify")


def first_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield number and text of the first line of every docstring."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring is not None:
                yield node.body[0].lineno, docstring.split("\n")[0]


@pytest.mark.parametrize("folder", FOLDERS)
def test_first_lines_have_at_most_80_characters(folder: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {len(line)}: {line}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for number, line in first_lines(path.read_text(encoding="utf-8"))
        if len(line) > MOST
    ]
    assert not found, "\n".join(found)


def test_docstrings_of_modules_classes_and_functions_are_looked_at() -> None:
    text = """
'a'
class A:
    'b'
    async def f(self) -> None:
        '''c
        d'''
def g() -> None: ...
"""
    assert list(first_lines(text)) == [(2, "a"), (4, "b"), (6, "c")]
