"""Negotiates permessage-deflate in the handshake. RFC 6455, 9.1 and RFC 7692, 7.1.

The first offer that can be met is accepted. One that is malformed, has an unknown parameter or asks for what zlib can't
do is passed over: the connection is opened in any case, if need be without compression.

Both sides are bound to start each message anew (`server_no_context_takeover`, `client_no_context_takeover`), whether
the client offers that or not. Only the server's window is limited if the client asks; the client's window costs the
server nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from websockets.exceptions import InvalidHeader, NegotiationError
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.headers import build_extension, parse_extension

from services.edge.transport.metrics import TransportCounters
from services.edge.transport.websocket.deflate import WINDOW_BITS, FrameCompressor

_NEGOTIATION = ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)


class Compression:
    """The compressors of a public port, and the choice of one for each connection."""

    def __init__(self, min_bytes: int, counters: TransportCounters) -> None:
        self._compressors = {bits: FrameCompressor(bits, min_bytes, counters) for bits in WINDOW_BITS}

    def choose(self, offers: Sequence[str]) -> tuple[str, FrameCompressor] | None:
        """Choose one of the offers, which are the values of Sec-WebSocket-Extensions.

        Returns:
            The value of that header in the response, and the compressor; None: no compression.
        """
        try:
            extensions = parse_extension(", ".join(offers))
        except InvalidHeader:
            return None
        for name, parameters in extensions:
            if name == _NEGOTIATION.name:
                try:
                    accepted, agreed = _NEGOTIATION.process_request_params(parameters, [])
                except NegotiationError:
                    continue
                bits = next(bits for bits in WINDOW_BITS if bits <= agreed.local_max_window_bits)
                return build_extension([(name, accepted)]), self._compressors[bits]
        return None
