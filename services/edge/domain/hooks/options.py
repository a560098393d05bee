"""Options of hooks, read from a TOML file (`HOOKS_FILE`).

A wrong entry is refused at start, and the message names file, table and option.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from services.edge.domain.hooks.model import Event
from services.shared.addresses import is_loopback, why_not_called
from services.shared.chat_methods import METHODS
from services.shared.checks import MAX_PATTERN_BYTES
from services.shared.namespaces import Namespaces
from services.shared.process.config import ConfigError
from services.shared.toml_file import as_bool, as_number, as_one_of, as_table, read_toml

_NAME = re.compile(r"[-a-zA-Z0-9_.]{1,64}")  # it is a label of metrics
# Methods whose names begin so belong to the server, also those that it does not have yet.
BUILT_IN = ("presence.", *sorted({f"{name.partition('.')[0]}." for name in METHODS}))


class Fail(enum.StrEnum):
    """What happens to a command whose hook gives no answer that can be used."""

    OPEN = "open"  # it goes on as if there were no hook
    CLOSED = "closed"  # it is refused


class Scope(enum.StrEnum):
    """How far the answer to an rpc may reach."""

    REPLY = "reply"  # to the caller alone
    NODE = "node"  # and to subscribers on the caller's edge: no log, no other edge
    CLUSTER = "cluster"  # and published as `/api/publish` does


@dataclass(frozen=True, slots=True, kw_only=True)
class HookOptions:
    """One table `[hooks.<name>]`."""

    name: str
    events: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()  # of subscribe and publish; "": channels without a colon
    methods: tuple[str, ...] = ()  # of rpc: names, or beginnings with `*` at their end
    url: str = ""
    grpc: str = ""  # host:port
    extension: str = ""  # name of an entry point
    secret_files: tuple[str, ...] = ()  # HTTP: each signs; gRPC: the one token
    ca_file: str = ""  # authorities of a backend with TLS; "": those of the system
    tls: bool = False  # of gRPC
    timeout_s: float = 1.0
    concurrency: int = 64  # questions at the same time, of one edge
    waiting: int = 256  # questions that wait for one of these; beyond: error 111
    max_answer_bytes: int = 65_536
    fail: Fail = Fail.CLOSED
    sign_in: bool = False  # connect: the answer may say who a client without a token is
    grants: bool = False  # subscribe: the answer permits what the namespace asks a grant for
    scope: Scope = Scope.REPLY
    channels: tuple[str, ...] = ()  # patterns of the channels that an answer to an rpc may publish to

    def has(self, event: Event) -> bool:
        """Return whether the hook is asked about such events."""
        return event.value in self.events


_OPTIONS = {field.name: field.default for field in dataclasses.fields(HookOptions) if field.name != "name"}
_BOUNDS: Mapping[str, tuple[float, float]] = {
    "timeout_s": (0.05, 4),  # clients wait 5 s for a reply
    "concurrency": (1, 1_000),
    "waiting": (0, 10_000),
    "max_answer_bytes": (64, 1 << 20),
}
_ASKED = tuple(event for event in Event if event is not Event.PING)
# Options that have an effect only with an event, or with a way to the backend.
_NEEDS_EVENT = {
    "methods": (Event.RPC,),
    "scope": (Event.RPC,),
    "channels": (Event.RPC,),
    "namespaces": (Event.SUBSCRIBE, Event.PUBLISH),
    "sign_in": (Event.CONNECT,),
    "grants": (Event.SUBSCRIBE,),
}
_NEEDS_WAY = {"tls": ("grpc",), "ca_file": ("url", "grpc"), "secret_files": ("url", "grpc")}
_WAYS = ("url", "grpc", "extension")


def load_hooks(path: Path, namespaces: Namespaces) -> list[HookOptions]:
    """Read `[hooks.<name>]` from a TOML file.

    Relative paths of secrets and authorities begin at the folder of the file.

    Raises:
        ConfigError: an entry is unknown, of the wrong type, out of bounds or without effect; two hooks are for the same
            thing; a namespace does not exist. The message names file, table and option.
    """
    tables = read_toml(path, "HOOKS_FILE")
    for table in tables:
        if table != "hooks":
            raise ConfigError(f"{path}: unknown table {table!r}; known: hooks.<name>")
    found = []
    for name, table in as_table(tables.get("hooks", {}), f"{path}: [hooks]").items():
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{path}: [hooks.{name}]: a name is 1 to 64 of a-z A-Z 0-9 - _ .")
        found.append(_below(path.parent, _hook(name, table, f"{path}: [hooks.{name}]")))
        _check_namespaces(found[-1], namespaces, f"{path}: [hooks.{name}]")
    _check_apart(found, path)
    return found


def _below(folder: Path, hook: HookOptions) -> HookOptions:
    """Return the hook with its relative paths put below `folder`."""
    secrets = tuple(str(folder / file) for file in hook.secret_files)
    return dataclasses.replace(hook, secret_files=secrets, ca_file=str(folder / hook.ca_file) if hook.ca_file else "")


def _hook(name: str, table: object, where: str) -> HookOptions:
    given = as_table(table, where)
    for option in given:
        if option not in _OPTIONS:
            raise ConfigError(f"{where} {option}: unknown option; known: {', '.join(sorted(_OPTIONS))}")
    hook = HookOptions(name=name, **{key: _value(key, value, f"{where} {key}") for key, value in given.items()})
    _check_events(hook, given, where)
    _check_way(hook, given, where)
    _check_rpc(hook, where)
    if hook.sign_in and hook.fail is Fail.OPEN:
        raise ConfigError(f'{where} fail: a hook with sign_in = true must fail "closed"')
    if hook.grants and hook.fail is Fail.OPEN:
        raise ConfigError(f'{where} fail: a hook with grants = true must fail "closed"')
    return hook


def _value(option: str, value: object, where: str) -> Any:
    """Return `value` as the type of the option's default, checked against its bounds."""
    default = _OPTIONS[option]
    if isinstance(default, enum.StrEnum):
        return as_one_of(type(default), value, where)
    if isinstance(default, tuple):
        if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
            raise ConfigError(f"{where}: must be a list of strings that is not empty, not {value!r}")
        return tuple(value)
    if isinstance(default, bool):
        return as_bool(value, where)
    if isinstance(default, str):
        if not isinstance(value, str) or not value:
            raise ConfigError(f"{where}: must be a string that is not empty, not {value!r}")
        return value
    return as_number(value, where, whole=isinstance(default, int), bounds=_BOUNDS[option])


