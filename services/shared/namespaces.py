"""Namespaces: what the channels of a prefix offer and who may use them.

They are read once from a TOML file. A wrong entry is refused, and the message names file, table and option.
"""

from __future__ import annotations

import dataclasses
import enum
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.shared.process.config import ConfigError

_NAME = re.compile(r"[-a-zA-Z0-9_.]{2,}")  # wire protocol, 10
_MAX_DATA_BYTES = 1 << 20
MAX_HISTORY_SIZE = 1_000_000
MAX_HISTORY_TTL_S = 10 * 365 * 86_400
MAX_PRESENCE_GRACE_S = 3_600


class Permission(enum.StrEnum):
    """Who may do something. A list of permissions is met if any of them is."""

    ANYONE = "anyone"  # anonymous clients too
    AUTHENTICATED = "authenticated"  # has a user id
    SUBSCRIBER = "subscriber"  # is subscribed to the channel; anonymous only with `anonymous_subscriber`
    GRANT = "grant"  # a token or the server API allows it
    NOBODY = "nobody"


class Durability(enum.StrEnum):
    """What the acknowledgement of a publication means."""

    NONE = "none"  # published to subscribers only: no log, no offsets
    HOT = "hot"  # it is in the Redis log
    STORED = "stored"  # it is in the durable store


class Mode(enum.StrEnum):
    """Whether a feature is off, on for clients that ask for it, or on for everyone."""

    OFF = "off"
    ALLOW = "allow"
    FORCE = "force"


class DataFormat(enum.StrEnum):
    """Which `data` a publication may have."""

    JSON = "json"  # any JSON value
    OBJECT = "object"  # a JSON object
    BINARY = "binary"  # any bytes; not for clients of the JSON protocol


class CommandToken(enum.StrEnum):
    """Whether commands need a token of their own."""

    OFF = "off"
    REQUIRED = "required"


class Delta(enum.StrEnum):
    """Format of the deltas that clients may ask for, patches of the last publication."""

    OFF = "off"
    FOSSIL = "fossil"


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """Options of the channels `name:…`; the name "" is for channels without a colon."""

    name: str
    durability: Durability = Durability.HOT
    history_size: int = 1000
    history_ttl_s: int = 86_400
    recovery: Mode = Mode.OFF
    positioning: Mode = Mode.OFF
    presence: bool = False
    join_leave: Mode = Mode.OFF
    presence_grace_s: float = 10.0
    subscribe: frozenset[Permission] = frozenset({Permission.GRANT})
    publish: frozenset[Permission] = frozenset({Permission.NOBODY})
    history: frozenset[Permission] = frozenset({Permission.NOBODY})
    presence_read: frozenset[Permission] = frozenset({Permission.NOBODY})
    anonymous_subscriber: bool = False
    max_data_bytes: int = 32_768
    publish_rate: float = 0.0
    channel_regex: str = ""
    data_format: DataFormat = DataFormat.JSON
    delta: Delta = Delta.OFF
    command_token: CommandToken = CommandToken.OFF
    time_in_tags: bool = False  # adds the time as a tag too: SDKs pass tags on but drop `time`


@dataclass(frozen=True, slots=True)
class Namespaces:
    """All namespaces of a deployment.

    `default` is for channels without a colon; None if such channels are not allowed.
    """

    default: Namespace | None = None
    named: Mapping[str, Namespace] = dataclasses.field(default_factory=dict)

    def find(self, channel: str) -> Namespace | None:
        """Return the namespace that the channel's name begins with; None if it is unknown.

        The name is the part before the first `:`, without a leading `$`.
        """
        name, colon, _ = channel.partition(":")
        return self.named.get(name.removeprefix("$")) if colon else self.default


_OPTIONS = {field.name: field.default for field in dataclasses.fields(Namespace) if field.name != "name"}
_BOUNDS: Mapping[str, tuple[float, float]] = {
    "history_size": (1, MAX_HISTORY_SIZE),
    "history_ttl_s": (1, MAX_HISTORY_TTL_S),
    "presence_grace_s": (0, MAX_PRESENCE_GRACE_S),
    "max_data_bytes": (1, _MAX_DATA_BYTES),
    "publish_rate": (0, 1_000_000),
}
_NEEDS_LOG = ("history_size", "history_ttl_s", "history", "recovery", "positioning")
_NEEDS_PRESENCE = ("join_leave", "presence_grace_s", "presence_read")


