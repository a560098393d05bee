"""Ports are checked before anything starts, and complaints name port and variable."""

from __future__ import annotations

import random
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.stack.last_ports import LastPorts
from cli.stack.ports import choose_ports, wanted_ports, why_not
from services.shared.process.config import ConfigError

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


def test_webhooks_have_a_port_where_they_run() -> None:
    ports = {port.variable: port.number for port in wanted_ports({}, edges=1, webhooks=True)}
    assert ports["WEBHOOKS_INTERNAL_PORT"] == 9104


def test_the_notifier_has_a_port_where_it_runs() -> None:
    ports = {port.variable: port.number for port in wanted_ports({}, edges=1, notifier=True)}
    assert ports["NOTIFIER_INTERNAL_PORT"] == 9105


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


@pytest.mark.parametrize("port", ["0", "50123"])
@pytest.mark.parametrize(
    ("variable", "service_port"), [("EDGE_HOST", "EDGE_PORT"), ("AUTH_INTERNAL_HOST", "AUTH_INTERNAL_PORT")]
)
@pytest.mark.parametrize("host", ["nowhere.invalid", "192.0.2.1", "[::zz]"])
def test_a_host_that_is_not_of_this_machine_is_named_with_its_variable(
    variable: str, service_port: str, host: str, port: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{variable}={re.escape(host)} is no address of this machine: [^:]+$"):
        choose_ports(wanted_ports({**ANY, variable: host, service_port: port}, edges=2))


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


def chosen_anew(data: Path, environment: dict[str, str], edges: int) -> tuple[dict[tuple[str, str], int], list[str]]:
    """As a start with this data directory chooses; and what it says of it."""
    last = LastPorts(data)
    wanted = wanted_ports(environment, edges)
    ports = choose_ports(wanted, last=last.ports)
    return ports, last.keep(wanted, ports)


def test_the_next_start_takes_the_same_ports(tmp_path: Path) -> None:
    first, _ = chosen_anew(tmp_path, ANY, edges=2)
    for edges in (2, 1, 2, 3):  # those of the second are known in between
        again, said = chosen_anew(tmp_path, ANY, edges)
        assert {name: port for name, port in first.items() if name in again}.items() <= again.items()
        assert said == []


def test_a_port_of_the_last_start_that_is_in_use_is_replaced_and_told(tmp_path: Path) -> None:
    first, _ = chosen_anew(tmp_path, ANY, edges=1)
    lost = first["edge-1", "EDGE_PORT"]
    with socket.create_server(("127.0.0.1", lost)):
        second, said = chosen_anew(tmp_path, ANY, edges=1)
    instead = second["edge-1", "EDGE_PORT"]
    assert {name for name in first if first[name] != second[name]} == {("edge-1", "EDGE_PORT")}
    assert said == [f"port {lost} (edge-1, EDGE_PORT) of the last start is in use: {instead} in its place"]
    assert chosen_anew(tmp_path, ANY, edges=1) == (second, [])


def test_a_port_that_a_variable_names_is_taken_whatever_the_last_start_had(tmp_path: Path, taken: int) -> None:
    first, _ = chosen_anew(tmp_path, ANY, edges=1)
    named = first["auth", "AUTH_GRPC_PORT"]
    second, said = chosen_anew(tmp_path, {**ANY, "EDGE_PORT": str(named)}, edges=1)
    assert second["edge-1", "EDGE_PORT"] == named
    assert second["auth", "AUTH_GRPC_PORT"] != named
    assert len(set(second.values())) == len(second)
    assert said == [
        f"port {named} (auth, AUTH_GRPC_PORT) of the last start is in use: "
        f"{second['auth', 'AUTH_GRPC_PORT']} in its place"
    ]
    with pytest.raises(ConfigError, match=rf"port {taken} \(edge-1, EDGE_PORT\) is in use"):
        chosen_anew(tmp_path, {**ANY, "EDGE_PORT": str(taken)}, edges=1)


@pytest.mark.parametrize("text", ["", "nonsense", "[]", '{"edge-1 EDGE_PORT":"x"}', '{"edge-1 EDGE_PORT":70000}', "{}"])
def test_what_can_not_be_read_counts_as_no_last_start(tmp_path: Path, text: str) -> None:
    (tmp_path / "dev-ports.json").write_text(text)
    assert LastPorts(tmp_path).ports == {}
    chosen, said = chosen_anew(tmp_path, ANY, edges=1)
    assert said == []
    assert LastPorts(tmp_path).ports == chosen


def test_ports_that_variables_name_are_no_memory(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        named = other.getsockname()[1]
    chosen_anew(tmp_path, {**ANY, "EDGE_PORT": str(named)}, edges=1)
    assert ("edge-1", "EDGE_PORT") not in LastPorts(tmp_path).ports
