"""A WebSocket echo server on the edge's transport, with its production settings.

For conformance suites and measurements.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import logging

from services.edge.domain.connections import Choice, Connection, HandshakeInfo
from services.edge.domain.ends import ClientEnd, End, EndReason
from services.edge.transport.options import TransportOptions
from services.edge.transport.server import EdgeServer
from services.edge.transport.websocket.frames import binary_frame, text_frame
from services.shared.process.lifecycle import run
from services.shared.process.logs import setup_logging

logger = logging.getLogger("services.edge.echo")

_CODES = {EndReason.SHUTDOWN: 1001, EndReason.SLOW: 1008, EndReason.TOO_MANY_REQUESTS: 1008}


class Echo:
    """A `MessageHandler` that sends each message back as it came."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def opened(self) -> None:
        """Do nothing: the client speaks first."""

    def message(self, payload: bytes, *, binary: bool) -> None:
        """Send a message back, text as text and binary as binary."""
        connection = self._connection
        connection.send_reply((binary_frame if binary else text_frame)(payload))
        if connection.replies_wait:
            connection.pause_reading()

    def control(self, *, pong: bool) -> None:
        """Do nothing: the transport answers pings."""

    def close_code(self, end: End) -> tuple[int, str]:
        """Return the code of RFC 6455 that comes nearest."""
        return _CODES.get(end.reason, 1011), end.reason.name.lower()

    def replies_taken(self) -> None:
        """Read from the client again."""
        self._connection.resume_reading()

    def closed(self, how: ClientEnd) -> None:
        """Do nothing: there is nothing to release."""


class EchoOnly:
    """`ClientProtocols` with nothing but `Echo`, on one path."""

    close_codes: frozenset[int] = frozenset()

    def __init__(self, path: str) -> None:
        self._path = path

    def serves(self, path: str) -> bool:
        """Return whether it is the path of the echo server."""
        return path == self._path

    def choose(self, info: HandshakeInfo) -> Choice:
        """Echo, whatever is offered."""
        return Choice(Echo)


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    defaults = TransportOptions()
    parser = argparse.ArgumentParser(prog="python -m services.edge.echo", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9001, help="0: any free one, named in the log")
    parser.add_argument("--path", default="/connection/websocket")
    parser.add_argument("--max-message-bytes", type=int, default=defaults.max_message_bytes)
    parser.add_argument("--max-fragments", type=int, default=defaults.max_fragments)
    parser.add_argument("--max-outbox-bytes", type=int, default=defaults.max_outbox_bytes)
    parser.add_argument("--compression", action="store_true", help="permessage-deflate with clients that offer it")
    arguments = parser.parse_args()
    options = dataclasses.replace(
        defaults,
        max_message_bytes=arguments.max_message_bytes,
        max_fragments=arguments.max_fragments,
        max_outbox_bytes=arguments.max_outbox_bytes,
        compression=arguments.compression,
    )

    async def serve(stop: asyncio.Event) -> None:
        server = EdgeServer(options, EchoOnly(arguments.path))
        await server.start(arguments.host, arguments.port)
        logger.info("listening", extra={"host": arguments.host, "port": server.port})
        await stop.wait()
        await server.close()

    setup_logging("echo")
    run(serve, "echo")


if __name__ == "__main__":
    main()
