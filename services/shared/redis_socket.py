"""A socket to where a URL of Redis points (`redis://`, `rediss://`, `unix://`), for protocols of our own."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

P = TypeVar("P", bound=asyncio.Protocol)


async def connect(make: Callable[[], P], options: Mapping[str, Any]) -> P:
    """`make()`, connected.

    Args:
        options: What `redis.asyncio.connection.parse_url` found in the URL.

    Raises:
        OSError: Nobody listens there.
    """
    loop = asyncio.get_running_loop()
    if "path" in options:
        return (await loop.create_unix_connection(make, options["path"]))[1]
    secure = "SSL" in getattr(options.get("connection_class"), "__name__", "")
    address = options.get("host", "localhost"), int(options.get("port", 6379))
    context = ssl.create_default_context() if secure else None
    return (await loop.create_connection(make, *address, ssl=context))[1]
