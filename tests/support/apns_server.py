"""A server that stands for Apple's: real HTTP/2 over TLS, and every way to fail."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import h2.config
import h2.connection
import h2.events

from tests.support.http_server import Server


@dataclass(frozen=True)
class ApnsAsked:
    """A request that came."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass(frozen=True)
class ApnsReply:
    """What it answers.

    `hangs`: nothing. `drops`: it closes the connection. `mute`: an error without a reason.
    """

    status: int = 200
    reason: str = ""
    hangs: bool = False
    drops: bool = False
    mute: bool = False


class ApnsServer(Server):
    """The server. `answer` decides about a request, and may be replaced at any time."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        super().__init__(tls)
        self.answer: Callable[[ApnsAsked], ApnsReply] = lambda _: ApnsReply()
        self.asked: list[ApnsAsked] = []

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        writer.write(connection.data_to_send())
        heads: dict[int, dict[str, str]] = {}
        bodies: dict[int, bytes] = {}
        while data := await reader.read(65_536):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    heads[event.stream_id] = {_text(name): _text(value) for name, value in event.headers}
                    bodies[event.stream_id] = b""
                elif isinstance(event, h2.events.DataReceived):
                    bodies[event.stream_id] += event.data
                    connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    head = heads.pop(event.stream_id)
                    if not self._reply(connection, event.stream_id, head, bodies.pop(event.stream_id)):
                        return
            writer.write(connection.data_to_send())
            await writer.drain()

    def _reply(self, connection: h2.connection.H2Connection, stream: int, head: dict[str, str], body: bytes) -> bool:
        """Answer a request; return whether the connection goes on."""
        asked = ApnsAsked(head[":path"], head, json.loads(body))
        reply = self.answer(asked)
        self.asked.append(asked)
        if reply.hangs or reply.drops:
            return not reply.drops
        headers = [(":status", str(reply.status)), ("apns-id", head["apns-id"])]
        said = json.dumps({"reason": reply.reason}).encode() if reply.reason and not reply.mute else b""
        connection.send_headers(stream, headers, end_stream=not said)
        if said:
            connection.send_data(stream, said, end_stream=True)
        return True


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
