"""Reads settings from a TOML file.

`where` names file, table and option in errors, which say what is wrong and how it should be.
"""

from __future__ import annotations

import enum
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from services.shared.process.config import ConfigError

_Kind = TypeVar("_Kind", bound=enum.StrEnum)


def read_toml(path: Path, variable: str) -> Mapping[str, Any]:
    """Return the tables of a file.

    Raises:
        ConfigError: it can't be read, or is not TOML. `variable` is the setting that names the file.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{variable}: can't read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error


def as_table(value: object, where: str) -> Mapping[str, Any]:
    """Return a table; raise `ConfigError` if it is none."""
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: must be a table, not {value!r}")
    return value


def as_one_of(kind: type[_Kind], value: object, where: str) -> _Kind:
    """Return a value of an enumeration; raise `ConfigError` if it is none."""
    try:
        return kind(str(value))
    except ValueError:
        raise ConfigError(f"{where}: must be one of {', '.join(kind)}, not {value!r}") from None


def as_bool(value: object, where: str) -> bool:
    """Return true or false; raise `ConfigError` for anything else."""
    if not isinstance(value, bool):
        raise ConfigError(f"{where}: must be true or false, not {value!r}")
    return value


def as_number(value: object, where: str, *, whole: bool, bounds: tuple[float, float]) -> float:
    """Return a number within its bounds, both allowed; raise `ConfigError` otherwise."""
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        kind = "a whole number" if whole else "a number"
        raise ConfigError(f"{where}: must be {kind}, not {value!r}")
    low, high = bounds
    if not low <= value <= high:
        raise ConfigError(f"{where}: must be {low:g} to {high:,.0f}, not {value!r}")
    return value
