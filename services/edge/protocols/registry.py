"""The client protocols of the edge, and the choice of one for each connection."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from services.edge.domain.connections import Choice, Connection, HandshakeInfo, MessageHandler
from services.edge.domain.ends import ClientEnd
from services.edge.domain.session.node import Node
from services.edge.protocols.base import Host, ProtocolEntry
from services.edge.protocols.centrifugal.entry import Centrifugal


class Registry:
    """The client protocols that an edge serves; implements `ClientProtocols`."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._entries: list[ProtocolEntry] = []

    def add(self, entry: ProtocolEntry) -> None:
        """Serve one more protocol.

        Of several that take a connection, the one added first gets it.
        """
        self._entries.append(entry)

    @property
    def close_codes(self) -> frozenset[int]:
        """Close codes of all protocols."""
        return frozenset().union(*(entry.close_codes for entry in self._entries))

    def serves(self, path: str) -> bool:
        """Return whether the path is an endpoint of a protocol."""
        return any(entry.serves(path) for entry in self._entries)

    def choose(self, info: HandshakeInfo) -> Choice | None:
        """Return the choice of the first protocol that takes the connection."""
        for entry in self._entries:
            if entry.serves(info.path) and (choice := entry.choose(info)) is not None:
                return choice._replace(open=partial(self._open, choice.open))
        return None

    def _open(self, open_protocol: Callable[[Connection], MessageHandler], connection: Connection) -> MessageHandler:
        """Make the object of a connection; if that fails, end the session it made."""
        try:
            return open_protocol(connection)
        except BaseException:
            for session in [one for one in self._node.sessions if one.connection is connection]:
                session.closed(ClientEnd.LOST)
            raise


def served_protocols(host: Host, *, websocket_path: str) -> Registry:
    """Return the registry of an edge.

    Args:
        host: The edge.
        websocket_path: Path of the Centrifugal protocol.
    """
    registry = Registry(host.node)
    registry.add(Centrifugal(host, websocket_path))
    return registry
