"""The file by which other commands find the stack that `thalamus dev` runs.

It is in the data directory.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from services.shared.hotlog.keys import DEFAULT_PREFIX

_FILE = "dev.json"
API_KEY_FILE = "dev-api-key"


class EdgeAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Addresses of one edge."""

    name: str
    http: str
    websocket: str


class RunningStack(msgspec.Struct, frozen=True, kw_only=True):
    """A running stack as its supervisor described it.

    `internal` has the URL of each service's internal port. `service_tls_files`: CA, certificate and key with which auth
    is called; empty: without TLS. `persistence_tls_files`: the same for persistence.
    """

    pid: int
    edges: list[EdgeAddress]
    auth: str
    redis: str
    service_token_file: str
    internal: dict[str, str]
    pids: dict[str, int]
    service_tls_files: list[str] = []
    redis_prefix: str = DEFAULT_PREFIX
    persistence: str = ""
    persistence_tls_files: list[str] = []


def write_running(data: Path, stack: RunningStack) -> None:
    """Write the description of the stack; readers never see half a file."""
    temporary = data / f"{_FILE}.new"
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(stack), indent=2) + b"\n")
    temporary.replace(data / _FILE)


def forget_running(data: Path) -> None:
    """Remove the description: the stack is gone."""
    (data / _FILE).unlink(missing_ok=True)


def find_running(data: Path) -> RunningStack | None:
    """Return the stack that runs on this data directory; None if there is none.

    Also None if its supervisor has died.
    """
    try:
        stack = msgspec.json.decode((data / _FILE).read_bytes(), type=RunningStack)
    except (OSError, msgspec.MsgspecError):
        return None
    return stack if _is_alive(stack.pid) else None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs as another user
        return True
    return True