def load_namespaces(path: Path) -> Namespaces:
    """Read `[default]` and `[namespaces.<name>]` from a TOML file.

    Raises:
        ConfigError: an entry is unknown, of the wrong type, out of bounds or without effect. The message names file,
            table and option.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"CHANNELS_FILE: can't read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    for table in tables:
        if table not in ("default", "namespaces"):
            raise ConfigError(f"{path}: unknown table {table!r}; known: default, namespaces.<name>")
    named = _as_table(tables.get("namespaces", {}), f"{path}: [namespaces]")
    for name in named:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{path}: [namespaces.{name}]: a name is two or more of a-z A-Z 0-9 - _ .")
    return Namespaces(
        default=_namespace("", tables["default"], f"{path}: [default]") if "default" in tables else None,
        named={name: _namespace(name, table, f"{path}: [namespaces.{name}]") for name, table in named.items()},
    )


def _namespace(name: str, table: object, where: str) -> Namespace:
    options = _as_table(table, where)
    for option in options:
        if option not in _OPTIONS:
            raise ConfigError(f"{where} {option}: unknown option; known: {', '.join(sorted(_OPTIONS))}")
    namespace = Namespace(name=name, **{key: _value(key, value, f"{where} {key}") for key, value in options.items()})
    _check_sense(namespace, options, where)
    return namespace


def _value(option: str, value: object, where: str) -> Any:
    """Return `value` as the type of the option's default, checked against its bounds."""
    default = _OPTIONS[option]
    if isinstance(default, enum.StrEnum):
        return _member(type(default), value, where)
    if isinstance(default, frozenset):
        return _permissions(value, where)
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise ConfigError(f"{where}: must be true or false, not {value!r}")
        return value
    if isinstance(default, str):
        return _regex(value, where)
    if isinstance(value, bool) or not isinstance(value, int if isinstance(default, int) else (int, float)):
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise ConfigError(f"{where}: must be {kind}, not {value!r}")
    low, high = _BOUNDS[option]
    if not low <= value <= high:
        raise ConfigError(f"{where}: must be {low:g} to {high:,.0f}, not {value!r}")
    return value


def _permissions(value: object, where: str) -> frozenset[Permission]:
    if not isinstance(value, list) or not value:
        raise ConfigError(f'{where}: must be a list such as ["{Permission.SUBSCRIBER}"], not {value!r}')
    if "member" in value:
        raise ConfigError(f"{where}: member needs conversations, which this version does not have")
    rule = frozenset(_member(Permission, each, where) for each in value)
    if Permission.NOBODY in rule and len(rule) > 1:
        raise ConfigError(f"{where}: nobody stands alone")
    return rule


def _member(kind: type[enum.StrEnum], value: object, where: str) -> Any:
    try:
        return kind(str(value))
    except ValueError:
        raise ConfigError(f"{where}: must be one of {', '.join(kind)}, not {value!r}") from None


def _regex(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{where}: must be a string, not {value!r}")
    try:
        re.compile(value)
    except re.error as error:
        raise ConfigError(f"{where}: not a regular expression: {error}") from error
    return value


def _as_table(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: must be a table, not {value!r}")
    return value


def _check_sense(namespace: Namespace, given: Mapping[str, Any], where: str) -> None:
    """Refuse options that would have no effect: whoever set them expects one."""
    if namespace.durability is Durability.NONE:
        for option in _NEEDS_LOG:
            if option in given and getattr(namespace, option) not in (Mode.OFF, {Permission.NOBODY}):
                raise ConfigError(f'{where} {option}: needs a log; durability = "none" keeps none')
    if not namespace.presence:
        for option in _NEEDS_PRESENCE:
            if option in given and getattr(namespace, option) not in (Mode.OFF, {Permission.NOBODY}):
                raise ConfigError(f"{where} {option}: needs presence = true")
