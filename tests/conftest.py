"""Fixtures for every test; each lives in a module of `tests/support` and is named here."""

from __future__ import annotations

pytest_plugins = ("tests.support.dynamodb", "tests.support.redis", "tests.support.sdk", "tests.support.stack")