def _check_events(hook: HookOptions, given: Mapping[str, Any], where: str) -> None:
    if not hook.events:
        raise ConfigError(f"{where} events: must list at least one of {', '.join(_ASKED)}")
    for event in hook.events:
        if event not in _ASKED:
            raise ConfigError(f"{where} events: must be of {', '.join(_ASKED)}, not {event!r}")
    for option, events in _NEEDS_EVENT.items():
        if option in given and not any(hook.has(event) for event in events):
            raise ConfigError(f"{where} {option}: has no effect without the event {' or '.join(events)}")
    if not hook.namespaces and any(hook.has(event) for event in _NEEDS_EVENT["namespaces"]):
        raise ConfigError(f"{where} namespaces: must list the namespaces that the hook is for")


def _check_way(hook: HookOptions, given: Mapping[str, Any], where: str) -> None:
    """Check how the backend is reached."""
    ways = [way for way in _WAYS if way in given]
    if len(ways) != 1:
        raise ConfigError(f"{where}: must have one of {', '.join(_WAYS)}")
    for option, needed in _NEEDS_WAY.items():
        if option in given and ways[0] not in needed:
            raise ConfigError(f"{where} {option}: has no effect without {' or '.join(needed)}")
    if hook.url:
        if why := why_not_called(hook.url, plain_http=True):
            raise ConfigError(f"{where} url: {why}")
        if hook.url.startswith("http:") and hook.ca_file:
            raise ConfigError(f"{where} url: must begin with https:// where ca_file is set")
        if not hook.secret_files:
            raise ConfigError(f"{where} secret_files: must name the files of the secrets that calls are signed with")
    if hook.grpc:
        if len(hook.secret_files) > 1:
            raise ConfigError(f"{where} secret_files: must name one file with grpc: a call has one token")
        host, _, port = hook.grpc.rpartition(":")
        if not (host and port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
            raise ConfigError(f"{where} grpc: must be host:port, not {hook.grpc!r}")


def decides_alone(hook: HookOptions) -> bool:
    """Return whether nobody but this hook says who a client is, or what it may do."""
    return hook.sign_in or hook.grants


def is_open_to_others(hook: HookOptions) -> bool:
    """Return whether who is on the way to the backend can forge its answers."""
    if hook.url:
        return hook.url.startswith("http:") and not is_loopback(urlsplit(hook.url).hostname or "")
    return bool(hook.grpc) and not hook.tls and not is_loopback(hook.grpc.rpartition(":")[0].strip("[]"))


def _check_rpc(hook: HookOptions, where: str) -> None:
    if not hook.has(Event.RPC):
        return
    if not hook.methods:
        raise ConfigError(f"{where} methods: must list the methods that the hook is for")
    for method in hook.methods:
        name = method.removesuffix("*")
        if "*" in name:
            raise ConfigError(f"{where} methods: `*` stands at the end alone, not in {method!r}")
        if own := next((own for own in BUILT_IN if name.startswith(own)), ""):
            raise ConfigError(f"{where} methods: names that begin with {own} are the server's own")
    if (hook.scope is Scope.REPLY) == bool(hook.channels):
        raise ConfigError(f'{where} channels: goes with scope = "node" or "cluster": the channels to publish to')
    for pattern in hook.channels:
        if len(pattern.encode()) > MAX_PATTERN_BYTES:
            raise ConfigError(f"{where} channels: a pattern has at most {MAX_PATTERN_BYTES} bytes")


def _check_namespaces(hook: HookOptions, namespaces: Namespaces, where: str) -> None:
    for name in hook.namespaces:
        if (namespaces.named.get(name) if name else namespaces.default) is None:
            raise ConfigError(f"{where} namespaces: CHANNELS_FILE has no namespace {name!r}")


def _check_apart(hooks: list[HookOptions], path: Path) -> None:
    """Refuse two hooks for the same thing: nobody could tell whose word counts."""
    taken: dict[tuple[str, str], str] = {}
    for hook in hooks:
        for event in hook.events:
            names = {Event.RPC: hook.methods, Event.SUBSCRIBE: hook.namespaces, Event.PUBLISH: hook.namespaces}
            for name in names.get(Event(event), ("",)):
                other = taken.setdefault((event, name), hook.name)
                if other != hook.name:
                    what = f"{event} {name!r}" if event in names else event
                    raise ConfigError(f"{path}: [hooks.{hook.name}]: {what} belongs to [hooks.{other}] already")
