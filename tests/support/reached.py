"""What code a program reaches from its entry point, by the names in it.

A definition is a function, a class or a variable of a module, as (module, name). It reaches those that its code names,
directly (`take_call`), by an import (`from … import take_call`) or through a module (`rates.take_call`). A class is one
definition: whoever names it reaches all of its methods. So too much may be found, and too little only where code looks
names up as text. Annotations reach nothing.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
Definition = tuple[str, str]
_Assigned = ast.Assign | ast.AnnAssign | ast.AugAssign


class _Module:
    """A module: its definitions, its imports, and what runs when it is imported."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.definitions: dict[str, list[ast.AST]] = {}
        self.body: list[ast.AST] = []
        tree = ast.parse(path.read_text())
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                self.definitions.setdefault(node.name, []).append(node)
            elif isinstance(node, _Assigned):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    for part in ast.walk(target):
                        if isinstance(part, ast.Name):
                            self.definitions.setdefault(part.id, []).append(node)
            elif not _is_main(node):
                self.body.append(node)
        self.imports = _imports(self.body)

    def code(self, name: str) -> list[ast.AST]:
        """The code of a definition; "": what runs when the module is imported."""
        return self.definitions[name] if name else self.body


def _is_main(node: ast.stmt) -> bool:
    """Whether it runs only where the module is the program."""
    return isinstance(node, ast.If) and "__name__" in {
        part.id for part in ast.walk(node.test) if isinstance(part, ast.Name)
    }


def _imports(nodes: list[ast.AST]) -> dict[str, Definition]:
    """What names that some code imports stand for; with the name "": a module."""
    found: dict[str, Definition] = {}
    for node in (part for one in nodes for part in ast.walk(one)):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.asname: (alias.name, "") for alias in node.names if alias.asname}
    return found


@functools.cache
def _module(name: str) -> _Module | None:
    """Return a module of the project, or None."""
    path = ROOT.joinpath(*name.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.exists():
            return _Module(name, file)
    return None


def code(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a piece of code, but for annotations."""
    yield node
    for field, value in ast.iter_fields(node):
        if field in {"annotation", "returns"}:
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from code(child)


def _found(module: str, name: str, local: Mapping[str, Definition]) -> Definition | None:
    """The definition behind a name that a module uses, through imports.

    ("module", ""): it is the name of a module. `local`: imports of the function that uses the name.
    """
    while (there := _module(module)) is not None:
        if name in local:
            source, imported = local[name]
            local = {}
        elif name in there.definitions:
            return module, name
        elif name in there.imports:
            source, imported = there.imports[name]
        else:
            return None
        if _module(f"{source}.{imported}") is not None:
            return f"{source}.{imported}", ""
        if not imported or source == module:
            return source, ""
        module, name = source, imported
    return None


def _named(module: str, nodes: list[ast.AST]) -> Iterator[Definition]:
    """The definitions that a piece of code names."""
    local = _imports(nodes)
    for node in nodes:
        for part in code(node):
            if isinstance(part, ast.Name):
                found = _found(module, part.id, local)
            elif isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
                at = _found(module, part.value.id, local)
                found = _found(at[0], part.attr, {}) if at is not None and not at[1] else None
            else:
                continue
            if found is not None and found[1]:
                yield found


def reached(*entries: Definition) -> dict[Definition, list[ast.AST]]:
    """Return what is reached from the entries, with its code.

    The code that runs when a module is imported has the name "".

    Raises:
        LookupError: an entry is not there.
    """
    found: dict[Definition, list[ast.AST]] = {}
    todo = list(entries)
    while todo:
        module, name = one = todo.pop()
        if one in found:
            continue
        there = _module(module)
        if there is None or (name and name not in there.definitions):
            raise LookupError(f"{module} has no {name}")
        found[one] = there.code(name)
        todo += [(module, ""), *_named(module, found[one])]
    return found
