"""An append-only file with a damaged end.

Told by name, and repaired when asked for. The server is a real one.
"""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

import pytest
import redis

from cli.main import run
from cli.stack import aof
from services.shared.process.config import ConfigError
from services.shared.redis.binary import find_redis_server


class Server:
    """The Redis of a data directory, as `thalamus dev` starts it."""

    def __init__(self, data: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        (data / "redis").mkdir(exist_ok=True)
        options = ["--port", str(self.port), "--dir", str(data / "redis"), "--appendonly", "yes", "--save", ""]
        self.process = subprocess.Popen([find_redis_server(), *options], stdout=subprocess.PIPE, text=True)
        self.client = redis.Redis(port=self.port, decode_responses=True)

    def wait(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                self.client.ping()
            except (redis.ConnectionError, redis.BusyLoadingError):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            else:
                return

    def end(self) -> str:
        """Stop it; returns what it said."""
        self.client.close()
        self.process.terminate()
        return self.process.communicate(timeout=60)[0]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A data directory whose Redis holds ten keys."""
    server = Server(tmp_path)
    server.wait()
    for number in range(10):
        server.client.set(f"key{number}", "x" * 100)
    server.end()
    return tmp_path


def file_of(data: Path) -> Path:
    (file,) = (data / "redis" / "appendonlydir").glob("*.incr.aof")
    return file


def damage(data: Path, tail: bytes) -> int:
    """Returns the size before."""
    size = file_of(data).stat().st_size
    with file_of(data).open("ab") as opened:
        opened.write(tail)
    return size


def keys_of(data: Path) -> int:
    server = Server(data)
    server.wait()
    count = server.client.dbsize()
    server.end()
    assert isinstance(count, int)
    return count


@pytest.mark.parametrize("zeros", [1, 4096, 200_000])
def test_zero_bytes_at_the_end_are_told_and_cut_off(written: Path, zeros: int) -> None:
    size = damage(written, bytes(zeros))
    with pytest.raises(ConfigError) as told:
        aof.refuse_zeros(written)
    assert f"{file_of(written)}, ends in {zeros} zero bytes" in str(told.value)
    assert "`thalamus dev --repair`" in str(told.value)
    assert f"redis-check-aof --fix {file_of(written)}" in str(told.value)

    said = aof.repair(find_redis_server(), written)
    assert said.startswith(f"{zeros} of {size + zeros} bytes were cut off the end of {file_of(written)}; ")
    aof.refuse_zeros(written)
    assert keys_of(written) == 10
    (copy,) = (written / "redis").glob("appendonlydir.before-repair-*")
    assert (copy / file_of(written).name).stat().st_size == size + zeros


def test_a_file_that_redis_refuses_for_another_reason_is_explained_and_repaired(written: Path) -> None:
    damage(written, b"garbage\r\n")
    server = Server(written)
    said = server.process.communicate(timeout=60)[0]
    server.client.close()
    assert server.process.returncode == 1, "Redis itself can't use it"
    reason = aof.explained("redis exited with code 1", tuple(said.splitlines()), written)
    assert reason.startswith(f"redis exited with code 1: its append-only file, {file_of(written)}, is damaged: ")
    aof.repair(find_redis_server(), written)
    assert keys_of(written) == 10


def test_what_is_whole_is_left_alone(written: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    before = file_of(written).read_bytes()
    aof.refuse_zeros(written)
    assert aof.repair(find_redis_server(), written).endswith("is whole: nothing to repair")
    assert file_of(written).read_bytes() == before
    assert not list((written / "redis").glob("*before-repair*"))
    assert aof.explained("redis exited with code 1", ("# Can't bind",), written) == "redis exited with code 1"
    assert "no append-only file yet" in aof.repair(find_redis_server(), tmp_path_factory.mktemp("empty"))


def test_dev_ends_with_one_line_and_code_2(
    written: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(written, bytes(10))
    monkeypatch.setenv("THALAMUS_PORTS", "auto")
    assert run(["dev", "--data", str(written)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "ends in 10 zero bytes" in line
