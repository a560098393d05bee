"""Runs tests with clients of both encodings, except those about JSON alone."""

from __future__ import annotations

import pytest

from tests.support.edge import JSON, PROTOBUF, Client


@pytest.fixture(params=[JSON, PROTOBUF])
def encoding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The encoding of clients for which a test names none; each test runs with both."""
    chosen = str(request.param)
    monkeypatch.setattr(Client, "default_encoding", chosen)
    return chosen


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests marked `json_only` where they would run over Protobuf."""
    left_out = [
        item
        for item in items
        if isinstance(item, pytest.Function)
        and hasattr(item, "callspec")
        and item.callspec.params.get("encoding") == PROTOBUF
        and item.get_closest_marker("json_only") is not None
    ]
    for item in left_out:
        items.remove(item)
    config.hook.pytest_deselected(items=left_out)
