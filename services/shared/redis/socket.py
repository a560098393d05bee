"""Connect an asyncio protocol to the address of a Redis URL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from services.shared.redis.address import RedisAddress

P = TypeVar("P", bound=asyncio.Protocol)


async def connect(make: Callable[[], P], address: RedisAddress) -> P:
    """Create a protocol, connect it, and return it.

    Raises:
        OSError: Nobody listens there, or TLS fails.
    """
    loop = asyncio.get_running_loop()
    if address.path:
        return (await loop.create_unix_connection(make, address.path))[1]
    context = None if address.tls is None else address.tls.get()
    return (await loop.create_connection(make, address.host, address.port, ssl=context))[1]
