"""The method `connections` of the server API: who is connected, and where."""

from __future__ import annotations

from typing import Any

from services.edge.api import requests as r
from services.edge.api.context import ApiContext
from services.edge.domain.control.connections import Connections, has_edge, merge
from services.shared.errors import ErrorCode, ThalamusError

_MOST = 1_000  # connections of a page
_MOST_WITH_CHANNELS = 100  # the same if their channels are listed: each may have 128 of them
_MAX_NAME_BYTES = 1_024  # of what is asked for


async def connections(context: ApiContext, request: r.Connections) -> dict[str, Any]:
    """Return the connections of a user, in a channel, or on an edge, page by page."""
    named = [name for name in (request.user, request.channel, request.edge) if name]
    if len(named) != 1:
        raise ThalamusError("one of user, channel and edge", ErrorCode.BAD_REQUEST)
    most = _MOST_WITH_CHANNELS if request.with_channels else _MOST
    if not 1 <= request.limit <= most:
        raise ThalamusError(f"limit must be 1 to {most}", ErrorCode.BAD_REQUEST)
    if max(len(named[0].encode()), len(request.cursor.encode())) > _MAX_NAME_BYTES:
        raise ThalamusError(f"a name has at most {_MAX_NAME_BYTES} bytes", ErrorCode.BAD_REQUEST)
    limit = int(request.limit)
    question = Connections(
        user=request.user,
        channel=request.channel,
        edge=request.edge,
        after=request.cursor,
        limit=limit,
        with_channels=request.with_channels,
    )
    answers, unanswered = await context.cluster.ask(question, partial=request.partial)
    if request.edge and not unanswered and not has_edge(answers):
        raise ThalamusError("there is no such edge", ErrorCode.NOT_AVAILABLE)
    found, more = merge(answers, limit)
    page: dict[str, Any] = {"connections": found}
    if unanswered:
        page["unanswered"] = unanswered
    if more:
        page["cursor"] = found[-1]["client"]
    return page
