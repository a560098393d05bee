"""From a number to an open, subscribed client."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from urllib.parse import urlsplit

from bench.load.client import Client, Opening, Tally
from bench.load.commands import Where
from bench.load.dialects import DIALECTS, PAYLOAD_BYTES, Joining, payload_of
from bench.load.frames import sign_token, upgrade_request

_OPENS_WITHIN_S = 30.0


def channel_of(channels: Sequence[str], number: int) -> str:
    """Where the client is."""
    return channels[number % len(channels)]


async def open_client(
    where: Where,
    channels: Sequence[str],
    number: int,
    tally: Tally,
    *,
    join_leave: bool = False,
    position: tuple[int, str] | None = None,
    payload_bytes: int = PAYLOAD_BYTES,
    payload: str = "",
    source: str | None = None,
) -> tuple[Client, bytes]:
    """The client, and what the server said to its subscribe.

    Args:
        where: Servers; the client's is chosen as `Connect` says.
        channels: Those of all clients.
        number: The client's.
        tally: What counts for it.
        join_leave: Be told who comes and goes.
        position: Catch up from here.
        payload_bytes: Of what it will publish.
        payload: That in place of so many bytes; see `Connect`.
        source: The address it comes from; none: the system's choice.
    Raises:
        OSError: refused.
        TimeoutError: 30 s were not enough.
    """
    channel = channel_of(channels, number)
    url = urlsplit(where.urls[number // len(channels) % len(where.urls)])
    dialect = DIALECTS[where.dialect]
    tokens = where.tokens
    token = tokens[number % len(tokens)] if tokens else sign_token(where.secret, f"user-{number}", where.token_ttl_s)
    joining = Joining(token=token, channel=channel, join_leave=join_leave, position=position)
    request = upgrade_request(url.netloc, dialect.path(url.path, joining))
    frame = dialect.publish(channel, payload or payload_of(payload_bytes))
    async with asyncio.timeout(_OPENS_WITHIN_S):
        _, opening = await asyncio.get_running_loop().create_connection(
            lambda: Opening(request, dialect.steps(joining), dialect, frame, tally),
            url.hostname or "",
            url.port or 0,
            local_addr=None if source is None else (source, 0),
        )
        client, said = await opening.opened
    return client, said[-1]
