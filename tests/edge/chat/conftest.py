"""Every test of conversations runs with JSON clients and with Protobuf clients."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _in_either_encoding(encoding: str) -> None:
    """Let the clients of the test speak this encoding."""
