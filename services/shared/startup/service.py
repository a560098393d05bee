"""Entry point of every service: reads its settings, sets up the process, runs it.

A service that runs is stopped by SIGTERM or SIGINT; `process/lifecycle.py` has signals and exit codes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from services.shared.hotlog.keys import use_prefix
from services.shared.process.lifecycle import run
from services.shared.process.logs import setup_logging
from services.shared.process.variables import read_checked_env, warn_of_retired
from services.shared.startup.config import ProcessConfig

C = TypeVar("C", bound=ProcessConfig)


def run_service(
    name: str,
    config: type[C],
    main: Callable[[C, asyncio.Event], Awaitable[None]],
    *,
    has_parent: bool = False,
    log_fields: Mapping[str, object] | None = None,
) -> None:
    """Run the service `name` until it ends, then end the process.

    Its settings are read from variables that begin with its name (`EDGE_…`). Log lines have `log_fields`.

    Args:
        name: The service, such as "edge".
        config: Its settings.
        main: Runs it, with its settings, until the event is set.
        has_parent: As for `lifecycle.run`. The parent has warned of settings of earlier versions.
        log_fields: Fields of every log line.
    """
    prefix = f"{name.upper()}_"

    async def start(stopping: asyncio.Event) -> None:
        settings = read_checked_env(config, os.environ, prefix)
        setup_logging(name, level=settings.log_level, **(log_fields or {}))
        if not has_parent:
            warn_of_retired(os.environ, prefix)
        use_prefix(settings.redis_prefix)
        await main(settings, stopping)

    run(start, name, has_parent=has_parent)
