"""A WebSocket connection whose client has agreed to permessage-deflate.

It is a class of its own so that connections without compression pay nothing for it.
"""

from __future__ import annotations

import asyncio

from services.edge.transport.websocket.connection import Port, WebSocketConnection
from services.edge.transport.websocket.deflate import FrameCompressor, longest_compressed
from services.edge.transport.websocket.turns import OPEN


class CompressedConnection(WebSocketConnection):
    """A `WebSocketConnection` that sends compressed frames, and takes them."""

    __slots__ = ("_compressor", "_max_compressed_bytes")

    compresses = True
    # Fewer than without compression: each frame may inflate to the longest message.
    _frames_per_turn = 4

    def __init__(
        self,
        port: Port,
        transport: asyncio.Transport,
        peer: str,
        *,
        max_message_bytes: int,
        compressor: FrameCompressor,
    ) -> None:
        super().__init__(port, transport, peer, max_message_bytes=max_message_bytes)
        self._compressor = compressor
        self._max_compressed_bytes = longest_compressed(max_message_bytes)

    def send(self, frame: bytes) -> None:
        """Queue a push, compressed. Bounds of the outbox count the compressed bytes."""
        if self._state == OPEN:
            self.put(self._compressor.push(frame))

    def send_reply(self, frame: bytes) -> None:
        """Queue a reply, compressed."""
        if self._state == OPEN:
            super().send_reply(self._compressor.reply(frame))
