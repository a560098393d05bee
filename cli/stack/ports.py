"""Chooses the ports of a stack before anything starts.

They come from the environment; 0 stands for any free port.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.shared.addresses import without_brackets
from services.shared.process.config import ConfigError

_HIGHEST = 65_535
# Below the ports of outgoing connections on Linux and macOS, so that a restarted service finds its port free.
FREE_RANGE = (10_000, 32_000)
_ATTEMPTS = 200  # random ports to try
_LOOPBACK = "127.0.0.1"
_TLS_DEFAULTS = {"AUTH_GRPC_TLS_PORT": 9011, "PRESENCE_GRPC_TLS_PORT": 9012, "PERSISTENCE_GRPC_TLS_PORT": 9013}
_DEFAULTS = {
    "REDIS_PORT": 0,  # not 6379: another Redis may use it
    "AUTH_GRPC_PORT": 9001,
    "AUTH_INTERNAL_PORT": 9101,
    "PRESENCE_GRPC_PORT": 9002,
    "PRESENCE_INTERNAL_PORT": 9102,
    "PERSISTENCE_GRPC_PORT": 9003,
    "PERSISTENCE_INTERNAL_PORT": 9103,
    "EDGE_PORT": 8001,
    "EDGE_INTERNAL_PORT": 9111,
}
_WEBHOOKS_DEFAULTS = {"WEBHOOKS_INTERNAL_PORT": 9104}
_NOTIFIER_DEFAULTS = {"NOTIFIER_INTERNAL_PORT": 9105}


@dataclass(frozen=True, slots=True)
class Port:
    """A port that a process wants, and the variable that names it. 0: any port."""

    owner: str
    variable: str
    host: str
    number: int


def edge_names(edges: int) -> list[str]:
    """Return the names of this many edges."""
    return [f"edge-{number}" for number in range(1, edges + 1)]


def wanted_ports(
    environment: Mapping[str, str],
    edges: int,
    *,
    any_free: bool = False,
    webhooks: bool = False,
    notifier: bool = False,
) -> list[Port]:
    """Return the ports of Redis, the services and `edges` edges.

    The ports of the edges count up from their variable. With `any_free`, a port that no variable names is 0. With
    `webhooks` the webhook dispatcher has one, too, with `notifier` the notifier.

    Raises:
        ConfigError: a variable is not a port number.
    """
    defaults = _DEFAULTS if environment.get("SERVICE_TLS", "off") == "off" else _DEFAULTS | _TLS_DEFAULTS
    defaults = defaults | (_WEBHOOKS_DEFAULTS if webhooks else {}) | (_NOTIFIER_DEFAULTS if notifier else {})
    numbers = {name: _number(environment, name, 0 if any_free else default) for name, default in defaults.items()}
    ports = []
    for variable, number in numbers.items():
        service = variable.split("_")[0]
        host = _LOOPBACK if service == "REDIS" else environment.get(_host_variable(variable), _LOOPBACK)
        owners = edge_names(edges) if service == "EDGE" else [service.lower()]
        for step, owner in enumerate(owners):
            port = number + step if number else 0
            if port > _HIGHEST:
                raise ConfigError(f"{variable}={number} leaves no port for {owner}")
            ports.append(Port(owner, variable, host, port))
    return ports


def _host_variable(port_variable: str) -> str:
    service = port_variable.split("_", maxsplit=1)[0]
    return f"{service}_INTERNAL_HOST" if "INTERNAL" in port_variable else f"{service}_HOST"


def _number(environment: Mapping[str, str], variable: str, default: int) -> int:
    text = environment.get(variable, "").strip() or str(default)
    if not (text.isascii() and text.isdecimal()) or int(text) > _HIGHEST:
        raise ConfigError(f"{variable} must be a port from 0 (any free one) to {_HIGHEST}, not {text!r}")
    return int(text)


def choose_ports(
    ports: Sequence[Port], rng: random.Random | None = None, *, last: Mapping[tuple[str, str], int] | None = None
) -> dict[tuple[str, str], int]:
    """Choose ports that are free now, by (owner, variable).

    A port that may be any is the one of the `last` start if that is free.

    Raises:
        ConfigError: a host is not an address of this machine, or named ports are in use or named twice. One line has
            all of them with their variables.
    """
    for port in ports:
        if trouble := _why_not_host(port.host):
            raise ConfigError(f"{_host_variable(port.variable)}={port.host} is no address of this machine: {trouble}")
    rng = rng or random.SystemRandom()
    chosen: dict[tuple[str, str], int] = {}
    problems = []
    for port in ports:
        if port.number == 0:
            continue
        if port.number in chosen.values():
            problems.append(f"port {port.number} ({port.owner}, {port.variable}) is given twice")
        elif trouble := why_not(port.host, port.number):
            problems.append(f"port {port.number} ({port.owner}, {port.variable}) {trouble}")
        chosen[port.owner, port.variable] = port.number
    if problems:
        variable = next(port.variable for port in ports if port.variable in problems[0])
        instead = f"{variable}=0 for any free port" if len(problems) == 1 else "take --ports auto"
        raise ConfigError(f"{'; '.join(problems)}: free {'it' if len(problems) == 1 else 'them'}, or {instead}")
    anyhow = {(port.owner, port.variable): port.host for port in ports if port.number == 0}
    for name, number in (last or {}).items():
        if name in anyhow and number not in chosen.values() and not why_not(anyhow[name], number):
            chosen[name] = number
    for name in anyhow.keys() - chosen.keys():
        chosen[name] = _free(anyhow[name], set(chosen.values()), rng)
    return {(port.owner, port.variable): chosen[port.owner, port.variable] for port in ports}


def _free(host: str, taken: set[int], rng: random.Random) -> int:
    for _ in range(_ATTEMPTS):
        number = rng.randrange(*FREE_RANGE)
        if number not in taken and not why_not(host, number):
            return number
    raise ConfigError(f"no free port on {host} between {FREE_RANGE[0]} and {FREE_RANGE[1]}")


def _why_not_host(host: str) -> str:
    """Return why no port of this host can be listened on; empty if one can."""
    try:
        _listen(host, 0)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _listen(host: str, number: int) -> None:
    host = without_brackets(host)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, number))
        probe.listen(1)


def why_not(host: str, number: int) -> str:
    """Return why this port can't be listened on now; empty if it can."""
    try:
        _listen(host, number)
    except PermissionError:
        return "needs privileges"
    except OSError as error:
        return "is in use" if error.errno is not None and "in use" in str(error) else f"on {host}: {error.strerror}"
    return ""
