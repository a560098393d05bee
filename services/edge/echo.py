"""A WebSocket echo server on the edge's transport, with its production settings.

For conformance suites and measurements.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import logging

from services.edge.domain.ports import Connection
from services.edge.transport.options import HandshakeInfo, TransportOptions
from services.edge.transport.server import EdgeServer
from services.edge.transport.websocket.frames import binary_frame, text_frame
from services.shared.process.lifecycle import run
from services.shared.process.logs import setup_logging

logger = logging.getLogger("services.edge.echo")


class Echo:
    """A `MessageHandler` that sends each message back as it came."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection, info: HandshakeInfo) -> None:
        self._connection = connection

    def message(self, payload: bytes, *, binary: bool) -> None:
        """Send a message back, text as text and binary as binary."""
        connection = self._connection
        connection.send_reply((binary_frame if binary else text_frame)(payload))
        if connection.replies_wait:
            connection.pause_reading()

    def websocket_pong(self) -> None:
        """Do nothing: this server sends no pings."""

    def replies_taken(self) -> None:
        """Read from the client again."""
        self._connection.resume_reading()

    def closed(self, *, clean: bool) -> None:
        """Do nothing: there is nothing to release."""


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    defaults = TransportOptions()
    parser = argparse.ArgumentParser(prog="python -m services.edge.echo", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9001, help="0: any free one, named in the log")
    parser.add_argument("--path", default=defaults.websocket_path)
    parser.add_argument("--max-message-bytes", type=int, default=defaults.max_message_bytes)
    parser.add_argument("--max-fragments", type=int, default=defaults.max_fragments)
    parser.add_argument("--max-outbox-bytes", type=int, default=defaults.max_outbox_bytes)
    arguments = parser.parse_args()
    options = dataclasses.replace(
        defaults,
        websocket_path=arguments.path,
        max_message_bytes=arguments.max_message_bytes,
        max_fragments=arguments.max_fragments,
        max_outbox_bytes=arguments.max_outbox_bytes,
    )

    async def serve(stop: asyncio.Event) -> None:
        server = EdgeServer(options, Echo)
        await server.start(arguments.host, arguments.port)
        logger.info("listening", extra={"host": arguments.host, "port": server.port})
        await stop.wait()
        await server.close()

    setup_logging("echo")
    run(serve, "echo")


if __name__ == "__main__":
    main()
