"""How many workers, and the port that they share."""

from __future__ import annotations

import os
import socket

import pytest

from services.edge.config import EdgeConfig
from services.edge.workers import held_port
from services.shared.process.config import ConfigError


def listener(port: int, *, shared: bool) -> socket.socket:
    taken = socket.socket()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
    taken.bind(("127.0.0.1", port))
    taken.listen()
    return taken


def test_one_worker_unless_told_otherwise() -> None:
    assert EdgeConfig().worker_count() == 1
    assert EdgeConfig(workers="3").worker_count() == 3


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 1), (3, 2), (16, 15)])
def test_auto_leaves_one_core_to_the_others(monkeypatch: pytest.MonkeyPatch, cores: int, workers: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    assert EdgeConfig(workers="auto").worker_count() == workers


@pytest.mark.parametrize("workers", ["0", "-1", "257", "1.5", "many", "", " 2", "²"])
def test_a_number_of_workers_that_is_none_is_refused(workers: str) -> None:
    with pytest.raises(ConfigError, match="EDGE_WORKERS must be auto, or a number from 1 to 256"):
        EdgeConfig(workers=workers)


def test_every_worker_needs_an_internal_port() -> None:
    assert EdgeConfig(workers="2", internal_port=65_534).worker_count() == 2
    with pytest.raises(ConfigError, match="EDGE_INTERNAL_PORT=65535 leaves no port for 2 workers"):
        EdgeConfig(workers="2", internal_port=65_535)


@pytest.mark.parametrize("shared", [False, True])
def test_a_port_that_somebody_listens_on_is_refused_even_where_it_could_be_shared(shared: bool) -> None:
    with listener(0, shared=shared) as taken:
        port = taken.getsockname()[1]
        refused = pytest.raises(
            ConfigError, match=f"public port {port} on 127.0.0.1 can't be used: Address already in use"
        )
        with refused, held_port("127.0.0.1", port):
            pass


def test_the_held_port_is_for_workers_and_free_afterwards() -> None:
    with held_port("127.0.0.1", 0) as port, listener(port, shared=True), listener(port, shared=True):
        pass
    with held_port("127.0.0.1", port) as again:
        assert again == port


def test_the_kernel_hands_a_held_port_to_nobody_who_asks_for_any() -> None:
    with held_port("127.0.0.1", 0) as port, socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))


def test_a_held_port_takes_no_connection() -> None:
    with held_port("127.0.0.1", 0) as port, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


def test_one_port_on_every_address_of_a_name() -> None:
    with held_port("", 0) as port, socket.socket(socket.AF_INET) as other, pytest.raises(OSError, match="in use"):
        other.bind(("0.0.0.0", port))


def test_an_address_that_is_none_of_ours_is_named() -> None:
    refused = pytest.raises(ConfigError, match=r"public port 0 on 192\.0\.2\.1 can't be used")
    with refused, held_port("192.0.2.1", 0):
        pass
