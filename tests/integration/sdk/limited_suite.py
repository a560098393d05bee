"""Runs a module of unittest cases, with a time limit for each test.

The module is in the current folder.

A test that waits for an event that never comes then fails and is named, instead of keeping the whole run.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import sys
import unittest
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

Test = Callable[[Any], Awaitable[None]]


def limited(test: Test, limit_s: float) -> Test:
    """Return the test with a limit in seconds; beyond it raises TimeoutError."""

    @functools.wraps(test)
    async def run(case: Any) -> None:
        async with asyncio.timeout(limit_s):
            await test(case)

    return run


def main(module_name: str, limit_s: float) -> None:
    sys.path.insert(0, str(Path.cwd()))
    module = importlib.import_module(module_name)
    for case in list(vars(module).values()):
        if isinstance(case, type) and issubclass(case, unittest.IsolatedAsyncioTestCase):
            for name in unittest.defaultTestLoader.getTestCaseNames(case):
                setattr(case, name, limited(getattr(case, name), limit_s))
    unittest.main(module=module, argv=[module_name, "-v"])


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
