"""`Encoder` for subscriptions with delta, of either encoding."""

from __future__ import annotations

from collections.abc import Callable

from services.edge.domain.connections import Encoder
from services.edge.domain.replies import PublicationPush, Push

WriteDelta = Callable[[PublicationPush, bytes | None], bytes]  # push and base (None: in full) → message


class DeltaEncoder:
    """Encodes publications for subscriptions with delta.

    Other pushes are those of the plain encoder.

    Args:
        plain: Encoder of the same encoding without delta.
        frame: Encodes a message as a WebSocket frame, ready to be written to the socket.
        write: Writes a publication as a message.
        patches: Whether publications are patches of the one before; if not, all are in full.
    """

    delta = None

    def __init__(self, plain: Encoder, frame: Callable[[bytes], bytes], write: WriteDelta, *, patches: bool) -> None:
        self._frame = frame
        self._write = write
        self._patches = patches
        self.name = plain.name
        self.carries_bytes = plain.carries_bytes
        self.keeps_position = plain.keeps_position
        self._plain_encode = plain.encode
        self.encode_joins = plain.encode_joins

    def encode(self, push: Push) -> bytes | None:
        if not isinstance(push, PublicationPush):
            return self._plain_encode(push)
        return self._frame(self._write(push, push.previous if self._patches else None))
