"""Reads settings from environment variables and names the variable of each error.

Settings are the fields of a dataclass. A field may itself be a dataclass of settings, which groups them: the names of
variables are the same as without the group. A field made with `fixed` is no setting.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


MOST = 1_000_000_000  # largest value of a number without its own bound; in seconds 31 years
HIGHEST_PORT = 65_535
_SHOWN = 60  # characters of a wrong value that an error message shows


class ConfigError(Exception):
    """A setting is wrong. The text is one line that names it; the exit code is 2."""


def field_env(name: str, default: Any = dataclasses.MISSING) -> Any:
    """Return a dataclass field that is read from the variable `name`, without prefix.

    For settings that all services share.
    """
    return dataclasses.field(default=default, metadata={"env": name})


def number(default: float, at_least: float, at_most: float = MOST, *, env: str | None = None) -> Any:
    """Return a dataclass field for a number in this range, both ends included.

    `env` as for `field_env`.
    """
    named = {} if env is None else {"env": env}
    return dataclasses.field(default=default, metadata={"range": (at_least, at_most), **named})


def fixed(default: Any) -> Any:
    """Return a dataclass field that is not read from the environment.

    Code and tests may pass another value.
    """
    return dataclasses.field(default=default, metadata={"fixed": True})


def group(cls: type[Any]) -> Any:
    """Return a dataclass field whose value is `cls`, a dataclass of settings."""
    return dataclasses.field(default_factory=cls)


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its environment variable, its dataclass field and its type."""

    variable: str
    field: dataclasses.Field[Any]
    kind: Any


def settings_of(cls: type[Any], prefix: str) -> Iterator[Setting]:
    """Yield the settings that `read_env` reads, also those in groups."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from settings_of(typing.cast(type[Any], hints[field.name]), prefix)
        elif "fixed" not in field.metadata:
            yield Setting(_variable(field, prefix), field, hints[field.name])


def read_env(cls: type[T], env: Mapping[str, str], prefix: str) -> T:
    """Build `cls`, a keyword-only dataclass, from environment variables.

    The field `lease_ttl_s` is read from `PREFIX_LEASE_TTL_S`, also where it is in a group. The prefix may be given
    with or without its underscore.

    Fields may be `str`, `int`, `float`, `bool`, `Path`, `tuple[str, ...]` (comma separated) and each of
    them `| None` (an empty variable is None). A variable that is absent leaves the default.

    Raises:
        ConfigError: a variable can't be read as its type, is outside the range of its `number`, or is absent and has
            no default.
    """
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(typing.cast(Any, cls)):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            values[field.name] = read_env(typing.cast(type[Any], kind), env, prefix)
        elif "fixed" not in field.metadata:
            variable = _variable(field, prefix)
            if variable in env:
                values[field.name] = _parse_in_range(env[variable], kind, field, variable)
            elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise ConfigError(f"{variable} must be set")
    return cls(**values)


def read_secret_file(path: Path, variable: str) -> bytes:
    """Return the bytes of a secret file without one trailing newline.

    Raises:
        ConfigError: the file can't be read or is empty. The message names the variable and the path, never the content.
    """
    try:
        secret = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{variable}: can't read {path}: {error.strerror}") from error
    secret = secret.removesuffix(b"\n").removesuffix(b"\r")
    if not secret:
        raise ConfigError(f"{variable}: {path} is empty")
    return secret


def _variable(field: dataclasses.Field[Any], prefix: str) -> str:
    """Return the name of the variable that a field is read from."""
    named: str | None = field.metadata.get("env")
    return named or f"{prefix.removesuffix('_')}_{field.name.upper()}"


def _parse_in_range(text: str, kind: Any, field: dataclasses.Field[Any], variable: str) -> Any:
    value = _parse(text, kind, variable)
    if "range" in field.metadata:
        at_least, at_most = field.metadata["range"]
        if value < at_least:
            raise ConfigError(f"{variable} must be at least {at_least}, not {shown(text)}")
        if value > at_most:
            raise ConfigError(f"{variable} must be at most {at_most}, not {shown(text)}")
    return value


def shown(text: str) -> str:
    """Return a wrong value for a message, cut if it is long."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


def _parse(text: str, kind: Any, variable: str) -> Any:
    """Return `text` as a value of type `kind`, one of the types that `read_env` lists."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        kinds = [each for each in typing.get_args(kind) if each is not types.NoneType]
        return None if text == "" else _parse(text, kinds[0], variable)
    if kind is str:
        return text
    if kind is bool:
        word = text.strip().lower()
        if word not in _TRUE | _FALSE:
            raise ConfigError(f"{variable} must be true or false, not {shown(text)}")
        return word in _TRUE
    if kind is int:
        try:
            return int(text)
        except ValueError:
            raise ConfigError(f"{variable} must be a whole number, not {shown(text)}") from None
    if kind is float:
        try:
            real = float(text)
        except ValueError:
            real = math.nan
        if not math.isfinite(real):
            raise ConfigError(f"{variable} must be a number, not {shown(text)}")
        return real
    if kind is Path:
        if not text:
            raise ConfigError(f"{variable} must name a file or directory, not be empty")
        return Path(text)
    if typing.get_origin(kind) is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    raise TypeError(f"{variable}: fields of type {kind} are not read from the environment")
