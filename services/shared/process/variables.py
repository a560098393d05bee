"""Checks the names of environment variables: a misspelt one ends the start.

A setting that is ignored silently looks as if it were on. So every variable that begins with a service's prefix must be
one of its settings. Two kinds are let through. Names of earlier versions (`RETIRED`) are logged: refusing them would
stop a start with an older env file, or a rollback of the image. Variables that Kubernetes and Docker links add for a
service of that name are ignored (`AUTH_SERVICE_HOST`, `AUTH_PORT_9001_TCP_ADDR`).
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

from services.shared.process.config import ConfigError, read_env, settings_of

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Name → what replaces it. An entry stays for as long as somebody may go back to a version that has the setting.
RETIRED: Mapping[str, str] = {
    "EDGE_CLOSE_TIMEOUT_S": "always 5 s",
    "EDGE_MAX_PENDING_PUBLISHES": "how many may wait follows from EDGE_MAX_PUBLISH_WAIT_S and the measured rate",
    "EDGE_MAX_READS": "always 64",
    "EDGE_MAX_WAITING_READS": "always 5000",
    "EDGE_RECOVERY_LIMIT": "always 1000; more follow the reply, up to EDGE_RECOVERY_TOTAL",
    "EDGE_REPLY_MAX_BYTES": "always 1048576",
    "EDGE_TOKEN_NOT_BEFORE_LEEWAY_S": "always 10 s, or EDGE_TOKEN_LEEWAY_S if that is longer",
    "EDGE_TOP_CHECK_S": "always 5 s",
    "PERSISTENCE_MAX_BATCH": "always 1024",
    "PERSISTENCE_SWEEP_S": "always 1 s",
    "PRESENCE_HEARTBEAT_S": "presence tells edges: a third of PRESENCE_LEASE_TTL_S",
    "PRESENCE_SWEEP_S": "always 0.5 s",
}

# Variables with this prefix that other services read.
_OF_OTHERS = {"AUTH_": ("AUTH_HS256_SECRET_FILE", "AUTH_HS256_PREVIOUS_SECRET_FILE")}

_OF_LINKS = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT_\d+_(TCP|UDP|SCTP)(_\w+)?$")


def names_of(config: type[Any], prefix: str) -> set[str]:
    """Return the variables with this prefix that a settings dataclass is read from."""
    names = {setting.variable for setting in settings_of(config, prefix)} | set(_OF_OTHERS.get(prefix, ()))
    return {name for name in names if name.startswith(prefix)}


def read_checked_env(cls: type[T], environment: Mapping[str, str], prefix: str) -> T:
    """Read settings as `read_env` does, after checking the names with this prefix.

    Raises:
        ConfigError: a variable is unknown or can't be read.
    """
    check_names(environment, prefix, names_of(cls, prefix))
    return read_env(cls, environment, prefix)


def check_names(environment: Mapping[str, str], prefix: str, known: Collection[str]) -> None:
    """Check that every variable with the prefix is known.

    Raises:
        ConfigError: some are not. The message names each, with the most similar known name.
    """
    unknown = [
        name
        for name in sorted(environment)
        if name.startswith(prefix)
        and name not in known
        and name not in RETIRED
        and not _is_of_a_link(name, environment[name], prefix)
    ]
    if unknown:
        raise ConfigError("; ".join(f"there is no setting {name}{_nearest(name, known)}" for name in unknown))


def warn_of_retired(environment: Iterable[str], *prefixes: str) -> None:
    """Log a warning for each variable of an earlier version, which is ignored."""
    for name in sorted(environment):
        if name in RETIRED and name.startswith(prefixes):
            logger.warning("a setting of an earlier version is ignored", extra={"setting": name, "now": RETIRED[name]})


def _is_of_a_link(name: str, value: str, prefix: str) -> bool:
    return _OF_LINKS.search(name) is not None or (name == f"{prefix}PORT" and "://" in value)


def _nearest(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.75)
    return f" (is {close[0]} meant?)" if close else ""
