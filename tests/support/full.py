"""How much a test does: a part of it in `make test`, all in `make test-full`.

The latter sets FULL=1.
"""

from __future__ import annotations

import os

import pytest

FULL = os.environ.get("FULL") == "1"


def sized(usual: int, full: int) -> int:
    """Return the size of a test: `full` with FULL=1, `usual` without."""
    return full if FULL else usual


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests and parameters that are marked `full`, unless FULL=1 is set."""
    if FULL:
        return
    left_out = [item for item in items if item.get_closest_marker("full") is not None]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item.get_closest_marker("full") is None]
