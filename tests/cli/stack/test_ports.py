"""Ports are checked before anything starts, and complaints name port and variable."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

import pytest

from cli.stack.ports import choose_ports, wanted_ports, why_not
from services.shared.config import ConfigError

ANY = dict.fromkeys(
    [f"{name}_INTERNAL_PORT" for name in ("AUTH", "PRESENCE", "PERSISTENCE", "EDGE")]
    + [f"{name}_GRPC_PORT" for name in ("AUTH", "PRESENCE", "PERSISTENCE")]
    + ["EDGE_PORT", "REDIS_PORT"],
    "0",
)


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen(1)
        yield holder.getsockname()[1]


def test_edges_count_up_from_their_ports_and_redis_takes_any() -> None:
    ports = {(port.owner, port.variable): port.number for port in wanted_ports({}, edges=2)}
    assert ports == {
        ("redis", "REDIS_PORT"): 0,
        ("auth", "AUTH_GRPC_PORT"): 9001,
        ("auth", "AUTH_INTERNAL_PORT"): 9101,
        ("presence", "PRESENCE_GRPC_PORT"): 9002,
        ("presence", "PRESENCE_INTERNAL_PORT"): 9102,
        ("persistence", "PERSISTENCE_GRPC_PORT"): 9003,
        ("persistence", "PERSISTENCE_INTERNAL_PORT"): 9103,
        ("edge-1", "EDGE_PORT"): 8001,
        ("edge-2", "EDGE_PORT"): 8002,
        ("edge-1", "EDGE_INTERNAL_PORT"): 9111,
        ("edge-2", "EDGE_INTERNAL_PORT"): 9112,
    }


def test_zero_gives_each_a_port_of_its_own_that_is_free() -> None:
    chosen = choose_ports(wanted_ports(ANY, edges=3), random.Random(7))
    assert len(set(chosen.values())) == len(chosen) == 13
    assert not any(why_not("127.0.0.1", port) for port in chosen.values())


def test_a_port_in_use_is_named_with_its_variable(taken: int) -> None:
    with pytest.raises(ConfigError) as complaint:
        choose_ports(wanted_ports({**ANY, "EDGE_PORT": str(taken)}, edges=1))
    assert str(complaint.value) == (
        f"port {taken} (edge-1, EDGE_PORT) is in use: free it, or EDGE_PORT=0 for any free port"
    )


def test_all_ports_in_use_are_named_in_the_same_line(taken: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        second = other.getsockname()[1]
        with pytest.raises(ConfigError) as complaint:
            choose_ports(wanted_ports({**ANY, "EDGE_PORT": str(taken), "AUTH_GRPC_PORT": str(second)}, edges=1))
    assert str(complaint.value) == (
        f"port {second} (auth, AUTH_GRPC_PORT) is in use; port {taken} (edge-1, EDGE_PORT) is in use: "
        "free them, or take --ports auto"
    )


def test_auto_takes_free_ports_but_for_those_that_are_named() -> None:
    ports = {(port.owner, port.variable): port.number for port in wanted_ports({"EDGE_PORT": "8001"}, 2, any_free=True)}
    assert {name: number for name, number in ports.items() if number} == {
        ("edge-1", "EDGE_PORT"): 8001,
        ("edge-2", "EDGE_PORT"): 8002,
    }


def test_the_same_port_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"port 9001 \(edge-1, EDGE_PORT\) is given twice"):
        choose_ports(wanted_ports({**ANY, "AUTH_GRPC_PORT": "9001", "EDGE_PORT": "9001"}, edges=1))


@pytest.mark.parametrize("text", ["x", "-1", "65536", "80.5", "٣"])
def test_what_is_no_port_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^EDGE_PORT must be a port from 0"):
        wanted_ports({"EDGE_PORT": text}, edges=1)


def test_edges_beyond_the_last_port_are_refused() -> None:
    with pytest.raises(ConfigError, match="EDGE_PORT=65535 leaves no port for edge-2"):
        wanted_ports({"EDGE_PORT": "65535"}, edges=2)
