"""Finds the connections of a user, in a channel or on an edge, page by page.

Every edge is asked, and each answers for its own connections. So the answer is what is so at this moment, it needs
no table that somebody has to keep, and edges that have died are in no answer.

Pages are by client id. Each edge returns the first ones behind the last id of the page before, at most a page; whoever
asks takes the first ones of all. So a page costs each edge no more than a page, and connections that come or go
meanwhile shift nothing: one that was there all the time comes exactly once.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from services.edge.domain.session.node import Node
    from services.edge.domain.session.session import Session


class Connections(msgspec.Struct, kw_only=True):
    """Asks for a page of the connections of one user, in one channel, or on one edge.

    `edge` is the name or the id of an edge. The page begins behind the client id `after`. `with_channels`: also
    list the channels that each connection is subscribed to.
    """

    user: str = ""
    channel: str = ""
    edge: str = ""
    after: str = ""
    limit: int = 100
    with_channels: bool = False


def find(node: Node, asked: Connections) -> dict[str, Any]:
    """Return the part of a page that is on this edge, and whether there is more."""
    behind = (session for session in _selected(node, asked) if session.is_open and session.client > asked.after)
    found = heapq.nsmallest(asked.limit + 1, behind, key=lambda session: session.client)
    part: dict[str, Any] = {
        "connections": [_entry(node, session, asked) for session in found[: asked.limit]],
        "more": len(found) > asked.limit,
    }
    if asked.edge:
        part["is_asked"] = _is_asked(node, asked)
    return part


def has_edge(answers: Iterable[dict[str, Any]]) -> bool:
    """Whether the edge that was asked for is among those that answered, or may be.

    An edge of before does not say which one it is.
    """
    return any(answer.get("is_asked", True) for answer in answers)


def merge(answers: Iterable[dict[str, Any]], limit: int) -> tuple[list[dict[str, Any]], bool]:
    """Return the page that the answers of all edges make; whether there is more."""
    found: list[dict[str, Any]] = []
    more = False
    for answer in answers:
        found += answer["connections"]
        more = more or answer["more"]
    found.sort(key=lambda entry: str(entry["client"]))
    return found[:limit], more or len(found) > limit


def _selected(node: Node, asked: Connections) -> Iterable[Session]:
    if asked.user:
        return node.users.get(asked.user, {}).values()
    if asked.channel:
        channel = node.hub.channels.get(asked.channel)
        clients = () if channel is None else (one.info.client for one in channel.subscriptions)
        return (node.clients[client] for client in clients if client in node.clients)
    return node.clients.values() if _is_asked(node, asked) else ()


def _is_asked(node: Node, asked: Connections) -> bool:
    return asked.edge in (node.edge_id, node.edge_name)


def _entry(node: Node, session: Session, asked: Connections) -> dict[str, Any]:
    """Describe a connection; nothing in it lets anybody in."""
    now = node.clock.monotonic()
    entry: dict[str, Any] = {
        "client": session.client,
        "user": session.user,
        "edge": node.edge_name,
        "edge_id": node.edge_id,
        "connected_at": int((node.clock.wall() - (now - session.opened_at)) * 1000),
        "transport": "websocket",
        "protocol": session.encoder.name,
    }
    if session.name:
        entry["name"] = session.name
    if session.token_session:
        entry["session"] = session.token_session
    if asked.with_channels:
        entry["channels"] = sorted(session.subscriptions)
    return entry
