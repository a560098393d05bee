"""docs/permissions.md: the table of scopes is that of the code."""

from __future__ import annotations

import re
from pathlib import Path

from services.edge.api.app import CALLS
from services.edge.api.scopes import operation_of
from services.shared.api_scopes import ADMIN, IN_NAMESPACES, ApiOperation

PAGE = (Path(__file__).parents[2] / "docs" / "permissions.md").read_text(encoding="utf-8")
ROW = re.compile(r"\| `(\w+)` \| (.*) \| (yes)? ?\|")


def test_the_table_of_scopes_has_every_method_and_where_it_is_limited() -> None:
    section = PAGE.split("## Scopes of API keys")[1]
    rows = {scope: (methods, bool(limited)) for scope, methods, limited in ROW.findall(section)}
    assert set(rows) == {ADMIN, *ApiOperation}
    assert {scope for scope, (_, limited) in rows.items() if limited} == set(IN_NAMESPACES)
    for name in CALLS.keys() - {"batch"}:
        scope = operation_of(name)
        assert scope is not None, name
        methods = re.findall(r"`(\w+)", rows[scope][0])
        assert any(name == method or (method.endswith("_") and name.startswith(method)) for method in methods), name
