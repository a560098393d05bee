"""Parts of a page that a tool writes, between lines that name them.

People write the rest of the page.
"""

from __future__ import annotations

from collections.abc import Iterable


def with_part(page: str, name: str, lines: Iterable[str], by: str = "python -m bench.curves") -> str:
    """Return the page with these lines between its marks; without marks at its end."""
    begin, end = f"<!-- {name}: written by {by} -->", f"<!-- end of {name} -->"
    part = "\n".join([begin, "", *lines, end])
    before, found, rest = page.partition(begin)
    if not found:
        return f"{page}{part}\n"
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{begin} has no {end}")
    return f"{before}{part}{after}"
